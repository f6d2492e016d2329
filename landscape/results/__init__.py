"""What is kept: runs, results, how they are found again, and what has changed since."""

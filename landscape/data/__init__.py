"""Data sets, and the contract of a user's own."""

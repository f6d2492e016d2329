"""One HTML page from stored results, which opens anywhere and asks the network for nothing."""

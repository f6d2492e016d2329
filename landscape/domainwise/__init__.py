"""Looking at every domain."""

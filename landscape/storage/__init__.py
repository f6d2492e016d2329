"""Stored numbers as files that may be a stranger's: read without trust, and the form that they must have."""

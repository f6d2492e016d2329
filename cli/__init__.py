"""The command ``landscape``."""

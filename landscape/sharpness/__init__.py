"""Sharpness measures."""

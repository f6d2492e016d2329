"""Slices of the loss surface."""

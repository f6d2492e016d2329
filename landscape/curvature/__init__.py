"""Curvature of the loss at a point."""

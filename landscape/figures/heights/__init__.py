"""Losses over a plane: which planes stand side by side, contours, lit surfaces, surfaces to turn."""

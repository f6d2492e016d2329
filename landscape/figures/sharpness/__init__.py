"""Figures of m-sharpness and its relatives."""

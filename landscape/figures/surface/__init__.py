"""Figures of loss surfaces, paths and planes."""

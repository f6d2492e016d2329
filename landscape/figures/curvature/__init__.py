"""Figures of eigenvalues and spectral densities."""

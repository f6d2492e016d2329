"""Weights as files that are never executed: found, read, fitted to a network, hashed, written."""

from .._deprecated import names_of_before

__getattr__ = names_of_before(__name__)  # it was a module

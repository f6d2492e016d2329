"""Directions in weight space: how each is made, and how words name it."""

from ..._deprecated import names_of_before

__getattr__ = names_of_before(__name__)  # it was a module

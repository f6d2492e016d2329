"""A network at fixed weights with its examples and its loss, and everything that can be asked of the three."""

from .._deprecated import names_of_before

__getattr__ = names_of_before(__name__)  # it was a module

"""Eigenpairs of a symmetric operator by Lanczos, with true residuals, restarts and stored products."""

from ..._deprecated import names_of_before

__getattr__ = names_of_before(__name__)  # it was a module

"""Conformance suites for what users add: an optimizer, a measure, a model. They raise `AssertionError` or return."""

from .measures import check_measure as check_measure
from .models import check_model as check_model
from .optimizers import check_optimizer as check_optimizer

__all__ = ["check_measure", "check_model", "check_optimizer"]

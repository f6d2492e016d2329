"""Operations and layers as people use them; importing the package fills the table."""

from . import algebra, constructions, functions, layers, losses, sequences
from .network import LABELS, OPERATIONS, TOKENS, Operation, wave

__all__ = [
    "LABELS",
    "OPERATIONS",
    "TOKENS",
    "Operation",
    "algebra",
    "constructions",
    "functions",
    "layers",
    "losses",
    "sequences",
    "wave",
]

"""What a command is told: frozen dataclasses that are at once flags, keyword arguments and the record."""

from .analysis import DomainsSpec, HessianSpec, SharpnessSpec, SurfaceSpec
from .base import Spec, key_values
from .problem import ProblemSpec
from .train import TrainSpec

__all__ = [
    "DomainsSpec",
    "HessianSpec",
    "ProblemSpec",
    "SharpnessSpec",
    "Spec",
    "SurfaceSpec",
    "TrainSpec",
    "key_values",
]

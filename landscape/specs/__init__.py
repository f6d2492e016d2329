"""What a command is told: frozen dataclasses that are at once flags, keyword arguments and the record."""

from .analysis import DomainsSpec, HessianSpec, SharpnessSpec
from .base import Spec, key_values
from .problem import ProblemSpec
from .surface import PathSpec, SurfaceSpec
from .train import TrainSpec

__all__ = [
    "DomainsSpec",
    "HessianSpec",
    "PathSpec",
    "ProblemSpec",
    "SharpnessSpec",
    "Spec",
    "SurfaceSpec",
    "TrainSpec",
    "key_values",
]

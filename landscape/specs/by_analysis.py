"""The spec of each analysis of one target."""

from __future__ import annotations

from collections.abc import Mapping

from .analysis import DomainsSpec, HessianSpec, SharpnessSpec
from .base import Spec
from .surface import SurfaceSpec

ANALYSIS_SPECS: Mapping[str, type[Spec]] = {
    "hessian": HessianSpec,
    "sharpness": SharpnessSpec,
    "surface": SurfaceSpec,
    "domains": DomainsSpec,
}

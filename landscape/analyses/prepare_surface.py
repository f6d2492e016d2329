"""What a surface of one target needs: other examples, ranges found before, the files behind its directions."""

from __future__ import annotations

from collections.abc import Sequence

from ..results.target import Target
from ..specs import SurfaceSpec
from ..surfaces.auxiliary_problems import auxiliary_problems, identity_parts
from ..surfaces.evaluate.auto_range import Reach
from .computation import Computation
from .opened import Opened
from .opening import splits_of


def prepare_surface(here: Opened, spec: SurfaceSpec, reaches: Sequence[Reach] | None) -> Computation:
    """The surface of an open target."""
    spec = with_files(spec)
    splits = splits_of(here.target, here.problem_spec, here.problem, trust=here.trust)
    beside = auxiliary_problems(here.problem, spec, splits)
    options = {**beside, "reaches": reaches}
    return here.computation(
        "surface", spec, stores=True, others=identity_parts(spec, beside, reaches), options=options
    )


def with_files(spec: SurfaceSpec) -> SurfaceSpec:
    """The spec with the targets behind ``checkpoint:`` turned into files.

    Raises:
        UsageError: If there is no such target.
    """
    named = [word.partition("checkpoint:") for word in spec.direction]
    found = [f"checkpoint:{Target.find(t).checkpoint}" if at and not b else b + at + t for b, at, t in named]
    return spec.with_(direction=tuple(found))

"""What a measure gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...problem.problem import Problem
from ...specs import SharpnessSpec


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured number. What does not apply is None.

    Attributes:
        value: The number; None where the measure is not defined at this point (``facts`` say why).
        stderr: Its standard error over the ``n_blocks``, draws or examples it is a mean of.
        n_blocks: How many blocks, draws or examples it is a mean of.
        m: Examples per block.
        rho: Radius, in the measure's own unit.
        p: Norm of the ball.
        adaptive: Whether the ball is measured in units of the weights.
        facts: Further fields of the row.
    """

    value: float | None
    stderr: float | None = None
    n_blocks: int | None = None
    m: int | None = None
    rho: float | None = None
    p: str | None = None
    adaptive: bool | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


# A measure looks at a problem, is told the flags and the seed, and gives one or several values.
Measure = Callable[[Problem, SharpnessSpec, int], Iterable[Measurement]]

"""An open target, and the analysis of it by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..data.examples import Examples
from ..problem.problem import Problem
from ..registry import ANALYSES
from ..results.result import Result
from ..results.target import Target
from ..specs import ProblemSpec, Spec
from .computation import Computation


@dataclass(frozen=True)
class Opened:
    """A target that is open: its problem, and the examples of the same domains in the other splits."""

    target: Target
    problem: Problem
    problem_spec: ProblemSpec
    others: dict[str, Examples]
    trust: bool

    def computation(
        self,
        kind: str,
        spec: Spec,
        *,
        others: Sequence[object],
        options: Mapping[str, object] | None = None,
        stores: bool = False,
        **more: Any,
    ) -> Computation:
        """The analysis of this name.

        Args:
            kind: Its name.
            spec: What is computed.
            others: As of `Computation`.
            options: Further keyword arguments of its function.
            stores: Whether the function keeps finished parts in a folder.
            **more: Further fields of `Computation`.
        """
        asked = self.problem_spec
        function = partial(ANALYSES.load(kind), self.problem, spec, seed=asked.seed, per_domain=asked.per_domain)

        def compute(folder: Path) -> Result:
            found: Result = function(**(options or {}), **({"store": folder} if stores else {}))
            return found

        return Computation(kind, [self.target], self.problem, asked, spec, compute, others, **more)

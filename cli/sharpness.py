"""m-sharpness: how much the loss of each block of m examples rises at the block's own ascent step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec, SharpnessSpec

from .analysis import run_analysis
from .options import AnalysisCommon
from .screen import Screen, number


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape sharpness``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: SharpnessSpec = field(default_factory=SharpnessSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: AnalysisCommon = field(default_factory=AnalysisCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Measure, print a row per m and radius."""
    a = arguments
    return run_analysis("sharpness", a.targets, a.problem, a.spec, a.common, screen, show)


def show(result: Any, screen: Screen) -> None:
    """Print the measures of one result."""
    groups = [("", result["measures"])] + [(n, d["measures"]) for n, d in (result["domains"] or {}).items()]
    rows = [
        [
            name or "all",
            m["m"],
            number(m["rho"]),
            m["p"] + (" adaptive" if m["adaptive"] else ""),
            number(m["value"]),
            number(m["stderr"], 2),
            m["n_blocks"],
        ]
        for name, measures in groups
        for m in measures
    ]
    screen.table(["domain", "m", "rho", "p", "m-sharpness", "std. error", "blocks"], rows)

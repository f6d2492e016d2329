"""Loss and accuracy of every domain, seen and unseen, their spread, and how the domains' gradients agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from landscape.specs import DomainsSpec, ProblemSpec

from .analysis import run_analysis
from .options import AnalysisCommon
from .screen import Screen, number, percent


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape domains``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: AnalysisCommon = field(default_factory=AnalysisCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Compute, print a row per domain."""
    a = arguments
    return run_analysis("domains", a.targets, a.problem, DomainsSpec(), a.common, screen, show)


def show(result: Any, screen: Screen) -> None:
    """Print the domains of one result."""
    r = result.record
    names = r["gradient_cosine"]["names"]
    matrix = r["gradient_cosine"]["matrix"]
    rows = []
    for i, (name, d) in enumerate(r["domains"].items()):
        others = [c for j, c in enumerate(matrix[i]) if j != i and c is not None]
        lowest = number(min(others), 2) if others else "–"
        rows.append(
            [
                name,
                d["n"],
                "yes" if d["seen"] else "no",
                number(d["loss"]),
                percent(d["accuracy"]),
                number(d["gradient_norm"], 3),
                lowest,
            ]
        )
    screen.table(["domain", "n", "seen", "loss", "accuracy", "|gradient|", "lowest cosine"], rows)
    screen.line(
        f"seen domains: mean loss {number(r['loss_mean'])}, variance {number(r['loss_variance'])} (ddof 0), "
        f"range {number(r['loss_range'])}; "
        f"unseen: mean loss {number(r['unseen_loss_mean'])}"
    )
    if len(names) > 1:
        pairs = [matrix[i][j] for i in range(len(names)) for j in range(i) if matrix[i][j] is not None]
        screen.line(
            f"gradients of {sum(c < 0 for c in pairs)} of {len(pairs)} pairs of domains conflict (negative cosine)"
        )

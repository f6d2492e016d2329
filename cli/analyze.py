"""The standard set on every target: eigenvalues, m-sharpness, 1-D and 2-D slices, domains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec

from .analysis import expand, must_exist
from .drawing import check_kinds, drawn
from .options import DrawnCommon
from .screen import Screen
from .tables import show_summary


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape analyze``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: DrawnCommon = field(default_factory=DrawnCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Run the standard set, print the comparison."""
    check_kinds(arguments.common.figure, "--figure")
    results = analyzed(arguments, screen)
    show_summary(results, screen)
    outputs = [str(r.path) for r in results if r.path]
    screen.paths("result", outputs)
    return drawn({"command": "analyze", "outputs": outputs}, results, arguments.common, screen)


def analyzed(arguments: Any, screen: Screen) -> list[Any]:
    """The standard set of every target, and the training course of every run among them."""
    must_exist(arguments.targets)
    from landscape.analyses.analyze import standard_set
    from landscape.base.progress import report
    from landscape.results.history import training_result

    common = arguments.common
    targets = expand(arguments.targets, common.checkpoints)
    results, runs = [], {}
    for i, target in enumerate(targets):
        report("targets", i, len(targets), target.run.path.name if target.run else target.checkpoint.name)
        results += standard_set(target, arguments.problem, out=common.out, force=common.force, trust=common.trust_run)
        if target.run is not None:
            runs[target.run.path] = target.run
    report("targets", len(targets), len(targets))
    return results + [training_result(r) for r in runs.values()]

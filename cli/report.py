"""One self-contained HTML page on the targets or stored results; analyses that are missing are run first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec

from .analysis import expand, must_exist
from .analyze import analyzed
from .options import AnalysisCommon
from .plot import collect, holds_results, stale_objects
from .progress import duration
from .screen import Screen


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Flags about the page."""

    title: str = "Loss landscapes compared"
    """Heading of the page."""
    page: Path = Path("report.html")
    """The file to write."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape report``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files; or stored results (.nc) and folders of them, which are
    shown as they are."""
    options: ReportOptions = field(default_factory=ReportOptions)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: AnalysisCommon = field(default_factory=AnalysisCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Analyse what is missing, write the page, print its path."""
    out = arguments.common.out
    if out is not None and out.suffix in (".html", ".htm"):  # a page by its name, not a folder
        options = replace(arguments.options, page=out)
        arguments = replace(arguments, options=options, common=replace(arguments.common, out=None))
    from landscape.base.files import remove_stale_temporaries
    from landscape.report.report import write_report
    from landscape.results.staleness import one_look
    from landscape.runtime.distributed import is_main_process

    stored = tuple(t for t in arguments.targets if holds_results(t))
    others = tuple(t for t in arguments.targets if t not in stored)
    results = collect(stored) if stored else []
    said = {}
    if others or not stored:
        said = _forecast(replace(arguments, targets=others), screen)
        results = results + analyzed(replace(arguments, targets=others), screen)
    page = arguments.options.page.absolute()
    if is_main_process():
        remove_stale_temporaries(page.parent)
        write_report(results, page, title=arguments.options.title)
    screen.path("report", page)
    with one_look():
        return {"command": "report", "outputs": [str(page)], "changed": stale_objects(results), **said}


def _forecast(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Say what will be analysed, and about how long that takes."""
    must_exist(arguments.targets)
    from landscape.analyses.forecast import forecast

    common = arguments.common
    targets = expand(arguments.targets, common.checkpoints)
    found = forecast(targets, arguments.problem, out=common.out, force=common.force, trust=common.trust_run)
    each = "eigenvalues, m-sharpness, a surface, slices and domains"
    of = f"{found.targets} targets" if found.targets != 1 else "one target"
    if not found.missing:
        screen.line(f"{each} of {of}: all are stored")
    else:
        left = f"{found.missing} of {found.analyses} are computed now, which takes about {duration(found.seconds)}"
        screen.line(f"{each} of {of}: {left}")
    return {"forecast": {"analyses": found.analyses, "missing": found.missing, "seconds": found.seconds}}

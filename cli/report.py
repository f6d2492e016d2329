"""One self-contained HTML page on the targets or stored results; analyses that are missing are run first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec

from .analyze import analyzed
from .options import AnalysisCommon
from .plot import collect, holds_results, stale_objects
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
    if others or not stored:
        results = results + analyzed(replace(arguments, targets=others), screen)
    page = arguments.options.page.absolute()
    if is_main_process():
        remove_stale_temporaries(page.parent)
        write_report(results, page, title=arguments.options.title)
    screen.path("report", page)
    with one_look():
        return {"command": "report", "outputs": [str(page)], "changed": stale_objects(results)}

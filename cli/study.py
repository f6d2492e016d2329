"""Studies: plan, run, status, correlate, report of an experiment file (.toml, or a name of `list studies`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from landscape.base.errors import NumericalError, UsageError

from .options import Common
from .progress import duration
from .screen import MOST_ROWS, Screen, number

if TYPE_CHECKING:
    from landscape.results.result import Result
    from landscape.specs.study import Experiment
    from landscape.study.folder import StudyFolder

Action = Literal["plan", "run", "status", "correlate", "report"]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study is done."""

    size: Literal["full", "tiny"] = "full"
    """The experiment as it is, or with the changes of its [tiny]."""
    out: Path | None = None
    """Folder of the study (default: studies/NAME, or studies/NAME-tiny)."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """part.key=value that overrides the file, like train.data=domains:/data/PACS (a TOML value, else text)."""
    workers: int | None = None
    """Local worker processes, which share the threads (default: this process alone)."""
    scheduler: str | None = None
    """Address of a dask scheduler whose workers do the jobs, tcp://HOST:PORT."""
    retry: bool = False
    """Do again what failed."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape study``."""

    action: Positional[Action]
    """plan: what would run, and what it costs; run: do what is not done; status: how far it is; correlate: the
    statistics; report: page, tables and figures."""
    experiment: Positional[str]
    """Experiment file, or the name of a shipped one (see `landscape list studies`)."""
    options: StudyOptions = field(default_factory=StudyOptions)
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Do one of the actions."""
    from landscape.specs.study import Experiment
    from landscape.study.shipped import find

    options = arguments.options
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"workers={options.workers}", "--workers", "expected at least 1")
    if options.workers is not None and options.scheduler is not None:
        raise UsageError("--workers and --scheduler contradict each other", "--scheduler", "give one of them")
    experiment = Experiment.read(find(arguments.experiment), size=options.size, changes=options.set)
    from landscape.study.study import default_folder

    folder = default_folder(experiment, options.out)
    screen.line(experiment.title)
    actions = {"plan": _plan, "run": _run, "status": _status, "correlate": _correlate, "report": _report}
    found = actions[arguments.action](experiment, folder, options, screen)
    return {"command": "study", "action": arguments.action, **found}


def _plan(experiment: Experiment, folder: StudyFolder, options: StudyOptions, screen: Screen) -> dict[str, object]:
    from landscape.study.cost import estimate
    from landscape.study.statistics.comparison import undecidable
    from landscape.study.study import status

    doubts = undecidable(experiment.cells, experiment.report)  # before anything is timed: it may be refused
    now = status(experiment, folder)
    cost = estimate(experiment, folder, workers=options.workers)
    _show_status(now, screen)
    planned = []
    for analysis in experiment.analyses:
        seeds = len(analysis.seeds or experiment.seeds.measurement)
        of = f"{analysis.models} models" if analysis.models else "every model"
        what = " ".join(getattr(analysis.spec, "measure", ()))
        planned.append(f"of {of}, {seeds}x: {analysis.kind} {what} {analysis.label}".rstrip())
    screen.lines(planned)
    screen.line(_left_to_do(cost, options.workers or 1))
    cost["notes"] += doubts
    screen.lines(cost["notes"])
    models = [{"name": c.name, "arm": c.arm, "axes": c.axes, "repetition": c.repetition} for c in experiment.cells]
    return {"outputs": [], "status": now, "cost": cost, "models": models}


def _left_to_do(cost: dict[str, Any], processes: int) -> str:
    """The time that a study still takes, in words."""
    if cost["wall_seconds"] is None:
        return "left to do: how much is not known, no probe came through"
    bound = "at most " if cost.get("upper_bound") else "about "
    total, training, analysis = (duration(cost[f"{k}_seconds"]) for k in ("wall", "training", "analysis"))
    parts = f"{total} ({training} of training, {analysis} of analysis)"
    return f"left to do: {bound}{parts} on {processes} process(es), from {len(cost['probes'])} probe(s)"


def _run(experiment: Experiment, folder: StudyFolder, options: StudyOptions, screen: Screen) -> dict[str, object]:
    from landscape.study.study import run

    now = run(experiment, folder, workers=options.workers, scheduler=options.scheduler, retry=options.retry)
    _show_status(now, screen)
    screen.path("study", folder.path)
    if not now["done"]:
        screen.failure = NumericalError("no model came through", str(folder.path), "see the reasons above")
    return {"outputs": [str(folder.path)], "status": now}


def _status(experiment: Experiment, folder: StudyFolder, options: StudyOptions, screen: Screen) -> dict[str, object]:
    from landscape.study.study import status

    del options
    now = status(experiment, folder)
    _show_status(now, screen)
    return {"outputs": [], "status": now}


def _correlate(
    experiment: Experiment, folder: StudyFolder, options: StudyOptions, screen: Screen
) -> dict[str, object]:
    from landscape.study.study import statistics

    del options
    result = statistics(experiment, folder)
    _show_statistics(result, screen)
    screen.path("result", result.path)
    return {"outputs": [str(result.path)], **result.to_json()}


def _report(experiment: Experiment, folder: StudyFolder, options: StudyOptions, screen: Screen) -> dict[str, object]:
    from landscape.report.study import write_study_report
    from landscape.study.study import statistics

    del options
    result = statistics(experiment, folder)
    outputs = write_study_report(result, folder.path / "report")
    _show_statistics(result, screen)
    for path in outputs:
        screen.path("report", path)
    return {"outputs": [str(p) for p in outputs], "result": str(result.path)}


def _show_status(now: dict[str, Any], screen: Screen) -> None:
    states = ("done", "failed", "begun", "to do")
    rows = [[arm, *(counts.get(s, 0) for s in states)] for arm, counts in now["arms"].items()]
    every = ["all", *(now[s] for s in states)]
    if len(rows) > 1:
        rows = [*rows, every] if len(rows) < MOST_ROWS else [every, *rows]  # a long table is cut at its end
    screen.table(["models", *states], rows)
    screen.lines([f"failed: {f['model']}, {f['what']}: {f['reason']}" for f in now["failures"]])
    if now["changed"]:
        screen.line(f"made of other code than now, and done again by `run`: {len(now['changed'])} models")
    if now["seconds"]:
        screen.line(f"spent: {duration(now['seconds'])}")


def _show_statistics(result: Result, screen: Screen) -> None:
    from landscape.study.claims import numbers
    from landscape.study.findings import findings
    from landscape.study.verdicts import OUTCOME_WORDS

    record = result.record
    asked = [[r["says"] + (f" ({r['at']})" if r["at"] else ""), r["answer"] + numbers(r)] for r in record["claims"]]
    if asked:
        screen.table(["claim", "answer"], asked)
    for outcome in record["outcomes"]:
        rows = [r for r in record["correlations"] if r["outcome"] == outcome["outcome"]]
        title = f"against {OUTCOME_WORDS.get(outcome['outcome'], outcome['outcome'])}, {outcome['n']} models"
        if outcome["note"]:
            screen.line(f"{title}: {outcome['note']}")
            continue
        band = number(outcome["null_band"], 2)
        if outcome["reliability"] is not None:
            title += f", {100 * max(outcome['reliability'], 0):.0f} % of its variance between configurations"
        title += f"; of so many independent ones 95 % of unrelated rankings stay below |tau| = {band}"
        table = [
            [
                r["measure"],
                number(r["tau"], 2),
                "–" if r["tau_low"] is None else f"{r['tau_low']:+.2f} to {r['tau_high']:+.2f}",
                number(r["psi"], 2),
                number(r["partial_rank"], 2),
                number(r["information"], 2),
                "–" if r["p_holm"] is None else f"{r['p_holm']:.2g}",
                r["verdict"],
            ]
            for r in rows
        ]
        head = ["measure", "tau", "95 % interval", "Psi", "partial", "K", "p (Holm)", "verdict"]
        screen.table(head, table, title)
    screen.lines(list(findings(record)))

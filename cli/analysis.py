"""What all analysis commands share: targets in, stored results and tables out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.base.errors import UsageError
from landscape.specs import ProblemSpec, Spec

from .drawing import check_kinds, drawn
from .options import DrawnCommon
from .screen import MOST_BLOCKS, Screen, number, percent

if TYPE_CHECKING:
    from landscape.results.result import Result

Show = Callable[[Any, Screen], None]


def run_analysis(
    kind: str,
    targets: tuple[str, ...],
    problem: ProblemSpec,
    spec: Spec,
    common: DrawnCommon,
    screen: Screen,
    show: Show,
) -> dict[str, Any]:
    """Run one analysis on every target; a target whose eigenvalues did not converge is shown, then reported.

    Returns:
        The result's object, or ``{"results": [...]}`` for several targets.
    """
    must_exist(targets)
    from landscape.analyses.analyze import analyze
    from landscape.base.progress import report
    from landscape.curvature.hessian import NotConverged

    check_kinds(common.figure, "--figure")
    objects, results = [], []
    found = expand(targets, common.checkpoints)
    for i, target in enumerate(found):
        if len(found) > MOST_BLOCKS:
            report("targets", i, len(found))
        try:
            result = analyze(kind, target, problem, spec, out=common.out, force=common.force, trust=common.trust_run)
        except NotConverged as error:
            result, screen.failure = error.result, error
        if i < MOST_BLOCKS:
            screen.finish()
            screen.path("target", result["target"])
            screen.line(facts(result))
            show(result, screen)
            screen.path("result", result.path)
            screen.line()
        results.append(result)
        objects.append(result.to_json())
    screen.left_out(len(found) - MOST_BLOCKS, "targets")
    one = len(objects) == 1 and common.checkpoints == "last"
    return drawn(objects[0] if one else {"results": objects}, results, common, screen)


def must_exist(targets: Iterable[str]) -> None:
    """Say at once, before anything heavy is imported, that a target is not there.

    Raises:
        UsageError: If there is neither the path nor that in front of an ``@``.
    """
    for text in targets:
        if not Path(text).exists() and not Path(text.rpartition("@")[0] or text).exists():
            raise UsageError("there is no such run or checkpoint", text, "name a run folder or a checkpoint file")


def expand(targets: Iterable[str], checkpoints: str) -> list[Any]:
    """The checkpoints that the targets name.

    Raises:
        UsageError: If there is no target.
    """
    from landscape.results.run import Run
    from landscape.results.target import Target

    found = []
    for text in targets:
        if checkpoints == "all" and Run.is_run(text):
            run = Run(text)
            found += [Target(path, run) for path in run.checkpoints().values()] or [Target.find(text)]
        else:
            found.append(Target.find(text))
    if not found:
        raise UsageError("no target", "command line", "name a run folder or a checkpoint file")
    return found


def facts(result: Result) -> str:
    """One line on what was looked at, and one on whatever about it is hardly meant."""
    r = result.record
    loss, share = r.get("plain_loss", r.get("loss")), r.get("plain_accuracy", r.get("accuracy"))
    accuracy = f", accuracy {percent(share)}" if share is not None else ""
    cautions = "".join(f"\nCAUTION: {c}" for c in r.get("cautions") or ())
    over = f" in batches of {r['micro_batch']}" if r.get("loss_over") == "batch" else ""
    what = f"{r['n_examples']} examples{over}"
    if r.get("objective"):
        what = f"{r['n_examples']} ready-made batches that count {number(r['n_counted'], 6)}"
    if r.get("weight_decay"):
        accuracy += f", weight decay {r['weight_decay']:g} in it"
    return (
        f"loss {number(loss, 5)}{accuracy} on {what} "
        f"({r['split']}), {r['n_parameters']:,} parameters, {r['dtype']} on {r['device']}{cautions}"
    )

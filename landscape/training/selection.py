"""Which checkpoint of a run is meant by ``RUN@selected``, by DomainBed's three rules, always named.

Training-domain validation and the oracle look at single runs; leave-one-domain-out compares runs with further
domains held out (facebookresearch/DomainBed, model_selection.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..base.errors import UsageError
from ..results.run import Run


def select_checkpoint(run: Run, rule: str) -> dict[str, Any]:
    """The checkpoint of ``run`` that ``rule`` prefers.

    Args:
        run: A finished run.
        rule: ``training-domain``: the highest mean accuracy over the seen domains of the validation split (runs of
            before set none aside: their test split, and it says so); ``oracle``: the highest accuracy on the unseen
            domains, which no honest comparison may use to choose.

    Returns:
        ``rule``, ``step``, ``score`` and ``of`` (what the score is).

    Raises:
        UsageError: If the run has no such accuracy.
    """
    scores: dict[int, float] = {}
    what = ""
    for step, evaluation in _evaluations(run).items():
        if rule == "oracle":
            score, what = evaluation.get("unseen_accuracy"), "unseen accuracy"
        else:
            score, what = _seen_accuracy(evaluation)
        if score is not None:
            scores[step] = score
    if not scores:
        raise UsageError(
            f"no checkpoint has an accuracy to select by {rule}",
            str(run.path),
            "use data with a val or test split, or `select='last'`",
        )
    step = max(scores, key=lambda s: (scores[s], -s))
    return {"rule": rule, "step": step, "score": scores[step], "of": what}


def select_across_runs(runs: Iterable[Run]) -> None:
    """Leave-one-domain-out; the choice is written into each run's record as ``selected``.

    For a run with one unseen domain T it is the step with the highest accuracy on V, averaged over the runs that
    hold out T and V, V any other domain.
    """
    by_holdout: dict[tuple[str, frozenset[str]], Run] = {}
    for run in runs:
        by_holdout[run.path.name, frozenset(run.spec["holdout"])] = run
    for (name, held), run in by_holdout.items():
        if len(held) != 1:
            continue
        (target,) = held
        inner = {
            next(iter(other - held)): r
            for (n, other), r in by_holdout.items()
            if n == name and len(other) == 2 and held < other
        }
        scores: dict[int, list[float]] = {}
        for validation, other_run in inner.items():
            for step, evaluation in _evaluations(other_run).items():
                accuracies = [
                    v
                    for k, v in evaluation["domains"][validation].items()
                    if k.endswith("_accuracy") and v is not None
                ]
                if accuracies:
                    scores.setdefault(step, []).append(sum(accuracies) / len(accuracies))
        mine = _evaluations(run)
        means = {s: sum(v) / len(v) for s, v in scores.items() if len(v) == len(inner) and s in mine}
        if not means:
            raise UsageError(
                "the runs have no step in common",
                str(run.path),
                "with `epochs=` and unequal domains they differ: give `steps=` and `save_every='Nsteps'`",
            )
        step = max(means, key=lambda s: (means[s], -s))
        with run.writing():
            run.update(
                selected={
                    "rule": "leave-one-domain-out",
                    "step": step,
                    "score": means[step],
                    "of": f"accuracy on each other domain while it and {target} are held out",
                }
            )


def _evaluations(run: Run) -> dict[int, Mapping[str, Any]]:
    saved = run.checkpoints()
    lines = run.metrics()
    return {line["step"]: line["evaluation"] for line in lines if line.get("evaluation") and line["step"] in saved}


def _seen_accuracy(evaluation: Mapping[str, Any]) -> tuple[float | None, str]:
    split = "val" if evaluation.get("val_accuracy") is not None else "test"
    what = f"{split} accuracy, mean over the seen domains"
    domains = evaluation.get("domains") or {}
    found = [d.get(f"{split}_accuracy") for d in domains.values() if d["seen"]]
    known = [a for a in found if a is not None]
    return (sum(known) / len(known) if known else evaluation.get(f"{split}_accuracy")), what

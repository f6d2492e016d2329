"""Relative error reduction against plain training, a dot per seed (SAM, arXiv 2010.01412, figure 1 left)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...base.errors import UsageError
from ...results.result import Result
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import ERM, LOOKS, looks
from ..draw.style import Style
from ..draw.text import safe, wrapped
from ..draw.words import domain, method
from .finals import ACCURACIES, Ended, Final, finals


class _Paired(Ended):
    """Trainings of which at least one has plain training with the same seed and data beside it."""

    def of(self, results: Sequence[Result], figure: str) -> list[Result]:
        fit = super().of(results, figure)
        if not _reductions(*finals(fit))[0]:
            raise UsageError(
                "nothing to draw: no method has plain training with the same seed and data beside it",
                "",
                self.command,
            )
        return fit


WANTS = _Paired("training", "train runs with `landscape train --optimizer sgd sam`", "", frozenset())


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw by how many per cent each method lowers the error of plain training with the same seed.

    What to read: dots right of 0 are seeds in which the method wins. A row is a data set, or a set of held-out
    domains. A translucent dot is one seed, the line its row's mean; dots on both sides of 0 mean that the seeds
    disagree. Relative reductions look large where the error is small: the errors themselves stand in the CSV.
    """
    every, quantity = finals(results)
    rows, left_out = _reductions(every, quantity)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    methods = looks(str(row["label"]) for row in rows)
    names = [wrapped(safe(domain(t), 60), 0.28 * style.width, style.small) for t in tasks]
    each = max(2.5, 1.1 * len(methods), *(1.3 * (n.count("\n") + 1) for n in names))
    figure = style.figure((6 + len(tasks) * each) * style.em)
    axes = figure.subplots()
    step = 0.8 / len(methods)
    handles: dict[str, Any] = {}
    for i, (label, look) in enumerate(methods.items()):
        for j, task in enumerate(tasks):
            values = np.array([r["error_reduction"] for r in rows if (r["label"], r["task"]) == (label, task)])
            values = values[np.isfinite(values)]
            at = j + (i - (len(methods) - 1) / 2) * step
            dots: Any = {"marker": look.marker, "s": (0.55 * style.text) ** 2, "alpha": 0.5, "lw": 0}
            handles[label] = axes.scatter(values, [at] * len(values), color=look.colour, **dots)
            if len(values):
                axes.vlines(values.mean(), at - 0.4 * step, at + 0.4 * step, color=look.colour, lw=1.4)
    axes.axvline(0, color="black", lw=0.7)
    axes.set_yticks(range(len(tasks)), names)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    what = "unseen domains" if quantity == "unseen_accuracy" else "test data"
    axes.set_xlabel(f"error reduction on {what} (%)")
    style.legend(figure, list(handles.values()), [safe(method(k)) for k in handles])
    notes = ["dot: one seed, against plain training with that seed; line: mean over seeds"]
    if left_out:
        notes.append(f"{left_out} run(s) without plain training of the same seed and data are not drawn")
    caption = (
        "By how many per cent each method lowers the error of plain training with the same seed and data, a row per "
        "set of data or of held-out domains. A translucent marker is one seed, a line the mean over seeds; right of "
        f"0 the method wins. {LOOKS}"
    )
    return Drawing(figure, rows, tuple(notes), caption=caption)


def _reductions(every: Sequence[Final], quantity: str) -> tuple[list[Row], int]:
    """A row per run of a method that has its baseline, and how many have none."""
    scored = [one for one in every if quantity in one.accuracy]
    base = {(o.task, o.seed): o for label in reversed(ERM) for o in scored if o.label == label}
    rows: list[Row] = []
    left_out = 0
    for one in scored:
        if one.label in ERM:
            continue
        plain = base.get((one.task, one.seed))
        if plain is None:
            left_out += 1
            continue
        error, its = 1 - one.accuracy[quantity], 1 - plain.accuracy[quantity]
        fixed: Row = {"task": one.task, "label": one.label, "seed": one.seed, "rho": one.rho}
        rows.append(
            {
                **fixed,
                "quantity": ACCURACIES[quantity],
                "baseline": plain.label,
                "error": error,
                "baseline_error": its,
                "error_reduction": 100 * (its - error) / its if its else float("nan"),
            }
        )
    return rows, left_out

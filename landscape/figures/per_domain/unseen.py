"""Accuracy on each domain that was held out in turn, a group of markers per domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...results.result import Result
from ..course.finals import ACCURACIES, Ended, finals
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import domain, method


class _HeldOut(Ended):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and (result.record.get("final") or {}).get("unseen_accuracy") is not None

    def tells(self, results: Sequence[Result]) -> bool:
        return len({(r.label, tuple(r.record.get("holdout") or ())) for r in results}) > 1


WANTS = _HeldOut("training", "train runs with `landscape train --leave-one-out`", "", frozenset())


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the accuracy at the end of training on the domains that were held out.

    What to read: how much harder one domain is than another when it is not trained on (usually far more than methods
    differ), and whether the same method leads on all of them. A marker is the mean over seeds, its line reaches from
    the lowest to the highest seed; a marker without a line is one seed and cannot tell methods apart.
    """
    every, _ = finals(results)
    quantity = "unseen_accuracy"
    every = [one for one in every if quantity in one.accuracy]
    tasks = list(dict.fromkeys(one.task for one in sorted(every, key=lambda o: o.holdout)))
    methods = looks(one.label for one in every)
    figure = style.figure(max(style.width / 2.6, 19 * style.em))
    axes = figure.subplots()
    step = 0.7 / len(methods)
    handles = {}
    table: list[Row] = []
    for i, (label, look) in enumerate(methods.items()):
        for j, task in enumerate(tasks):
            mine = [one for one in every if (one.label, one.task) == (label, task)]
            if not mine:
                continue
            values = 100 * np.array([one.accuracy[quantity] for one in mine])
            at = j + (i - (len(methods) - 1) / 2) * step
            axes.vlines(at, values.min(), values.max(), color=look.colour, lw=0.9)
            (handles[label],) = axes.plot(at, values.mean(), look.marker, color=look.colour)
            table += [
                {"task": task, "label": label, "seed": one.seed, "rho": one.rho, quantity: one.accuracy[quantity]}
                for one in mine
            ]
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="domain held out", ylabel=ACCURACIES[quantity])
    style.names_below(axes, list(map(domain, tasks)))
    counts = {k: len({one.seed for one in every if one.label == k}) for k in handles}
    texts = [f"{safe(method(k))} ({n} seed{'s' if n > 1 else ''})" for k, n in counts.items()]
    style.legend(figure, list(handles.values()), texts)
    caption = (
        "Accuracy at the end of training on the domains that were held out. A marker is the mean over seeds, its "
        f"line reaches from the lowest to the highest seed; a marker without a line is one seed. {LOOKS}"
    )
    return Drawing(figure, table, ("marker: mean over seeds, line: lowest to highest seed",), caption=caption)

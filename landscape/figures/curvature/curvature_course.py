"""The largest and fifth eigenvalue and their ratio over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.series import runs_apart
from ..draw.style import Style, hide_unused
from ..draw.text import safe
from ..draw.ticks import logarithmic
from ..draw.words import method

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Course(Want):
    def of(self, results: Sequence[Result], figure: str) -> list[Result]:
        fit = super().of(results, figure)
        places = {(r.label, _step(r)) for r in runs_apart(fit)}
        return fit if len(places) > len({label for label, _ in places}) else super().of([], figure)


WANTS = _Course(
    "hessian", "compute them with `landscape hessian RUN --checkpoints all`", "eigenvalues", frozenset({"rank"})
)
QUANTITIES = {"lambda_1": "λ₁", "lambda_5": "λ₅", "ratio": "λ₁ / λ₅"}


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw lambda_1, lambda_5 and their ratio over the steps of training, one line per optimizer.

    What to read: whether curvature rises until the edge of stability (dashed: 2/eta of the run, without momentum),
    and whether a method lowers the whole top of the spectrum or the largest eigenvalue alone (the ratio). A line is
    the mean over seeds, a dot one checkpoint of one seed; a cross did not converge.
    """
    lines: dict[str, dict[int, list[Result]]] = {}
    for r in runs_apart(results):
        lines.setdefault(r.label, {}).setdefault(_step(r), []).append(r)
    across = style.across(len(QUANTITIES), 13)
    stacked = -(-len(QUANTITIES) // across)
    figure = style.figure((13 * stacked + 3.5) * style.em)
    axes = figure.subplots(stacked, across, squeeze=False).ravel()
    hide_unused(axes, len(QUANTITIES), across)
    for panel, title in zip(axes, QUANTITIES.values(), strict=False):
        panel.set(xlabel="step", ylabel=title, yscale="log")
        logarithmic(panel.yaxis)
    rows: list[Row] = []
    handles = []
    for label, look in looks(lines).items():
        for panel, quantity in zip(axes, QUANTITIES, strict=False):
            found = [
                (step, _value(r, quantity), bool(r.data["converged"].values.all()))
                for step, members in sorted(lines[label].items())
                for r in members
            ]
            found = [f for f in found if np.isfinite(f[1])]
            if not found:
                continue
            steps = sorted({f[0] for f in found})
            means = [float(np.mean([v for s, v, _ in found if s == step])) for step in steps]
            (line,) = panel.plot(steps, means, color=look.colour, lw=1, ls=look.dash)
            for step, value, sure in found:
                panel.plot(step, value, look.marker if sure else "x", color=look.colour, ms=0.3 * style.text)
                rows.append({"label": label, "step": step, "quantity": quantity, "value": value, "converged": sure})
            if quantity == "lambda_1":
                handles.append((line, label))
                _edge(panel, [r for members in lines[label].values() for r in members], look.colour)
    style.legend(figure, [h for h, _ in handles], [safe(method(label)) for _, label in handles])
    caption = (
        "The largest eigenvalue, the fifth, and their ratio over training. A line is the mean over seeds, a marker "
        "one checkpoint of one seed, a cross one that did not converge; thin dashes are the optimizer's own edge of "
        f"stability, where it is known. {LOOKS}"
    )
    return Drawing(figure, rows, ("line: mean over seeds, dot: one seed",), caption=caption)


def _step(result: Result) -> int:
    return int((result.record.get("run") or {}).get("step") or 0)


def _value(result: Result, quantity: str) -> float:
    values = result.data["eigenvalues"].values.astype(float)
    first, fifth = values[0], values[4] if len(values) >= 5 else np.nan
    value = {"lambda_1": first, "lambda_5": fifth, "ratio": first / fifth if fifth > 0 else np.nan}[quantity]
    return float(value) if value > 0 else float("nan")


def _edge(panel: Axes, members: Sequence[Result], colour: str) -> None:
    """The optimizer's own edge at every checkpoint, where it is known.

    It hardly stretches the axis, for it has no bound where the learning rate ends.
    """
    found = {_step(r): (r.record.get("edges_of_stability") or {}).get("own") for r in members}
    edges = {step: edge for step, edge in found.items() if edge is not None}
    limits = panel.get_ylim()
    if edges:
        panel.plot(sorted(edges), [edges[s] for s in sorted(edges)], color=colour, lw=0.6, ls="--")
        panel.set_ylim(limits[0], max(limits[1], 1.2 * min(edges.values())))

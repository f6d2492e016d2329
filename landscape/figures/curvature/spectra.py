"""Spectral densities of the Hessian: rows optimizers, columns checkpoints (arXiv 2010.01412, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import looks, name
from ..draw.style import Style
from ..draw.text import safe

WANTS = Want(
    "hessian",
    "compute them with `landscape hessian RUN --checkpoints all --density`",
    "density",
    frozenset({"curvature"}),
)
_MOST_COLUMNS = 4


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the density of the eigenvalues, a panel per optimizer (rows) and checkpoint (columns).

    What to read: how far to the right eigenvalues reach, and how that moves over training and between optimizers;
    all panels share both axes. The density is logarithmic: a single outlier has the weight of one parameter. The
    band is one standard error over probes. Each panel names lambda_1 and, where five were computed, lambda_1 /
    lambda_5; a dotted line marks each computed eigenvalue. What lies left of zero is negative curvature.
    """
    table, notes = _panels(results)
    labels = list(looks(table))
    columns = sorted({place for row in table.values() for place in row})
    if len(columns) > _MOST_COLUMNS:
        kept = {columns[round(i)] for i in np.linspace(0, len(columns) - 1, _MOST_COLUMNS)}
        notes.append(f"{len(columns) - len(kept)} of {len(columns)} checkpoints are not drawn")
        columns = [c for c in columns if c in kept]
    figure = style.figure(height=0.4 + style.width / len(columns) * 0.7 * len(labels))
    axes = figure.subplots(len(labels), len(columns), sharex=True, sharey=True, squeeze=False)
    rows: list[Row] = []
    floor = _floor([r for row in table.values() for r in row.values()])
    for i, label in enumerate(labels):
        colour = looks(table)[label].colour
        for j, place in enumerate(columns):
            panel = axes[i][j]
            if place not in table[label]:
                panel.set_axis_off()
                continue
            rows += _panel(panel, table[label][place], label, place, colour, floor, style)
        axes[i][0].set_ylabel(f"{safe(name(label))}\ndensity")
    for j, place in enumerate(columns):
        axes[0][j].set_title(_title(table, place), fontsize=style.text)
        axes[-1][j].set_xlabel("eigenvalue")
    notes.append("curve: mean over probes, band: one standard error, dotted: computed eigenvalues")
    return Drawing(figure, rows, tuple(notes))


def _panels(results: Sequence[Result]) -> tuple[dict[str, dict[Any, Result]], list[str]]:
    """Results by label and step; of several seeds the lowest is shown."""
    table: dict[str, dict[Any, Result]] = {}
    left = 0
    for r in sorted(results, key=lambda r: (r.seed is None, r.seed or 0, str(r.record.get("target")))):
        place = (r.record.get("run") or {}).get("step") or 0
        row = table.setdefault(r.label, {})
        left += place in row
        row.setdefault(place, r)
    return table, [f"{left} further result(s) of the same optimizer and step are not drawn"] if left else []


def _title(table: dict[str, dict[Any, Result]], place: Any) -> str:
    run = next((row[place].record.get("run") or {} for row in table.values() if place in row), {})
    epoch = run.get("epoch")
    if not run:
        return "checkpoint"
    return f"epoch {epoch:g}" if epoch else f"step {place}"


def _floor(results: Sequence[Result]) -> float:
    """The lowest density worth showing: that of one eigenvalue, a decade lower."""
    shares = [1 / (r.record["n_parameters"] * float(r.record["density"]["sigma"]) * 2.5) for r in results]
    return float(0.1 * min(shares))


def _panel(panel: Any, result: Result, label: str, place: Any, colour: str, floor: float, style: Style) -> list[Row]:
    x = result.data["curvature"].values
    y, band = result.data["density"].values, result.data["density_stderr"].values
    band = np.where(np.isfinite(band), band, 0.0)
    seen = y + band > floor  # what lies under the floor is drawn as its edge
    kept = np.convolve(seen, [1, 1, 1], "same") > 0
    kept[[0, -1]] = True
    x, y, band = x[kept], y[kept], band[kept]
    panel.fill_between(x, np.maximum(y - band, floor), np.maximum(y + band, floor), color=colour, alpha=0.35, lw=0)
    panel.plot(x, np.maximum(y, floor), color=colour, lw=0.8)
    panel.set_yscale("log")
    panel.set_ylim(bottom=floor)
    values = result.data["eigenvalues"].values
    for value in (*values, *result.data["smallest"].values):
        panel.axvline(value, color="black", lw=0.4, ls=":")
    ratio = result.record.get("lambda_ratio")
    text = rf"$\lambda_1$ = {values[0]:.3g}" + (rf", $\lambda_1/\lambda_5$ = {ratio:.2g}" if ratio else "")
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
    panel.text(
        0.98, 0.95, text, transform=panel.transAxes, ha="right", va="top", fontsize=0.8 * style.text, bbox=behind
    )
    return [
        {"label": label, "step": place, "eigenvalue": float(a), "density": float(b), "stderr": float(c)}
        for a, b, c in zip(x, y, band, strict=True)
    ]

"""Spectral densities of the Hessian: rows optimizers, columns checkpoints (arXiv 2010.01412, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.arrays import Floats
from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import looks
from ..draw.series import runs_apart
from ..draw.style import HIGHEST, Style
from ..draw.text import safe
from ..draw.ticks import logarithmic, number_text
from ..draw.words import method

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WANTS = Want(
    "hessian",
    "compute them with `landscape hessian RUN --checkpoints all --density`",
    "density",
    frozenset({"curvature"}),
)
_MOST_COLUMNS = 4
_SMOOTH = 0.005  # of the axis: narrower peaks of the density are drawn as wide as this


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the density of the eigenvalues, a panel per optimizer (rows) and checkpoint (columns).

    What to read: how far to the right eigenvalues reach, and how that moves over training and between optimizers;
    all panels share both axes. The density is logarithmic: a single outlier has the weight of one parameter. The
    band is one standard error over probes. Each panel names lambda_1 and, where five were computed, lambda_1 /
    lambda_5; a stem marks each computed eigenvalue. What lies left of zero is negative curvature.
    """
    table, notes = _panels(results)
    labels = list(looks(table))
    columns = sorted({place for row in table.values() for place in row})
    if len(columns) > _MOST_COLUMNS:
        kept = {columns[round(i)] for i in np.linspace(0, len(columns) - 1, _MOST_COLUMNS)}
        notes.append(f"{len(columns) - len(kept)} of {len(columns)} checkpoints are not drawn")
        columns = [c for c in columns if c in kept]
    fit = max(1, min(len(columns), int((style.width - 0.55) / (9.5 * style.em))))
    if fit < len(columns):
        kept = {columns[round(i)] for i in (np.linspace(0, len(columns) - 1, fit) if fit > 1 else [len(columns) - 1])}
        notes.append(f"{len(columns) - len(kept)} more checkpoints are not drawn: there is no room")
        columns = [c for c in columns if c in kept]
    each = min(0.66 * (style.width - 0.55) / len(columns), 17 * style.em, (HIGHEST - 5 * style.em) / len(labels))
    each = max(each, 8.5 * style.em)
    lines = style.rows(len(labels), each, 5 * style.em)
    if lines < len(labels):
        notes.append(f"{len(labels) - lines} optimizers are not drawn: there is no room")
        labels = labels[:lines]
    figure = style.figure(height=3.2 * style.em + each * len(labels))
    axes = figure.subplots(len(labels), len(columns), sharex=True, sharey=True, squeeze=False)
    rows: list[Row] = []
    floor = _floor([r for row in table.values() for r in row.values()])
    every = looks(table)
    wide = [table[k][c].data["curvature"].values for k in labels for c in columns if c in table[k]]
    reach = max(x.max() for x in wide) - min(x.min() for x in wide)
    for i, label in enumerate(labels):
        for j, place in enumerate(columns):
            panel = axes[i][j]
            if place not in table[label]:
                panel.set_axis_off()
                continue
            rows += _panel(panel, table[label][place], label, place, every[label].colour, floor, reach, style)
        axes[i][0].set_ylabel(f"{safe(method(label))}\ndensity")
    for j, place in enumerate(columns):
        title = _title(table, place)
        axes[0][j].set_title("\n".join(t for t in (title, axes[0][j].get_title()) if t), fontsize=style.small)
        axes[-1][j].set_xlabel("eigenvalue")
    axes[0][0].set_ylim(floor, None)
    axes[0][0].set_xlim(*_ends([table[k][c] for k in labels for c in columns if c in table[k]], floor))
    logarithmic(axes[0][0].yaxis)
    notes.append("curve: mean over probes, band: one standard error, stems: computed eigenvalues")
    caption = (
        "Spectral density of the Hessian, rows optimizers, columns checkpoints, on common axes; the density is "
        "logarithmic and ends where it is a tenth of what a single eigenvalue gives. Filled: the mean over probes, "
        "with a paler band of one standard error, smoothed for drawing by 0.5 % of the axis, up to the smallest "
        "eigenvalue that was computed one by one, beyond which there is no other. Stems with a dot are those that "
        "were computed, as high as the density that one eigenvalue has; short strokes below are those of the lower "
        "end. Above each panel: the largest eigenvalue and its ratio to the fifth."
    )
    return Drawing(figure, rows, tuple(notes), caption=caption)


def _panels(results: Sequence[Result]) -> tuple[dict[str, dict[Any, Result]], list[str]]:
    """Results by label and step; of several seeds the lowest is shown."""
    table: dict[str, dict[Any, Result]] = {}
    left = 0
    for r in sorted(runs_apart(results), key=lambda r: (r.seed is None, r.seed or 0, str(r.record.get("target")))):
        place = (r.record.get("run") or {}).get("step") or 0
        row = table.setdefault(r.label, {})
        left += place in row
        row.setdefault(place, r)
    return table, [f"{left} further result(s) of the same optimizer and step are not drawn"] if left else []


def _title(table: dict[str, dict[Any, Result]], place: object) -> str:
    run = next((row[place].record.get("run") or {} for row in table.values() if place in row), {})
    epoch = run.get("epoch")
    if not run:
        return "checkpoint"
    return f"epoch {epoch:g}" if epoch else f"step {place}"


def _floor(results: Sequence[Result]) -> float:
    """The lowest density worth showing: that of one eigenvalue, a decade lower."""
    shares = [1 / (r.record["n_parameters"] * float(r.record["density"]["sigma"]) * 2.5) for r in results]
    return float(0.1 * min(shares))


def _ends(results: Sequence[Result], floor: float) -> tuple[float, float]:
    """The common axis: from where the first density rises above the floor to the largest eigenvalue, with margins."""
    seen = [r.data["curvature"].values[r.data["density"].values > floor] for r in results]
    values = [r.data[k].values for r in results for k in ("eigenvalues", "smallest")]
    every = np.concatenate([v[[0, -1]] for v in seen if len(v)] + values)
    every = every[np.isfinite(every)]
    low, high = float(every.min(initial=0.0)), float(every.max(initial=0.0))
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _smoothed(x: Floats, y: Floats, width: float) -> Floats:
    """The density as wide Gaussians would show it: convolved until its smoothing is ``width``."""
    step = float(np.diff(x).mean())
    reach = int(np.clip(3 * width / step, 1, len(x) // 2))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    return np.convolve(np.pad(y, reach, mode="edge"), kernel / kernel.sum(), "valid")


def _panel(
    panel: Axes,
    result: Result,
    label: str,
    place: object,
    colour: str,
    floor: float,
    reach: float,
    style: Style,
) -> list[Row]:
    x = result.data["curvature"].values
    y, band = result.data["density"].values, result.data["density_stderr"].values
    band = np.where(np.isfinite(band), band, 0.0)
    seen = y + band > floor
    kept = np.convolve(seen, [1, 1, 1], "same") > 0
    kept[[0, -1]] = True
    values = result.data["eigenvalues"].values
    width = max(float(result.record["density"]["sigma"]), _SMOOTH * reach)
    bulk, above = _smoothed(x, y, width), _smoothed(x, y + band, width)
    bulk_of = (bulk > floor) & (x <= values.min(initial=np.inf) + 3 * width)  # all that is beyond is a stem
    panel.fill_between(x, floor, np.maximum(above, floor), where=bulk_of, color=colour, alpha=0.22, lw=0)
    panel.fill_between(x, floor, np.maximum(bulk, floor), where=bulk_of, color=colour, alpha=0.5, lw=0)
    panel.plot(x, np.where(bulk_of, bulk, np.nan), color=colour, lw=0.8)
    panel.set_yscale("log")
    one = 10 * floor
    panel.vlines(values, floor, one, color="black", lw=0.6, zorder=3)
    panel.plot(values, np.full(len(values), one), "o", color="black", ms=0.24 * style.text, mew=0, zorder=3)
    lowest = result.data["smallest"].values
    panel.vlines(lowest, floor, floor * 2.5, color="black", lw=0.6, zorder=3)
    ratio = result.record.get("lambda_ratio")
    told = f"λ₁ = {number_text(values[0], 3)}" + (f", λ₁/λ₅ = {number_text(ratio, 2)}" if ratio else "")
    panel.set_title(told, fontsize=style.small, pad=3)
    return [
        {"label": label, "step": place, "eigenvalue": float(a), "density": float(b), "stderr": float(c)}
        for a, b, c in zip(x[kept], y[kept], band[kept], strict=True)
    ]

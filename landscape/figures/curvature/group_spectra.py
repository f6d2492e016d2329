"""Spectra of groups of parameters side by side: a row per block, module or kind, columns checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.style import HIGHEST, Style
from ..draw.text import safe
from ..draw.ticks import logarithmic, symmetric
from ..draw.words import method
from .spectra import _title as title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WANTS = Want(
    "hessian",
    "compute them with `landscape hessian RUN --group-by block --trace`",
    "layer_eigenvalues",
    frozenset({"layer", "rank"}),
)
_LINEAR = 1e-3  # of the largest eigenvalue: nearer to zero an axis that shows negative ones is linear
_LONGEST = 40  # letters of a name
_GROUPS = {"block": "block", "module": "module", "kind": "kind of parameter"}

Table = dict[str, dict[Any, list[Result]]]


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the eigenvalues of each diagonal block of the Hessian, and their mean, on one axis.

    What to read: which parts of a network hold its curvature, and how far the largest eigenvalue of each stands above
    the mean of all of its eigenvalues; groups that differ by decades ask for steps of different length ("Why
    Transformers Need Adam", arXiv 2402.16788). The eigenvalues of a group are those of its own rows and columns
    alone: none is larger than the largest of the whole matrix, and what couples groups is not seen.
    """
    results, names, notes = _one_grouping(results)
    table: Table = {}
    for r in sorted(results, key=lambda r: (r.seed is None, r.seed or 0, str(r.record.get("target")))):
        step = (r.record.get("run") or {}).get("step") or 0
        table.setdefault(r.label, {}).setdefault(step, []).append(r)
    styles = looks(table)
    told, line = style.names_beside(_short(names), 0.3, 8 * style.em)
    beside = style.beside(told) + 1.8 * style.em
    columns = sorted({step for row in table.values() for step in row})
    fit = max(1, min(len(columns), int((style.width - beside) / (12 * style.em))))
    if fit < len(columns):
        kept = {columns[round(i)] for i in (np.linspace(0, len(columns) - 1, fit) if fit > 1 else [len(columns) - 1])}
        notes.append(f"{len(columns) - len(kept)} more checkpoints are not drawn: there is no room")
        columns = [c for c in columns if c in kept]
    high = max(line, style.em * max(1.6, 0.62 * len(styles) + 0.5))
    lines = style.rows(len(names), high, 8 * style.em)
    if lines < len(names):
        notes.append(f"{len(names) - lines} groups are not drawn: there is no room")
        names, told = names[:lines], told[:lines]
    figure = style.figure(min(HIGHEST, max(high * len(names) + 5.5 * style.em, 13 * style.em)))
    axes = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    rows: list[Row] = []
    for panel, step in zip(axes, columns, strict=True):
        for i, (label, look) in enumerate(styles.items()):
            place = (i - (len(styles) - 1) / 2) * 0.76 / len(styles)
            for result in table[label].get(step, ()):
                made = [row for k in names for row in _rows(label, step, k, result)]
                rows += made
                _markers(panel, made, names, place, look, style)
        panel.set_title(title_of({k: {s: v[0] for s, v in row.items()} for k, row in table.items()}, step))
        panel.set_xlabel("eigenvalue")
        for between in range(1, len(names)):
            panel.axhline(between - 0.5, color="0.85", lw=0.5, zorder=0)
        panel.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(names)), told, fontsize=style.small)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].tick_params(axis="y", length=0)
    _scale(axes[0], rows)
    means = any(row["quantity"] == "mean" for row in rows)
    handles, texts = _legend(styles, means)
    style.legend(figure, handles, texts)
    mean = (
        "; a small open circle is the mean of all of its eigenvalues, the trace over the number of parameters, and a "
        "line through it one standard error"
    )
    caption = (
        f"Spectra of the diagonal blocks of the Hessian, a row per {_grouped(results)}"
        f"{', columns checkpoints' if len(columns) > 1 else ''}. A large marker is the largest eigenvalue of the "
        "group in one seed (a thin × if it did not converge), short strokes are its further eigenvalues, of either "
        f"end, that were computed{mean if means else ''}. {LOOKS}"
    )
    notes.append("large marker: largest eigenvalue of the group in one seed; stroke: further ones that were computed")
    if means:
        notes.append("open circle: trace over parameters, with one standard error")
    return Drawing(figure, rows, tuple(notes), caption=caption)


def _one_grouping(results: Sequence[Result]) -> tuple[list[Result], list[str], list[str]]:
    """The results of the grouping that most have, its names, and what was left out."""
    groupings = Counter(tuple(r.record["layers"]) for r in results)
    names, count = groupings.most_common(1)[0]
    left = len(results) - count
    notes = [f"{left} result(s) with other groups of parameters are not drawn"] if left else []
    return [r for r in results if tuple(r.record["layers"]) == names], list(names), notes


def _grouped(results: Sequence[Result]) -> str:
    return _GROUPS.get(str(results[0].record.get("group_by") or "module"), "group")


def _short(names: Sequence[str]) -> list[str]:
    """Each name by as much of its end as tells it from the others, in words; a number keeps what it counts."""

    def ends(name: str, count: int) -> str:
        return ".".join(name.split(".")[-count:])

    told = []
    for name in names:
        pieces = name.split(".")
        least = 2 if pieces[-1].isdigit() and len(pieces) > 1 else 1
        unique = (c for c in range(least, len(pieces)) if sum(ends(n, c) == ends(name, c) for n in names) == 1)
        told.append(safe(ends(name, next(unique, len(pieces))).replace("_", " "), _LONGEST))
    return told


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _rows(label: str, step: Any, group: str, result: Result) -> list[Row]:
    layer = result.record["layers"][group]
    fixed: Row = {"label": label, "seed": result.seed, "step": step, "group": group}
    size = layer.get("n_parameters")
    found = []
    flags = layer.get("converged") or []
    for i, value in enumerate(layer.get("eigenvalues") or []):
        sure = bool(flags[i]) if i < len(flags) else False
        found.append(
            {**fixed, "quantity": f"lambda_{i + 1}", "value": _number(value), "stderr": None, "converged": sure}
        )
    for i, value in enumerate(layer.get("smallest") or []):
        below = {"quantity": f"smallest_{i + 1}", "value": _number(value), "stderr": None, "converged": True}
        found.append({**fixed, **below})
    trace = layer.get("trace")
    if trace and size:
        mean, error = _number(trace.get("estimate")) / size, _number(trace.get("stderr")) / size
        found.append({**fixed, "quantity": "mean", "value": mean, "stderr": error, "converged": True})
    return found


def _markers(panel: Axes, rows: Sequence[Row], names: Sequence[str], place: float, look: Any, style: Style) -> None:
    for row in rows:
        y, x = names.index(row["group"]) + place, row["value"]
        if not np.isfinite(x):
            continue
        if row["quantity"] == "mean":
            if np.isfinite(row["stderr"]):
                panel.plot([x - row["stderr"], x + row["stderr"]], [y, y], color=look.colour, lw=0.8)
            panel.plot(x, y, "o", mfc="white", mec=look.colour, mew=0.7, ms=0.3 * style.text)
        elif row["quantity"] == "lambda_1":
            shape = look.marker if row["converged"] else "x"
            panel.plot(x, y, shape, color=look.colour, ms=0.42 * style.text, zorder=3)
        else:
            panel.plot(x, y, "|", color=look.colour, ms=0.5 * style.text, mew=0.7)


def _scale(panel: Axes, rows: Sequence[Row]) -> None:
    """A logarithmic axis; where something is not positive, one that is linear around zero."""
    values = np.array([row["value"] for row in rows if np.isfinite(row["value"])])
    largest = float(abs(values).max(initial=0.0)) or 1.0
    if len(values) and values.min() > 0:
        panel.set_xscale("log")
        panel.set_xlim(values.min() / 2, largest * 2)
        logarithmic(panel.xaxis)
    else:
        panel.set_xscale("symlog", linthresh=_LINEAR * largest)
        panel.set_xlim(2 * min(0.0, float(values.min(initial=0.0))) - _LINEAR * largest, 2 * largest)
        panel.axvline(0, color="black", lw=0.5, zorder=0)
        symmetric(panel.xaxis, _LINEAR * largest)


def _legend(styles: Any, means: bool) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], ls="", marker=look.marker, color=look.colour) for look in styles.values()]
    texts = [safe(method(label)) for label in styles]
    if means:
        marks.append(Line2D([], [], ls="", marker="o", mfc="white", mec="black", mew=0.7))
        texts.append("mean of all eigenvalues")
    return marks, texts

"""Which measures move when the network is rescaled and predicts the same (Dinh et al. 2017, arXiv 1703.04933)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import ordered
from ..draw.style import Style
from ..draw.text import safe
from ..draw.ticks import number_text
from ..draw.words import measure, method


class _Controlled(Want):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and bool(result.record.get("control"))


WANTS = _Controlled(
    "sharpness", "compute it with `landscape sharpness --control rescale`", "measure", frozenset({"row"})
)
_WORDS = {"rescale": "factor by which layers are rescaled", "logits": "factor of the logits"}
_CUT = 1.0  # decades; a colour says no more beyond a factor of ten


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a map: measures in rows, changed networks in columns, the change of the measure in each cell.

    What to read: the networks of a row differ in weights and predict the same (``rescale``), so a measure whose row
    is not white tells networks apart that are one function, and cannot by itself explain generalization. The number
    is the value relative to the unchanged network; colours end at a factor of ten. White rows are invariant.
    """
    chosen, *others = sorted(results, key=lambda r: (ordered({x.label for x in results}).index(r.label), str(r.seed)))
    control = chosen.record["control"]
    factors = [float(n["factor"]) for n in control["networks"]]
    rows = _rows(chosen, control, factors)
    names = list(dict.fromkeys(row["measure"] for row in rows))
    ratios = np.array([[_ratio(rows, n, f) for f in factors] for n in names])
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.log10(np.abs(ratios))
    told, line = style.names_beside([safe(measure(n), 60) for n in names], 0.36, 8 * style.em)
    figure = style.figure(7 * style.em + max(line * len(told), 9 * style.em))
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.patch.set(facecolor="0.85", edgecolor="0.5", hatch="////")
    image = axes.imshow(np.ma.masked_invalid(height), cmap="PuOr", vmin=-_CUT, vmax=_CUT, aspect="auto")
    for i, row in enumerate(ratios):
        for j, ratio in enumerate(row):
            words = number_text(ratio, 3) if np.isfinite(ratio) else "–"
            dark = np.isfinite(height[i, j]) and abs(height[i, j]) > 0.75 * _CUT
            axes.text(j, i, words, ha="center", va="center", fontsize=style.small, color="white" if dark else "black")
    axes.set_xticks(range(len(factors)), [number_text(f) for f in factors])
    axes.set_yticks(range(len(names)), told)
    axes.set_xlabel(_WORDS.get(str(control["kind"]), "factor"))
    bar = figure.colorbar(image, ax=axes, label="value / unchanged", extend="both", fraction=0.05, pad=0.02)
    bar.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["0.1", "0.32", "1", "3.2", "10"])
    axes.set_title(f"{safe(method(chosen.label))}" + (f", seed {chosen.seed}" if chosen.seed is not None else ""))
    change = max(float(n["output_change"]) for n in control["networks"])
    moved = float(control["moved_above"])
    notes = [f"a measure moves if it changes by more than {moved:.0%}; the outputs change by {change:.1g} at most"]
    if others:
        notes.append(f"{len(others)} further result(s) are not drawn")
    caption = (
        "Each measure (rows) on networks that differ in weights (columns: how far) and predict the same, relative to "
        "the unchanged network: the number in the cell, and its colour, which ends at a factor of ten. White rows do "
        "not move. Hatched: no number."
    )
    return Drawing(figure, rows, tuple(notes), caption=caption)


def _rows(result: Result, control: Any, factors: Sequence[float]) -> list[Row]:
    rows: list[Row] = []
    for found in control["measures"]:
        parts = [f"{k} = {found[k]:g}" for k in ("m", "rho") if found.get(k) is not None]
        title = str(found["measure"]) + (f" ({', '.join(parts)})" if parts else "")
        title += f" {found['layer']}" if found.get("layer") else ""
        for factor, value in zip(factors, found["values"], strict=True):
            fixed: Row = {"label": result.label, "seed": result.seed, "measure": title, "factor": factor}
            rows.append({**fixed, "value": float("nan") if value is None else float(value), "moves": found["moves"]})
    return rows


def _ratio(rows: Sequence[Row], measure: str, factor: float) -> float:
    values = {row["factor"]: row["value"] for row in rows if row["measure"] == measure}
    first = values[min(values)]
    return values[factor] / first if first else (1.0 if values[factor] == first else float("nan"))

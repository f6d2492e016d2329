"""F_gamma over gamma, on the domains trained on and on others (SWAD, arXiv 2102.08604, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.scales import loss_scale
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style, hide_unused
from ..draw.text import safe, wrapped
from ..draw.words import domain


class _Measured(Want):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and "local-flatness" in result.data["measure"].values.tolist()

    def tells(self, results: Sequence[Result]) -> bool:
        return any(len({row["gamma"] for row in _rows("", r, "")}) > 1 for r in results)


WANTS = _Measured(
    "sharpness",
    "compute it with `landscape sharpness --measure local-flatness --rho 0.5 1 2 5`",
    "measure",
    frozenset({"row"}),
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the mean rise of the loss at distance gamma in random directions, a panel per set of examples.

    What to read: how wide the valley is around each network, per panel on the examples that its title names; compare
    the panel of the domains trained on with that of held-out ones. Several seeds: the line is their mean, the band
    one standard error over directions of that mean. A gamma means the same only for networks of equal weight norm
    (the CSV holds gamma/|w|).
    """
    panels_of: dict[str, list[Result]] = {}
    for result in results:
        panels_of.setdefault(_examples(result), []).append(result)
    across = style.across(len(panels_of), 15)
    rows = -(-len(panels_of) // across)
    each = max(style.width / (1.75 if across == 1 else 1.35 * across), 14 * style.em)
    figure = style.figure(rows * each + 0.3)
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    table: list[Row] = []
    notes: list[str] = []
    handles, counts, shown, lost = dict[str, Any](), dict[str, list[Result]](), [], 0
    for axes, title in zip(panels, sorted(panels_of, key=lambda t: (not t.startswith("train"), t)), strict=False):
        groups, more = by_label(panels_of[title])
        notes += [n for n in more if n not in notes]
        for label, look in looks(groups).items():
            rows_of = [row for r in groups[label] for row in _rows(label, r, title)]
            lost += sum(not np.isfinite(row["value"]) for row in rows_of)
            gammas = sorted({row["gamma"] for row in rows_of})
            here = [[r for r in rows_of if r["gamma"] == g and np.isfinite(r["value"])] for g in gammas]
            mean = np.array([np.mean([r["value"] for r in h]) if h else np.nan for h in here])
            error = np.array([np.sqrt(np.sum([r["stderr"] ** 2 for r in h])) / len(h) if h else np.nan for h in here])
            (handles[label],) = axes.plot(gammas, mean, color=look.colour, ls=look.dash, marker=look.marker)
            axes.fill_between(gammas, mean - error, mean + error, color=look.colour, alpha=0.18, lw=0)
            counts.setdefault(label, groups[label])
            shown.append(mean[np.isfinite(mean)])
            table += rows_of
        axes.set(xlabel="γ")
        axes.set_title(
            wrapped(safe(domain(title), 300), style.width / across - 0.9, style.small), fontsize=style.small
        )
    hide_unused(panels, len(panels_of), across)
    extra = loss_scale(panels[0], np.concatenate([*shown, []]))
    for axes in panels[::across]:
        axes.set_ylabel(f"mean rise F(γ){extra}")
    style.legend(figure, list(handles.values()), seeded(counts, handles))
    notes.append("band: one standard error over the random directions")
    caption = (
        "Mean rise F(γ) of the loss at distance γ in random directions, a panel per set of examples. A line is the "
        f"mean over seeds, the band one standard error over the random directions. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _examples(result: Result) -> str:
    """The split and its domains, as words."""
    domains = [d if len(d) <= 40 else f"{d[:39]}…" for d in map(str, result.record.get("domain_counts") or {})]
    named = f": {', '.join(domains)}" if len(domains) > 1 or (domains and domains != ["all"]) else ""
    return f"{result.record.get('split') or 'train'}{named}"


def _rows(label: str, result: Result, examples: str) -> list[Row]:
    found = [m for m in result.record.get("measures") or [] if m["measure"] == "local-flatness"]
    return [
        {
            "label": label,
            "seed": result.seed,
            "examples": examples,
            "gamma": float(m["rho"]),
            "relative_radius": m.get("relative_radius"),
            "value": float("nan") if m["value"] is None else float(m["value"]),
            "stderr": float(m["stderr"] or 0.0),
        }
        for m in found
    ]

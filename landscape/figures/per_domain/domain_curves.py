"""The domains over training: losses, losses scaled to [0, 1], their variance, and how gradients conflict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ...results.result import Result
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import method
from .domain_lines import Lines, domain_legend, domain_names, domain_panels, domain_texts


class _Course(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data.sizes["step"] > 1 and r.data.sizes["domain"] > 1 for r in results)


WANTS = _Course("domain-curves", "compute them with `landscape domains RUN --curves`", "loss", frozenset({"step"}))

_TOP = {"loss_variance": "variance of domain losses", "conflict_share": "share of conflicting pairs"}
_BELOW = {"loss": "loss per domain", "normalized_loss": "loss, scaled to [0, 1]"}


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the course of every domain.

    What to read: above, how unevenly the seen domains are fitted (left, at the weights; dotted at the ascent step
    w + e where it was measured) and which share of pairs of seen domains have gradients with a negative cosine
    (right). Below, a panel per optimizer with a line per domain, dashed for held-out ones: first the losses, then
    each scaled to [0, 1] over the checkpoints, where lines that fall apart are domains that converge at different
    times. A line is the mean over seeds, a band reaches from the lowest to the highest seed.
    """
    groups, notes = by_label(results)
    names = domain_texts([(n, False) for n in domain_names(groups, loss_lines)])
    legends = style.legend_inches([f"{safe(method(k))} (10 seeds)" for k in groups]), style.legend_inches(names)
    across = style.across(len(groups), 10.5, [safe(method(k)) for k in groups])
    top_across = style.across(len(_TOP), 14)
    top_rows = -(-len(_TOP) // top_across)
    rows = style.rows(
        -(-len(groups) // across), 27 * style.em, 14 * top_rows * style.em + 3 * style.em + sum(legends)
    )
    below = dict(list(groups.items())[: rows * across])
    if len(below) < len(groups):
        notes.append(f"{len(groups) - len(below)} panels of domains are not drawn: there is no room")
    each = (13.5 * rows + 1.5) * style.em
    heights = [13.5 * top_rows * style.em + legends[0], each, each + legends[1]]
    figure = style.figure(sum(heights))
    parts: Any = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    table: list[Row] = []
    lost, handles = 0, dict[str, Any]()
    upper = parts[0].subplots(top_rows, top_across, squeeze=False).ravel()
    for axes, (field, title) in zip(upper, _TOP.items(), strict=True):
        for label, look in looks(groups).items():
            for quantity, dash in ((field, look.dash), (f"perturbed_{field}", ":")):
                fit = [r for r in groups[label] if quantity in r.data]
                if not fit:
                    continue
                fixed: Row = {"quantity": quantity, "label": label, "domain": "", "seen": None, "seeds": len(fit)}
                lines = [(r.data["step"].values, r.data[quantity].values) for r in fit]
                band = draw_band(axes, lines, look, style, fixed, over="step", dash=dash)
                handles.setdefault(label, band.handle)
                table += band.rows
                lost += band.lost
        axes.set(xlabel="step", title=title)
        axes.set_ylim(bottom=0)  # a variance starts near 0, where a logarithm would show nothing else
    for part, (field, title) in zip(parts[1:], _BELOW.items(), strict=True):
        options: Any = {"quantity": field, "title": title, "losses": field == "loss"}
        options["lines_of"] = partial(loss_lines, field=field)
        drawn = domain_panels(part, below, (rows, across), style, table, **options)
        lost += drawn.lost
    domain_legend(parts[2], drawn, style)
    texts = seeded(groups, handles)
    style.legend(parts[0], list(handles.values()), texts)
    splits = ", ".join(sorted({safe(r.record.get("split") or "train") for v in groups.values() for r in v}))
    notes.append(f"split: {splits}; line: mean over seeds, band: lowest to highest seed; dotted: at w + e")
    caption = (
        "The domains over training. Above: the variance of the seen domains' losses, and which share of pairs of "
        "seen domains have gradients that point against each other (dotted: at the ascent point w + e). Below, a "
        "panel per optimizer: the loss of each domain, and the same scaled to [0, 1] over the checkpoints; solid: "
        "trained on, dashed: held out; colour and marker tell domains apart. A line is the mean over seeds, a band "
        f"reaches from the lowest to the highest seed. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def loss_lines(result: Result, field: str = "loss") -> Lines:
    """The lines of one quantity of single domains."""
    data = result.data
    domains = [str(d) for d in data["domain"].values]
    values = {d: data[field].isel(domain=i).values for i, d in enumerate(domains)}
    return Lines(data["step"].values, values, dict(zip(domains, map(bool, data["seen"].values), strict=True)))

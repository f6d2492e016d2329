"""Losses over training: of the seen domains together, their variance, and one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.scales import loss_scale
from ..draw.series import Groups, by_label, lost_note, seeded
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import method
from ..per_domain.domain_lines import Lines, domain_legend, domain_names, domain_panels, domain_texts

WANTS = Want("training", "train runs with `landscape train`", "batch_loss", frozenset())

_TOP = {"train_loss": "training loss", "domain_loss_variance": "variance of domain losses"}


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the course of training.

    What to read: above, how fast each optimizer fits (left) and how unevenly it fits the domains (right, the
    variance of the seen domains' training losses, which DISAM penalises). Below, one panel per optimizer with
    a line per domain: solid for domains it trained on, dashed for held-out ones. A line is the mean over seeds,
    a band reaches from the lowest to the highest seed. A low training loss says nothing about unseen domains.
    """
    groups, notes = by_label(results)
    with_domains = {k: v for k, v in groups.items() if any("domain_loss" in r.data for r in v)}
    top = [f for f in _TOP if any(f in r.data for v in groups.values() for r in v)] or ["batch_loss"]
    names = domain_names(with_domains, domain_lines)
    legends = _legend_inches(groups, names, style)
    across = style.across(max(len(with_domains), 1), 10.5, [safe(method(k)) for k in with_domains])
    top_across = style.across(len(top), 14)
    top_rows = -(-len(top) // top_across)
    each = 13.5 * style.em
    rows = style.rows(-(-len(with_domains) // across), each, 14 * top_rows * style.em + sum(legends))
    if len(with_domains) > rows * across:
        notes.append(f"{len(with_domains) - rows * across} panels of domains are not drawn: there is no room")
        with_domains = dict(list(with_domains.items())[: rows * across])
    rows = rows if with_domains else 0
    heights = [
        13.5 * top_rows * style.em + legends[0],
        *([each * rows + 1.5 * style.em + legends[1]] if rows else []),
    ]
    figure = style.figure(sum(heights))
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    table: list[Row] = []
    lost = 0
    handles: dict[str, Any] = {}
    for axes, field in zip(parts[0].subplots(top_rows, top_across, squeeze=False).ravel(), top, strict=True):
        shown = []
        for label, look in looks(groups).items():
            lines = [(_steps(r, field), r.data[field].values) for r in groups[label] if field in r.data]
            if not lines:
                continue
            fixed: Row = {"quantity": field, "label": label, "domain": "", "seen": None, "seeds": len(lines)}
            band = draw_band(axes, lines, look, style, fixed, over="step")
            handles[label] = band.handle
            table += band.rows
            lost += band.lost
            shown.append(band.finite)
        axes.set(xlabel="step")
        axes.set_title(_TOP.get(field, "loss of the batch") + loss_scale(axes, np.concatenate([*shown, []])))
    if rows:
        options: Any = {"lines_of": domain_lines, "quantity": "domain_loss", "title": "loss per domain"}
        drawn = domain_panels(parts[1], with_domains, (rows, across), style, table, **options)
        lost += drawn.lost
        domain_legend(parts[1], drawn, style)
    texts = seeded(groups, handles)
    style.legend(parts[0], list(handles.values()), texts)
    notes.append("line: mean over seeds, band: lowest to highest seed")
    caption = (
        "Losses over training: of the training data and the variance of the seen domains' losses (above), and of "
        "each domain, a panel per optimizer (below; solid: trained on, dashed: held out; colour and marker tell "
        f"domains apart). A line is the mean over seeds, a band reaches from the lowest to the highest seed. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _legend_inches(groups: Groups, names: Sequence[str], style: Style) -> tuple[float, float]:
    """How high the legends of optimizers and of domains are."""
    optimizers = [f"{safe(method(k))} (10 seeds)" for k in groups]
    domains = domain_texts([(n, False) for n in names])
    return style.legend_inches(optimizers), style.legend_inches(domains) if domains else 0.0


def _steps(result: Result, field: str) -> object:
    return result.data[str(result.data[field].dims[0])].values


def domain_lines(result: Result) -> Lines:
    """The training losses of single domains."""
    held = {str(d) for d in result.record.get("unseen", result.record.get("holdout")) or []}
    domains = [str(d) for d in result.data["domain"].values] if "domain_loss" in result.data else []
    values = {d: result.data["domain_loss"].isel(domain=i).values for i, d in enumerate(domains)}
    return Lines(result.data["eval_step"].values, values, {d: d not in held for d in domains})

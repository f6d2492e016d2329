"""Losses over training: of the seen domains together, their variance, and one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import looks, name
from ..draw.scales import loss_scale
from ..draw.series import by_label, lost_note, seeds_text
from ..draw.style import Style
from ..draw.text import safe
from ..per_domain.domain_lines import Lines, domain_panels

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
    across = style.across(max(len(with_domains), 1), 10.5)
    rows = -(-len(with_domains) // across)
    figure = style.figure((14 + 13.5 * rows) * style.em)
    heights = [14, 13.5 * rows] if rows else [14]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    table: list[Row] = []
    lost = 0
    handles: dict[str, Any] = {}
    for axes, field in zip(parts[0].subplots(1, len(top), squeeze=False)[0], top, strict=True):
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
        lost += domain_panels(parts[1], with_domains, (rows, across), style, table, **options)
    texts = [f"{safe(name(k))} ({seeds_text({k: groups[k]})})" for k in handles]
    style.legend(figure, list(handles.values()), texts)
    notes.append("line: mean over seeds, band: lowest to highest seed")
    return Drawing(figure, table, (*notes, *lost_note(lost)))


def _steps(result: Result, field: str) -> Any:
    return result.data[str(result.data[field].dims[0])].values


def domain_lines(result: Result) -> Lines:
    """The training losses of single domains."""
    held = {str(d) for d in result.record.get("unseen", result.record.get("holdout")) or []}
    domains = [str(d) for d in result.data["domain"].values] if "domain_loss" in result.data else []
    values = {d: result.data["domain_loss"].isel(domain=i).values for i, d in enumerate(domains)}
    return Lines(result.data["eval_step"].values, values, {d: d not in held for d in domains})

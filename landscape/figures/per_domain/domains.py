"""Loss and accuracy of each domain, seen and unseen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.scales import field_scale
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import domain as domain_words


class _Several(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data.sizes["domain"] > 1 for r in results)


WANTS = _Several("domains", "compute them with `landscape domains`", "loss", frozenset({"domain"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw loss and accuracy per domain.

    What to read: the gap between filled markers (domains the network trained on) and open ones (held out, on
    grey) is the price of the shift; the spread among filled ones is what the domain-loss variance measures. A
    marker is the mean over seeds, its line reaches from the lowest to the highest seed.
    """
    groups, notes = by_label(results)
    every = [r for v in groups.values() for r in v]
    domains = list(dict.fromkeys(str(d) for r in every for d in r.data["domain"].values))
    fields = ["loss"] + ["accuracy"] * any("accuracy" in r.data for r in every)
    figure = style.figure((6 + 10 * len(fields)) * style.em)
    panels = figure.subplots(len(fields), 1, sharex=True, squeeze=False)[:, 0]
    table = [row for label, v in groups.items() for r in v for row in _rows(label, r, fields)]
    step = 0.7 / len(groups)
    handles, lost = {}, 0
    for axes, field in zip(panels, fields, strict=True):
        for i, (label, look) in enumerate(looks(groups).items()):
            for j, domain in enumerate(domains):
                for seen in (True, False):
                    here = [r for r in table if (r["label"], r["domain"], r["seen"]) == (label, domain, seen)]
                    values = np.array([r[field] for r in here if np.isfinite(r[field])])
                    lost += len(here) - len(values)
                    if not len(values):
                        continue
                    x = j + (i - (len(groups) - 1) / 2) * step
                    axes.vlines(x, values.min(), values.max(), color=look.colour, lw=0.9)
                    face = look.colour if seen else "white"
                    (mark,) = axes.plot(x, values.mean(), look.marker, color=look.colour, mfc=face)
                    if seen or label not in handles:
                        handles[label] = mark
        for j, domain in enumerate(domains):
            if not any(r["seen"] for r in table if r["domain"] == domain):
                axes.axvspan(j - 0.5, j + 0.5, color="0.92", lw=0, zorder=0)
        words = field_scale(axes, field, [r[field] for r in table])
        axes.margins(y=0.12)
        axes.set_ylabel(words)
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.5, len(domains) - 0.5)
    style.names_below(panels[-1], list(map(domain_words, domains)))
    splits = ", ".join(sorted({safe(r.record.get("split") or "train") for r in every}))
    panels[-1].set_xlabel(f"domain (split: {splits}; open markers: not trained on)")
    style.legend(figure, list(handles.values()), seeded(groups, handles))
    notes.append("marker: mean over seeds, line: lowest to highest seed; open markers and grey: held-out domains")
    caption = (
        "Loss and accuracy of each domain. A marker is the mean over seeds, its line reaches from the lowest to the "
        "highest seed. Filled: domains that were trained on; open, on grey ground: held-out domains. "
        f"{LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _rows(label: str, result: Result, fields: Sequence[str]) -> list[Row]:
    data = result.data
    rows = []
    for i, domain in enumerate(data["domain"].values):
        one: Row = {"label": label, "seed": result.seed, "domain": str(domain)}
        one["seen"] = bool(data["seen"].values[i]) if "seen" in data else True
        one |= {f: float(data[f].values[i]) if f in data else float("nan") for f in fields}
        rows.append(one)
    return rows

"""What a reader of the page can explore: the numbers of surfaces, domain curves and trajectories, as strict JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.errors import UsageError
from ..figures.course.training import domain_lines
from ..figures.draw.domain_styles import domain_looks
from ..figures.draw.method_styles import name
from ..figures.draw.panels import Panel, Panels
from ..figures.draw.series import by_label, stack
from ..figures.draw.style import Style
from ..figures.per_domain.domain_curves import loss_lines
from ..figures.per_domain.domain_lines import domain_names
from ..figures.planes.interactive import axes_text
from ..figures.render import fitting
from ..registry import FIGURES
from ..results.result import Result

# Browsers keep at most 16 WebGL contexts; a surface needs one.
MOST_SURFACES = 12
_WORDS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "domain_variance": "variance of domain losses",
    "worst_domain_loss": "loss of the worst domain",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}
_BY_DOMAIN = {"loss": "domain_loss", "accuracy": "domain_accuracy"}


def explorable(results: Sequence[Result]) -> dict[str, Any]:
    """Everything that the page's own script draws.

    Returns:
        ``surfaces`` (panels with their fields as base64 of float32, row by row from the lowest y), ``curves`` (loss
        per domain over training, mean over seeds) and ``trajectory`` (a plotly figure); None for what is not there.
    """
    return {"surfaces": _surfaces(results), "curves": _curves(results), "trajectory": _trajectory(results)}


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character that HTML knows is left in it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fit(kind: str, results: Sequence[Result]) -> list[Result]:
    try:
        return fitting(kind, results)
    except UsageError:
        return []


def _surfaces(results: Sequence[Result]) -> dict[str, Any] | None:
    fit = _fit("surface3d", results)
    if not fit:
        return None
    shown = Panels.of(fit).panels
    panels = shown[:MOST_SURFACES]
    fields = [_fields(panel) for panel in panels]
    quantities = [q for q in _WORDS if all(q in one for one in fields)]
    domains = list(dict.fromkeys(d for one in fields for d in one["loss"]))[1:]
    return {
        "panels": [
            {
                "title": panel.title,
                "label": panel.name,
                "axes": axes_text(panel),
                "x": panel.x.tolist(),
                "y": panel.y.tolist(),
                "fields": {q: {d: _packed(v) for d, v in one[q].items()} for q in quantities},
            }
            for panel, one in zip(panels, fields, strict=True)
        ],
        "quantities": {q: _WORDS[q] for q in quantities},
        "domains": domains,
        "left_out": len(shown) - len(panels),
    }


def _fields(panel: Panel) -> dict[str, dict[str, Any]]:
    """By quantity, then by domain (all of them together: the empty name)."""
    data = panel.result.data
    found = {q: {"": plane} for q, plane in panel.planes.items() if q in _WORDS}
    for quantity, source in _BY_DOMAIN.items():
        if source in data and quantity in found:
            planes = data[source].transpose("domain", "y", "x")
            names = map(str, planes["domain"].values)
            found[quantity] |= {d: planes.values[i] for i, d in enumerate(names)}
    return found


def _packed(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _curves(results: Sequence[Result]) -> dict[str, Any] | None:
    for kind, lines_of in (("domain-curves", loss_lines), ("training", domain_lines)):
        groups = by_label(_fit(kind, results))[0]
        panels = []
        for label, members in groups.items():
            every = [lines_of(r) for r in members]
            names = list(dict.fromkeys(d for one in every for d in one.values))
            looks = domain_looks(domain_names(groups, lines_of))
            lines = []
            for domain in names:
                x, values, _ = stack([(one.steps, one.values[domain]) for one in every if domain in one.values])
                mean = [None if not np.isfinite(v).any() else float(np.nanmean(v)) for v in values.T]
                seen = all(one.seen[domain] for one in every if domain in one.seen)
                lines.append(
                    {
                        "domain": domain,
                        "seen": seen,
                        "steps": x.tolist(),
                        "loss": mean,
                        "colour": looks[domain].colour,
                    }
                )
            if lines:
                panels.append({"label": name(label), "seeds": len(members), "lines": lines})
        if panels:
            return {"panels": panels}
    return None


def _trajectory(results: Sequence[Result]) -> Mapping[str, Any] | None:
    fit = _fit("trajectory-movie", results)
    if not fit:
        return None
    drawn: Mapping[str, Any] = json.loads(FIGURES.load("trajectory-movie")(fit, Style()).interactive.to_json())
    return drawn

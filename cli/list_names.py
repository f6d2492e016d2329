"""List what there is: optimizers, models, data, losses, measures, directions, figures, probes, studies or venues."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tyro.conf import Positional

from landscape import registry

from .options import Common
from .screen import Screen

KINDS = {
    "optimizers": registry.OPTIMIZERS,
    "models": registry.MODELS,
    "data": registry.DATA,
    "losses": registry.LOSSES,
    "measures": registry.MEASURES,
    "directions": registry.DIRECTIONS,
    "figures": registry.FIGURES,
    "probes": registry.PROBES,
}


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape list``."""

    what: Positional[
        Literal[
            "optimizers",
            "models",
            "data",
            "losses",
            "measures",
            "directions",
            "figures",
            "probes",
            "studies",
            "venues",
        ]
    ]
    """One of: optimizers, models, data, losses, measures, directions, figures, probes, studies, venues."""
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Print a line per name."""
    if arguments.what == "studies":
        return _studies(screen)
    if arguments.what == "venues":
        return _venues(screen)
    entries = KINDS[arguments.what]
    found = [
        {"name": n, "summary": e.summary, **dict(e.details or {}), "options": list(e.options)}
        for n, e in entries.items()
    ]
    width = max(len(n) for n in entries) + 2
    for name, entry in entries.items():
        screen.line(f"{name:<{width}}{entry.summary}")
        details = dict(entry.details or {})
        if "formula" in details:
            screen.line(" " * width + details.pop("formula"))
        facts = [f"{k}: {v}" for k, v in details.items()]
        if entry.options:
            facts.append("flags: " + " ".join("--" + o.replace("_", "-") for o in entry.options))
        if facts:
            screen.line(" " * width + "; ".join(facts))
    return {"command": "list", "outputs": [], arguments.what: found}


def _studies(screen: Screen) -> dict[str, object]:
    """The experiment files that are installed, with what they ask."""
    from landscape.study.shipped import shipped

    found = shipped()
    width = max(map(len, found)) + 2
    for study in found.values():
        screen.line(f"{study['name']:<{width}}{study['title']}")
        for key, name in (("claim", "claim"), ("refuted_by", "refuted by"), ("decides", "decides")):
            if study[key]:
                screen.line(" " * width + f"{name}: {study[key]}")
    return {"command": "list", "outputs": [], "studies": list(found.values())}


def _venues(screen: Screen) -> dict[str, object]:
    """For whose pages figures are drawn."""
    from landscape.figures.draw.style import VENUES

    found = []
    for name, venue in VENUES.items():
        one, two = venue.widths
        found.append({"name": name, "widths": [one, two], "text": venue.text, "small": venue.small})
        sizes = f"titles {venue.text:g} pt, ticks {venue.small:g} pt"
        screen.line(f"{name:<10}one column {one:g} in, two {two:g} in; {sizes}")
    return {"command": "list", "outputs": [], "venues": found}

"""Figures from results, of `landscape plot` and of analyses that are told to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landscape.base.errors import LandscapeError
from landscape.base.names import unknown_name
from landscape.registry import FIGURES

from .options import DrawnCommon, FigureOptions
from .screen import Screen

FOLDER = Path("landscape-figures")
_INDEX = "figures.json"


def check_kinds(kinds: Sequence[str], flag: str) -> None:
    """Refuse unknown kinds before anything is computed.

    Raises:
        UsageError: With the known ones.
    """
    for kind in kinds:
        if kind not in FIGURES:
            raise unknown_name("figure", kind, FIGURES, flag)


def draw(
    kinds: Sequence[str],
    results: Sequence[Any],
    options: FigureOptions,
    out: Path,
    screen: Screen,
    *,
    keep: bool = False,
) -> list[str]:
    """Draw each kind from all results, print and return the paths.

    With ``keep`` a figure of other targets that stands there under the same name is left alone.
    """
    from landscape.base.files import remove_stale_temporaries
    from landscape.figures.render import render
    from landscape.results.staleness import one_look

    remove_stale_temporaries(out)
    outputs: list[str] = []
    with one_look():
        for kind in kinds:
            stem = _own_stem(kind, results, out) if keep else kind
            look: dict[str, Any] = {"formats": options.format, "venue": options.venue, "columns": options.columns}
            paths = render(kind, results, out, **look, stem=stem)
            if keep:
                _remember(stem, results, out)
            outputs += [str(path.absolute()) for path in paths]
    for path in outputs:
        screen.path("figure", Path(path))
    return outputs


def drawn(found: dict[str, Any], results: Sequence[Any], common: DrawnCommon, screen: Screen) -> dict[str, Any]:
    """What a command prints as JSON, with the figures that it was told to draw."""
    if not common.figure:
        return found
    return {**found, "figures": draw(common.figure, results, common, FOLDER, screen, keep=True)}


def _own_stem(kind: str, results: Sequence[Any], out: Path) -> str:
    """The kind, or, where another figure has that name, the kind and a hash of what is shown."""
    from landscape.base.files import stable_hash

    owners, taken = _owners(out), {p.stem for p in out.glob(f"{kind}.*")}
    if owners.get(kind) == _targets(results) or kind not in taken:
        return kind
    return f"{kind}-{stable_hash(_targets(results))[:8]}"


def _remember(stem: str, results: Sequence[Any], out: Path) -> None:
    from landscape.base.files import write_json

    write_json(out / _INDEX, {**_owners(out), stem: _targets(results)})


def _owners(out: Path) -> dict[str, Any]:
    """By the name of each figure the targets that it shows."""
    from landscape.base.files import read_json

    try:
        found = read_json(out / _INDEX)
    except (LandscapeError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _targets(results: Sequence[Any]) -> list[str]:
    """What a figure shows: the targets, and how they were looked at where that is not as usual."""
    shown = set()
    for r in results:
        usual = {
            "operator": "hessian",
            "mode": "eval",
            "loss_over": "example",
            "dtype": "float32",
            "weight_decay": 0.0,
        }
        asked = {k: r.record.get(k) for k in (*usual, "params", "replay_seed")}
        how = "".join(f" {k}={v}" for k, v in asked.items() if v is not None and v != usual.get(k))
        shown |= {f"{t}{how}" for t in r.record.get("targets") or [r.record.get("target")]}
    return sorted(shown)

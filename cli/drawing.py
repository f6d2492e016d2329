"""Figures from results, of `landscape plot` and of analyses that are told to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.base.errors import LandscapeError, UsageError
from landscape.base.names import unknown_name
from landscape.registry import FIGURES

from .options import DrawnCommon
from .screen import Screen

FOLDER = Path("landscape-figures")
_INDEX = "figures.json"
_LOCK = ".figures.lock"


def check_kinds(kinds: Sequence[str], flag: str) -> None:
    """Refuse unknown kinds before anything is computed.

    Raises:
        UsageError: With the known ones.
    """
    for kind in kinds:
        if kind not in FIGURES:
            raise unknown_name("figure", kind, FIGURES, flag)


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        outputs: Absolute paths.
        notes: By the name of each figure what its reader must know and cannot see.
    """

    outputs: list[str]
    notes: dict[str, list[str]]


def draw(
    kinds: Sequence[str],
    results: Sequence[Any],
    formats: Sequence[str],
    style: Any,
    out: Path,
    screen: Screen,
    *,
    direction: str | None = None,
) -> Drawn:
    """Draw each kind from all results; print the paths and the notes of the figures.

    A figure of other targets that stands there under the same name is left alone, also where several commands draw
    into one folder or one is killed: a name is taken before its files are written, by one command at a time. Formats
    that cannot show a figure are left out of it.

    Raises:
        UsageError: If no figure has any of the formats.
    """
    from landscape.base.files import one_at_a_time, remove_stale_temporaries
    from landscape.base.progress import report
    from landscape.figures.render import write
    from landscape.results.staleness import one_look

    remove_stale_temporaries(out)
    found = Drawn([], {})
    with one_look(), one_at_a_time(out / _LOCK):
        for i, kind in enumerate(kinds):
            report("figures", i, len(kinds), kind)
            shown = _targets(results, direction)
            stem = _own_stem(kind, shown, out)
            _remember(stem, shown, out)
            made = write(kind, results, out, formats=formats, style=style, stem=stem, direction=direction, skip=True)
            found.outputs.extend(str(path.absolute()) for path in made.paths)
            found.notes[stem] = list(made.notes)
            for path in made.paths:
                screen.path("figure", path.absolute())
            for note in made.notes:
                if note not in made.told:  # those were said when they were found
                    screen.line(f"  {stem}: {note}")
        report("figures", len(kinds), len(kinds))
    if not found.outputs:
        told = f"no {', '.join(kinds)} figure can be shown as {', '.join(formats)}"
        raise UsageError(told, "--format", "html is for what can be turned or moves, gif for what moves")
    return found


def drawn(found: dict[str, Any], results: Sequence[object], common: DrawnCommon, screen: Screen) -> dict[str, Any]:
    """What a command prints as JSON, with the figures that it was told to draw."""
    if not common.figure:
        return found
    from landscape.figures.draw.style import Style

    style = Style(common.venue, common.columns)
    return {**found, "figures": draw(common.figure, results, common.format, style, FOLDER, screen).outputs}


def _own_stem(kind: str, shown: list[str], out: Path) -> str:
    """The kind, or, where another figure has that name, the kind and a hash of what is shown."""
    from landscape.base.files import stable_hash

    owners, taken = _owners(out), {p.stem for p in out.glob(f"{kind}.*")}
    if owners.get(kind) == shown or kind not in taken:
        return kind
    return f"{kind}-{stable_hash(shown)[:8]}"


def _remember(stem: str, shown: list[str], out: Path) -> None:
    from landscape.base.files import write_json

    write_json(out / _INDEX, {**_owners(out), stem: shown})


def _owners(out: Path) -> dict[str, object]:
    """By the name of each figure the targets that it shows."""
    from landscape.base.files import read_json

    try:
        found = read_json(out / _INDEX)
    except (LandscapeError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _targets(results: Sequence[Any], direction: str | None = None) -> list[str]:
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
    return sorted(shown | ({f"along {direction}"} if direction else set()))

"""Stored results for other programs: NumPy archives, tables, images for ParaView."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .options import Common
from .plot import collect, stale_objects
from .screen import Screen

log = logging.getLogger("landscape.export")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written, and where."""

    format: tuple[Literal["npz", "csv", "vti"], ...] = ("csv",)
    """File formats; vti (VTK, for ParaView) for 2-D surfaces."""
    out: Path = Path("landscape-exports")
    """Folder of the files."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape export``."""

    results: Positional[tuple[str, ...]] = ()
    """Stored results (.nc), surfaces of tomgoldstein/loss-landscape (.h5), or run folders."""
    options: ExportOptions = field(default_factory=ExportOptions)
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Write, print the paths."""
    from landscape.base.files import remove_stale_temporaries, stable_hash
    from landscape.base.labels import file_name
    from landscape.results.staleness import changes, one_look
    from landscape.surfaces.export import export

    options = arguments.options
    results = collect(arguments.results)
    with one_look():
        for note in changes(results):
            log.warning("%s", note)
        changed = stale_objects(results)
    remove_stale_temporaries(options.out)
    outputs, written = [], set[str]()
    for result in results:
        stem = file_name(result.path.stem if result.path else f"{result.kind}-{result.label}-seed{result.seed}")
        if stem.casefold() in written:  # files of one name in two folders
            stem = f"{stem}-{stable_hash([str(result.path), result.record.get('target')])[:8]}"
        written.add(stem.casefold())
        for form in options.format:
            outputs += export(result, form, options.out / f"{stem}.{form}")
    screen.paths("file", [path.absolute() for path in outputs])
    return {"command": "export", "outputs": [str(p.absolute()) for p in outputs], "changed": changed}

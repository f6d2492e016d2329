"""What a stored number was made of, as far as it can be looked at again without running anything of the user's.

The identity of a computation says what decides it, but most of it (the network's code as an object, the examples)
can only be had by importing plug-ins and reading data. Beside it every result keeps where its code, weights and data
lay and what they were: paths, hashes and listings. `landscape.results.staleness` compares them with what is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..base.code_files import version
from ..base.errors import LandscapeError
from ..base.files import content_hash, stable_hash
from ..base.plugins import Plugin

LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}  # whose networks go by a name
_MOST_HEADER = 100 * 2**20
_MOST_FILES = 300_000  # of a folder that only a record names; of larger ones nothing is kept


def origins(named: Mapping[str, Plugin], checkpoints: Iterable[Path] = ()) -> dict[str, Any]:
    """What a result keeps of the places of its code, weights and data.

    Args:
        named: ``data``, ``model`` and ``loss``.
        checkpoints: The files, or folders, of its weights.

    Returns:
        ``code`` (files of the user's by what they are for), ``libraries`` that this code and the names need,
        ``weights`` and ``data``; strict JSON.
    """
    libraries: dict[str, str] = {}
    for what, plugin in named.items():
        libraries |= plugin.libraries
        library = LIBRARIES.get(plugin.name.partition(":")[0]) if what == "model" else None
        libraries |= {library: version(library)} if library else {}
    return {
        "code": {what: [list(pair) for pair in plugin.files] for what, plugin in named.items() if plugin.files},
        "libraries": {k: v for k, v in sorted(libraries.items()) if k},
        "weights": [[str(path), weights_state(path)] for path in checkpoints],
        "data": _data(named["data"]),
    }


def weights_state(path: Path) -> str | None:
    """What a checkpoint holds: the SHA-256 of its tensors as its header says, or of its bytes; None: it is gone.

    A file of this program says it in a few hundred bytes, and is refused where it is read if that is not true.
    """
    from ..weights.checkpoint_folders import weight_files

    if path.is_dir():
        try:
            parts = sorted((file.name, weights_state(file)) for file in weight_files(path))
        except LandscapeError:
            return None
        return f"folder {stable_hash(parts)}" if parts else None
    said = said_hash(path)
    if said is not None:
        return f"tensors {said}"
    content = content_hash(path)
    return None if content is None else f"bytes {content}"


def said_hash(path: Path) -> str | None:
    """The SHA-256 of the tensors that the header of a checkpoint of this program says; None for all others."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if path.suffix != ".safetensors" or size > _MOST_HEADER:
                return None
            header = json.loads(handle.read(size))
        return str(json.loads(header["__metadata__"]["landscape"])["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def listing(folder: Path) -> tuple[str, int] | None:
    """A hash of the names and sizes of all files below a folder, and when the newest was written (ns).

    None: it is gone, or too large to be looked at.
    """
    found: list[tuple[str, int]] = []
    newest, pending, seen = 0, [str(folder)], set[str]()
    while pending:
        place = pending.pop()
        real = os.path.realpath(place)
        if real in seen:  # a linked circle
            continue
        seen.add(real)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "cache-")):  # hidden, or made by whoever reads the folder
                        continue
                    if entry.is_dir():
                        pending.append(entry.path)
                    elif entry.is_file():
                        facts = entry.stat()
                        found.append((os.path.relpath(entry.path, folder), facts.st_size))
                        newest = max(newest, facts.st_mtime_ns)
        except (OSError, ValueError):
            if place == str(folder):
                return None
        if len(found) + len(seen) > _MOST_FILES:
            return None
    return stable_hash(sorted(found)), newest


def _data(plugin: Plugin) -> dict[str, object]:
    """The name of the data; of a folder of data what lies in it."""
    found: dict[str, Any] = {"name": plugin.name}
    prefix, _, rest = plugin.name.partition(":")
    if not plugin.files and prefix and rest and Path(rest).is_dir():
        seen = listing(Path(rest))
        found |= {"folder": rest, "listing": seen[0], "newest": seen[1]} if seen else {}
    return found

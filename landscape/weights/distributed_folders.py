"""Folders of ``torch.distributed.checkpoint``: an index, and files in which the pieces of tensors lie.

The index ``.metadata`` is a pickle. It is read by the machine that executes nothing (`inert_pickle`): objects of the
classes that torch writes there become records of their fields, all others names. A piece is a small file of
``torch.save`` at some place of a ``.distcp`` file, and is read in the same way, one at a time. Nothing is believed
that the index says: pieces have to fill each tensor, and all tensors together are not larger than the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.errors import DataError
from ..base.labels import shown
from .inert_pickle import DTYPES, Malformed, Placeholder, Record, read_inertly
from .networks import Network, choose
from .torch_files import read_torch_piece, refuse_attacks

INDEX = ".metadata"
SUFFIX = ".distcp"
_MODULE = "torch.distributed.checkpoint.metadata"
_TENSOR, _BYTES = f"{_MODULE}.TensorStorageMetadata", f"{_MODULE}.BytesStorageMetadata"
_PLACE = "torch.distributed.checkpoint.filesystem._StorageInfo"
_CLASSES = frozenset(
    {f"{_MODULE}.{name}" for name in ("Metadata", "MetadataIndex", "TensorProperties", "ChunkStorageMetadata")}
    | {f"{_MODULE}.{name}" for name in ("StorageMeta", "_MEM_FORMAT_ENCODING")}
    | {_TENSOR, _BYTES, _PLACE}
)
_MOST_INDEX = 200 * 2**20  # bytes
_MOST_DIMENSIONS = 64


class _Piece(NamedTuple):
    """A block of a tensor, and where it is written."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


class _Planned(NamedTuple):
    """A tensor as the index describes it."""

    name: str
    stand_in: Tensor  # of its shape and type, without numbers
    pieces: list[_Piece]


def is_distributed_folder(folder: Path) -> bool:
    """Whether a folder is one of ``torch.distributed.checkpoint``."""
    return (folder / INDEX).is_file() and any(folder.glob(f"*{SUFFIX}"))


def distributed_files(folder: Path) -> list[Path]:
    """The files of such a folder, the index first."""
    return [folder / INDEX, *sorted(folder.glob(f"*{SUFFIX}"))]


def read_distributed(folder: Path, key: str | None) -> tuple[Network, tuple[str, ...]]:
    """The network in such a folder, whole tensors, and the names that objects of the index were replaced by.

    Only its pieces are read: an optimizer's state beside it, which is larger, is not.

    Args:
        folder: With ``.metadata`` and ``*.distcp`` files, written by any number of processes.
        key: Which of several networks, as `choose` understands it.

    Raises:
        DataError: If the index or a file is damaged, unsafe, compressed or contradicts another, or holds no network.
        UsageError: If there is no such network.
    """
    index = folder / INDEX
    try:
        if index.stat().st_size > _MOST_INDEX:
            raise Malformed(f"its index has more than {_MOST_INDEX >> 20} MiB")
        described = read_inertly(index.read_bytes(), _no_elements, records=_CLASSES)
        refuse_attacks(described, str(index))
        whole = _fields(described.content, f"{_MODULE}.Metadata")
        tensors, others = _planned(folder, whole)
        _require_backed(folder, tensors)
        content = _nested(whole.get("planner_data"), {**{t.name: t.stand_in for t in tensors}, **others})
    except (Malformed, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        said = str(error) if isinstance(error, Malformed) else f"its index is damaged ({type(error).__name__})"
        raise _unreadable(said, folder) from error
    found = choose(content, key, str(folder))
    wanted = {id(t.stand_in): t for t in tensors}
    read = {name: _read(wanted[id(stand_in)], folder) for name, stand_in in found.tensors.items()}
    return replace(found, tensors=read), described.replaced


# -- the index -----------------------------------------------------------------------------------------------------


def _no_elements(key: str, dtype: torch.dtype, count: int) -> Tensor:
    raise Malformed("its index has tensors in it")


def _fields(record: object, name: str) -> dict[str, Any]:
    """The fields of an object of a class."""
    if not isinstance(record, Record) or record.name != name:
        raise Malformed(f"its index has no {name.rpartition('.')[2]} where one belongs")
    fields = record.states[-1] if record.states else {}
    if not isinstance(fields, dict):
        raise Malformed(f"its {name.rpartition('.')[2]} is damaged")
    return fields


def _planned(folder: Path, whole: Mapping[str, Any]) -> tuple[list[_Planned], dict[str, Placeholder]]:
    """The tensors by name, and what is no tensor."""
    places: dict[tuple[str, tuple[int, ...]], Mapping[str, Any]] = {}
    for index, info in whole["storage_data"].items():
        fields = _fields(index, f"{_MODULE}.MetadataIndex")
        if fields.get("offset") is not None:
            places[fields["fqn"], _numbers(fields["offset"])] = _fields(info, _PLACE)
    tensors, others = [], {}
    for name, entry in whole["state_dict_metadata"].items():
        if not isinstance(name, str) or not isinstance(entry, Record):
            raise Malformed("its index has an entry that is nothing")
        if entry.name == _BYTES:
            others[name] = Placeholder("an object in its own pickle")
            continue
        fields = _fields(entry, _TENSOR)
        kind = fields["properties"].states[-1][0]
        size = _numbers(fields["size"])
        if not isinstance(kind, Placeholder) or kind.name not in DTYPES:
            raise Malformed(f"tensor {shown(name)!r} has no type")
        pieces = []
        for chunk in fields["chunks"]:
            block = _fields(chunk, f"{_MODULE}.ChunkStorageMetadata")
            offsets, sizes = _numbers(block["offsets"]), _numbers(block["sizes"])
            inside = zip(offsets, sizes, size, strict=True)
            if not all(o + n <= s for o, n, s in inside) or (name, offsets) not in places:
                raise Malformed(f"a piece of tensor {shown(name)!r} lies elsewhere")
            pieces.append(_Piece(offsets, sizes, *_place(folder, places[name, offsets])))
        tensors.append(_Planned(name, torch.empty(size, dtype=DTYPES[kind.name], device="meta"), pieces))
    return tensors, others


def _numbers(value: Any) -> tuple[int, ...]:
    """A shape."""
    given = tuple(value)
    if (
        len(given) > _MOST_DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in given)
        or math.prod(given) >= 2**60
    ):
        raise Malformed("a tensor has an impossible shape")
    return given


def _place(folder: Path, info: Mapping[str, Any]) -> tuple[Path, int, int]:
    """File, first byte and number of bytes of a piece."""
    if info.get("transform_descriptors"):
        raise Malformed("its files are compressed")
    name, start, length = info["relative_path"], info["offset"], info["length"]
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
        raise Malformed(f"its index names a file elsewhere: {shown(str(name)[:100])!r}")
    if not (type(start) is type(length) is int and start >= 0 and length >= 0):
        raise Malformed("a piece lies nowhere")
    return folder / name, start, length


def _require_backed(folder: Path, tensors: Sequence[_Planned]) -> None:
    """Refuse pieces beyond the files' ends, and tensors that are larger than all files together."""
    files = {piece.file for t in tensors for piece in t.pieces}
    if missing := sorted(f.name for f in files if not f.is_file()):
        names = ", ".join(map(shown, missing[:10]))
        raise DataError(f"{len(missing)} file(s) are missing: {names}", str(folder), "copy them, too")
    sizes = {file: file.stat().st_size for file in files}
    if any(p.start + p.length > sizes[p.file] for t in tensors for p in t.pieces):
        raise DataError("a piece reaches beyond the end of its file", str(folder), "it is truncated: copy it again")
    claimed = sum(t.stand_in.numel() * t.stand_in.element_size() for t in tensors)
    if claimed > sum(sizes.values()):
        raise Malformed(f"its index claims {claimed:,} bytes of files of {sum(sizes.values()):,}")


def _nested(paths: Any, entries: Mapping[str, Tensor | Placeholder]) -> dict[Any, Any]:
    """The dictionaries that were saved: torch flattens them, and writes down where each entry stood."""
    content: dict[Any, Any] = {}
    for name, entry in entries.items():
        path = paths.get(name) if isinstance(paths, dict) else None
        simple = isinstance(path, tuple) and path and all(isinstance(k, (str, int)) for k in path)
        way = list(path) if simple and len(path) <= _MOST_DIMENSIONS else [name]  # type: ignore[arg-type]
        inner = content
        for k in way[:-1]:
            inner = inner.setdefault(k, {}) if isinstance(inner, dict) else {}
        if not isinstance(inner, dict) or way[-1] in inner:
            raise Malformed(f"two entries stand in one place ({shown(name)!r})")
        inner[way[-1]] = entry
    return content


# -- the files -----------------------------------------------------------------------------------------------------


def _read(planned: _Planned, folder: Path) -> Tensor:
    """A whole tensor from its pieces, one after the other."""
    like = planned.stand_in
    found = torch.empty(like.shape, dtype=like.dtype)
    filled = torch.zeros(like.shape, dtype=torch.bool)
    for piece in planned.pieces:
        with open(piece.file, "rb") as handle:
            handle.seek(piece.start)
            data = bytearray(handle.read(piece.length))
        if not data.startswith(b"PK"):
            raise _unreadable(f"{shown(piece.file.name)} is in another format than torch.save's", folder)
        content = read_torch_piece(data, str(piece.file))
        block = tuple(slice(o, o + n) for o, n in zip(piece.offsets, piece.sizes, strict=True))
        fits = isinstance(content, Tensor) and (tuple(content.shape), content.dtype) == (piece.sizes, like.dtype)
        if not fits or bool(filled[block].any()):
            raise _unreadable(f"a piece of tensor {shown(planned.name)!r} is another than its index says", folder)
        found[block] = content
        filled[block] = True
    if not bool(filled.all()):
        raise _unreadable(f"pieces of tensor {shown(planned.name)!r} are missing", folder)
    return found


def _unreadable(what: str, folder: Path) -> DataError:
    return DataError(
        f"the distributed checkpoint cannot be read: {what}",
        str(folder),
        "where it was made: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
    )

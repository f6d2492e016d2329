"""Files of ``torch.save``: checked, read by torch as plain weights, and inertly where they hold more than that."""

from __future__ import annotations

import io
import logging
import mmap
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..base.errors import DataError, LandscapeError
from ..base.labels import shown
from ..base.process_state import one_at_a_time
from .inert_pickle import Description, Elements, Malformed, read_inertly
from .legacy_files import read_legacy

log = logging.getLogger(__name__)

_MOST_PICKLE = 200 * 2**20  # bytes of a description of tensors, without their numbers


def read_torch(path: Path) -> tuple[Any, str, list[str]]:
    """What a file of ``torch.save`` holds.

    Its pickle is read by `read_inertly`: objects are never constructed, and tensors are views of the file's own
    records. If a zip file holds nothing but plain weights, torch makes them, with ``weights_only=True``.

    Returns:
        The content; ``zip`` or ``pickle``; names of classes and functions that placeholders stand for.

    Raises:
        DataError: If the file is damaged, unsafe or no checkpoint.
    """
    with open(path, "rb") as handle:
        kind = "zip" if zipfile.is_zipfile(path) or handle.read(2) == b"PK" else "pickle"
    if kind == "zip":
        _check_zip(path, path.stat().st_size, str(path))
    try:
        described = _described(path, _mapped(path)) if kind == "zip" else read_legacy(path)
    except (Malformed, UnicodeDecodeError) as error:
        raise _unreadable(str(path), f": {error}") from error
    refuse_attacks(described, str(path))
    if kind == "zip" and described.plain:
        try:
            # weights_only is said here and not left to its default: an environment variable can turn the default
            # off, but not an explicit True.
            with one_at_a_time(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on pickle protocols; what matters becomes an error
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True), kind, []
        except Exception as error:  # what it does not know yet was read here all the same
            log.debug("torch does not read %s: %s", path, error)
    return described.content, kind, list(described.replaced)


def read_torch_piece(data: bytearray, where: str) -> Any:
    """What a zip file of ``torch.save`` holds that is part of another file; tensors are views of ``data``.

    Raises:
        DataError: As of `read_torch`.
    """
    file = io.BytesIO(data)
    _check_zip(file, len(data), where)
    try:
        described = _described(file, data)
    except (Malformed, UnicodeDecodeError) as error:
        raise _unreadable(where, f": {error}") from error
    refuse_attacks(described, where)
    return described.content


def refuse_attacks(described: Description, where: str) -> None:
    """Refuse a pickle that names what runs commands.

    Raises:
        DataError: If it does.
    """
    if attacks := [name for name in described.replaced if name.startswith(_ATTACKS)]:
        raise DataError(
            f"unpickling it could run code that no checkpoint needs ({', '.join(map(shown, attacks[:5]))})",
            where,
            "do not use it, and tell where it came from",
        )


def _unreadable(where: str, text: str) -> DataError:
    return DataError(
        f"the checkpoint cannot be read as plain weights{text}",
        where,
        "it is truncated, damaged or no checkpoint; save the state_dict again where it was made",
    )


# -- zip ----------------------------------------------------------------------------------------------------------


def _described(file: Path | BinaryIO, content: mmap.mmap | bytearray) -> Description:
    with zipfile.ZipFile(file) as archive:
        records = {r.filename: r for r in archive.infolist()}
        pickles = [n for n in records if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1 or len(records) != len(archive.infolist()):
            raise Malformed("it has several records of one name" if pickles else "it has no data.pkl")
        if records[pickles[0]].file_size > _MOST_PICKLE:
            raise Malformed(f"its data.pkl has more than {_MOST_PICKLE >> 20} MiB")
        root = pickles[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder").decode() if f"{root}byteorder" in records else "little"
        if order != sys.byteorder:
            raise Malformed(f"it was written on a machine of another byte order ({order[:10]!r})")
        return read_inertly(archive.read(pickles[0]), _records_as_tensors(content, root, records))


# What whoever pickled it did not do by accident. That it is refused protects other programs; here nothing would run.
_ATTACKS = (
    *("os.", "posix.", "nt.", "sys.", "subprocess.", "socket.", "runpy.", "shutil.", "importlib.", "ctypes.", "pty."),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.open"),
)


def _mapped(path: Path) -> mmap.mmap:
    """The file in memory; what is written there stays in memory."""
    with open(path, "rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)


def _records_as_tensors(mapped: mmap.mmap | bytearray, root: str, records: dict[str, zipfile.ZipInfo]) -> Elements:
    """Views of the stored numbers."""
    made: dict[tuple[str, torch.dtype, int], Tensor] = {}
    copies: dict[str, bytearray] = {}  # of records at odd places, each once

    def elements(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if (key, dtype, count) not in made:
            record = records.get(f"{root}data/{key}")
            if record is None:
                raise Malformed("a storage is missing")
            if count * dtype.itemsize > record.file_size:
                raise Malformed("a tensor claims more elements than its record has")
            # The header before a record has its own lengths, which need not be those of the directory.
            lengths = mapped[record.header_offset + 26 : record.header_offset + 30]
            start = record.header_offset + 30 + sum(struct.unpack("<HH", lengths))
            if start + record.file_size > len(mapped):
                raise Malformed("a record reaches beyond the file")
            if count == 0:
                made[key, dtype, count] = torch.empty(0, dtype=dtype)
            elif start % 16:
                copy = copies.get(key) or bytearray(mapped[start : start + record.file_size])
                copies[key] = copy
                made[key, dtype, count] = torch.frombuffer(copy, dtype=dtype, count=count)
            else:
                made[key, dtype, count] = torch.frombuffer(mapped, dtype=dtype, count=count, offset=start)
        return made[key, dtype, count]

    return elements


def _check_zip(file: Path | BinaryIO, size: int, where: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            for record in records:
                if record.compress_type != zipfile.ZIP_STORED:
                    raise DataError(
                        f"record {record.filename!r} is compressed",
                        where,
                        "save it with torch.save, which stores plainly",
                    )
            total = sum(r.file_size for r in records)
            if total > size:
                raise DataError(f"its records claim {total:,} bytes in a file of {size:,}", where, "do not use it")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, LandscapeError):
            raise
        raise DataError("the checkpoint is truncated or damaged", where, "copy or save it again") from error
    if damaged is not None:
        raise DataError(f"CRC mismatch in record {damaged!r}: its bytes changed", where, "copy or save it again")

"""Files of ``torch.save``: checked, read by torch as plain weights, and inertly where they hold more than that."""

from __future__ import annotations

import mmap
import os
import pickletools
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..base.errors import DataError, LandscapeError
from ..base.labels import shown
from ..base.process_state import one_at_a_time
from .inert_pickle import Description, Elements, Malformed, read_inertly
from .networks import objects_alone

_MOST_PICKLE = 200 * 2**20  # bytes of a description of tensors, without their numbers


def read_torch(path: Path) -> tuple[Any, str, list[str]]:
    """What a file of ``torch.save`` holds.

    The pickle of a zip file is first read by `read_inertly`. If it holds nothing but plain weights, torch makes them,
    with ``weights_only=True``; else what was read inertly is taken: objects are never constructed, and tensors are
    views of the file's own records.

    Returns:
        The content; ``zip`` or ``pickle``; names of classes and functions that placeholders stand for.

    Raises:
        DataError: If the file is damaged, unsafe or no checkpoint.
    """
    with open(path, "rb") as handle:
        kind = "zip" if zipfile.is_zipfile(path) or handle.read(2) == b"PK" else "pickle"
    if kind == "zip":
        _check_zip(path)
        described = _described(path)
        if not described.plain:
            return described.content, kind, list(described.replaced)
    else:
        _check_legacy_pickle(path)
    try:
        # weights_only is said here and not left to its default: an environment variable can turn the default
        # off, but not an explicit True.
        with one_at_a_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols; what matters becomes an error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip"), kind, []
    except Exception as error:
        if isinstance(error, LandscapeError):
            raise
        told = str(error)[:120]
        raise _unreadable(path, "" if not told or "weights" in told.lower() else f": {told}") from error


def _unreadable(path: Path, text: str) -> DataError:
    return DataError(
        f"the checkpoint cannot be read as plain weights{text}",
        str(path),
        "it is truncated, damaged or no checkpoint; save the state_dict again where it was made",
    )


# -- zip ----------------------------------------------------------------------------------------------------------


def _described(path: Path) -> Description:
    try:
        with zipfile.ZipFile(path) as archive:
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
            found = read_inertly(archive.read(pickles[0]), _records_as_tensors(path, root, records))
    except (Malformed, UnicodeDecodeError) as error:
        raise _unreadable(path, f": {error}") from error
    if attacks := [name for name in found.replaced if name.startswith(_ATTACKS)]:
        raise DataError(
            f"unpickling it could run code that no checkpoint needs ({', '.join(map(shown, attacks[:5]))})",
            str(path),
            "do not use it, and tell where it came from",
        )
    return found


# What whoever pickled it did not do by accident. That it is refused protects other programs; here nothing would run.
_ATTACKS = (
    *("os.", "posix.", "nt.", "sys.", "subprocess.", "socket.", "runpy.", "shutil.", "importlib.", "ctypes.", "pty."),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.open"),
)


def _records_as_tensors(path: Path, root: str, records: dict[str, zipfile.ZipInfo]) -> Elements:
    """Views of the stored numbers: the file is mapped, and what is written there stays in memory."""
    with open(path, "rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
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


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            for record in records:
                if record.compress_type != zipfile.ZIP_STORED:
                    raise DataError(
                        f"record {record.filename!r} is compressed",
                        str(path),
                        "save it with torch.save, which stores plainly",
                    )
            total, size = sum(r.file_size for r in records), path.stat().st_size
            if total > size:
                raise DataError(
                    f"its records claim {total:,} bytes in a file of {size:,}", str(path), "do not use it"
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, LandscapeError):
            raise
        raise DataError("the checkpoint is truncated or damaged", str(path), "copy or save it again") from error
    if damaged is not None:
        raise DataError(f"CRC mismatch in record {damaged!r}: its bytes changed", str(path), "copy or save it again")


# -- legacy -------------------------------------------------------------------------------------------------------


def _check_legacy_pickle(path: Path) -> None:
    """Look through a pickle without running it, and refuse what the loader would only stumble over.

    A storage is named by a persistent id, a tuple ending in its number of elements; torch would allocate that
    many before reading them. Names of classes that are no plain weights are refused here with a message that
    says which; the loader's own allow-list remains the protection.

    Raises:
        DataError: If a storage claims more elements than the file has bytes, or objects are pickled.
    """
    size = path.stat().st_size
    for opcode, argument, previous in _pickle_operations(path):
        if opcode == "BINPERSID" and max((a for a in previous if isinstance(a, int)), default=size + 1) > size:
            raise DataError("a tensor claims more elements than the file has bytes", str(path), "do not use it")
        if opcode in ("GLOBAL", "STACK_GLOBAL"):
            words = str(argument).split() if opcode == "GLOBAL" else [a for a in previous if isinstance(a, str)][-2:]
            _refuse_foreign({".".join(words)}, path)


def _pickle_operations(path: Path) -> Iterator[tuple[str, object, list[object]]]:
    """Operations of the pickles in a legacy file, each with the constants since the last mark.

    The file holds a magic number, a protocol, facts on the system, the object and the storage keys; raw
    tensors follow. A file that ends or breaks earlier ends the iteration; the loader says how it is broken.
    """
    with open(path, "rb") as handle:
        for _ in range(5):
            constants: list[Any] = []
            rest: Any = _Rest(handle)
            operations = pickletools.genops(rest)
            while True:
                try:
                    opcode, argument, _ = next(operations)
                except StopIteration:
                    break
                except (ValueError, EOFError, IndexError, UnicodeDecodeError):
                    return
                if opcode.name == "MARK":
                    constants = []
                elif not opcode.name.startswith(("BINPUT", "LONG_BINPUT", "PROTO", "FRAME", "MEMOIZE")):
                    yield opcode.name, argument, constants
                    if isinstance(argument, (int, str)):
                        constants.append(argument)


class _Rest:
    """A file of which nobody asks for more bytes than it has, whatever length a string in it claims."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle, self.size = handle, os.fstat(handle.fileno()).st_size
        self.readline, self.tell = handle.readline, handle.tell

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; fewer at the end."""
        return self.handle.read(min(count, self.size))


def _refuse_foreign(names: set[str], path: Path) -> None:
    known = ("torch.", "collections.", "numpy.")
    foreign = sorted(n for n in names if not n.startswith(known) or n.startswith("torch.nn."))
    if foreign:
        raise objects_alone(foreign, str(path))

"""Files of ``torch.save`` from before the zip format (torch < 1.6), and bare pickles.

Five pickles follow each other: a magic number, the protocol, facts on the machine, the content, and the keys of its
storages; then the numbers of each storage, behind how many there are. Nothing of it says where a pickle ends but the
pickle itself, so all are read by `read_inertly`, which executes nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from .inert_pickle import Description, Malformed, read_inertly

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_legacy(path: Path) -> Description:
    """The content of such a file, its tensors in memory of their own.

    Raises:
        Malformed: If it is something else, truncated or damaged, or a tensor claims more than the file has bytes.
    """
    left = path.stat().st_size
    made: dict[str, Tensor] = {}  # the bytes of each storage, not written before the numbers are found

    def elements(key: str, dtype: torch.dtype, count: int) -> Tensor:
        nonlocal left
        needed = count * dtype.itemsize
        if key not in made:
            left -= needed
            if left < 0:
                raise Malformed("a tensor claims more elements than the file has bytes")
            made[key] = torch.empty(needed, dtype=torch.uint8)
        if needed > made[key].nbytes:
            raise Malformed("a tensor claims more elements than its storage has")
        return made[key][:needed].view(dtype)

    with open(path, "rb") as handle:
        rest = cast(BinaryIO, _Rest(handle))
        first = read_inertly(rest, _no_elements)
        if first.content != _MAGIC:
            return first
        protocol, facts = read_inertly(rest, _no_elements).content, read_inertly(rest, _no_elements).content
        if protocol != _PROTOCOL or not isinstance(facts, Mapping):
            raise Malformed("it has another protocol than the known one")
        if facts.get("little_endian", True) is not (sys.byteorder == "little"):
            raise Malformed("it was written on a machine of another byte order")
        found = read_inertly(rest, elements)
        keys = read_inertly(rest, _no_elements).content
        _fill(handle, keys, found.storages, made)
    return found


def _no_elements(key: str, dtype: torch.dtype, count: int) -> Tensor:
    raise Malformed("it has tensors and no numbers")


def _fill(handle: BinaryIO, keys: Any, sizes: Mapping[str, tuple[int, int]], made: Mapping[str, Tensor]) -> None:
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or set(made) - set(keys):
        raise Malformed("a storage is missing")
    for key in dict.fromkeys(keys):
        count, width = sizes.get(key, (-1, 0))
        if int.from_bytes(handle.read(8), "little") != count:
            raise Malformed("a storage has another size than its tensors say, or it is truncated")
        if key not in made:
            handle.seek(count * width, os.SEEK_CUR)
        elif made[key].nbytes and _read_into(handle, made[key]) != count * width:
            raise Malformed("it is truncated")


def _read_into(handle: Any, storage: Tensor) -> int:
    read: int = handle.readinto(storage.numpy())
    return read


class _Rest:
    """A file of which nobody asks for more bytes than it has, whatever length a string in it claims."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle, self.size = handle, os.fstat(handle.fileno()).st_size
        self.readline, self.tell = handle.readline, handle.tell

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; fewer at the end."""
        return self.handle.read(min(count, self.size))

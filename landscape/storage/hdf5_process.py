"""The process that opens HDF5 files: it reads a path per line and answers with what `hdf5.read_hdf5` makes arrays of.

What a result never holds is refused before it is followed or allocated: soft and external links, groups, data whose
bytes lie in other files, virtual, compressed or never written data.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_MORE_MEMORY = 1 << 27  # above what Python and h5py take, and some copies of the file
_PROCESSOR_SECONDS = 20  # ends this process, if nobody else does
_NAMES = 10_000


def main() -> None:
    """Answer until nobody asks any more."""
    import h5netcdf  # noqa: F401 - now, and not in the time of the first file
    import h5py  # noqa: F401

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed goes nowhere
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        path = json.loads(line)
        parts: list[bytes] = []
        try:
            _limit(os.path.getsize(path))
            header = _read(path, parts)
        except MemoryError:
            header = {"error": "it asks for more memory than its size allows"}
        except Exception as error:  # whatever the library says about a stranger's file
            header = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
            parts.clear()
        header["bytes"] = sum(map(len, parts))
        answers.write(json.dumps(header).encode() + b"\n")
        answers.writelines(parts)
        answers.flush()


def _limit(size: int) -> None:
    """Allow memory and processor time for one file of so many bytes."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    sizes = Path("/proc/self/statm")
    if sizes.exists():
        memory = int(sizes.read_text().split()[0]) * resource.getpagesize() + _MORE_MEMORY + 4 * size
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory if hard < 0 else min(memory, hard), hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + _PROCESSOR_SECONDS + size // 10_000_000
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard < 0 else min(seconds, hard), hard))


def _read(path: str, parts: list[bytes]) -> dict[str, object]:
    """The header of the answer; the bytes of the numbers go to ``parts``."""
    import h5netcdf
    import h5py

    with h5py.File(path, "r") as file:
        size = os.path.getsize(path)
        names = _checked(file, size)
        if "landscape" not in file.attrs:  # another program's file: arrays without names of dimensions
            plain = {n: _told((), file[n], {}, parts) for n in names}
            return {"variables": plain, "attributes": {}}
    with h5netcdf.File(path, "r") as file:
        attributes = {str(k): _value(v) for k, v in file.attrs.items()}
        told = {
            str(n): _told(v.dimensions, v, {str(k): _value(a) for k, a in v.attrs.items()}, parts)
            for n, v in file.variables.items()
        }
    return {"variables": told, "attributes": attributes}


def _checked(file: Any, size: int) -> list[str]:
    """The names of the data sets, none of which leads anywhere else."""
    import h5py

    names = []
    total = 0
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link to another place")
        if file.get(name, getclass=True) is not h5py.Dataset:
            raise ValueError(f"{name!r} is no array")
        names.append(name)
        if len(names) > _NAMES:
            raise ValueError("it holds too many names")
        data = file[name]
        made = data.id.get_create_plist()
        if made.get_external_count():
            raise ValueError(f"the bytes of {name!r} lie in another file")
        if made.get_layout() == h5py.h5d.VIRTUAL:
            raise ValueError(f"{name!r} is made of other data sets")
        if made.get_nfilters():
            raise ValueError(f"{name!r} is compressed")
        scale = data.attrs.get("NAME", b"")
        if _is_bare_dimension(scale):
            continue  # nothing is stored for the length of a dimension
        if data.shape is None:
            raise ValueError(f"{name!r} holds nothing")
        length = data.size * data.dtype.itemsize
        total += length
        if total > size or data.id.get_storage_size() < length:
            raise ValueError(f"{name!r} is larger than what was written of it")
    return names


def _is_bare_dimension(scale: object) -> bool:
    return isinstance(scale, bytes) and scale.startswith(b"This is a netCDF dimension but not a netCDF variable")


def _told(dims: Any, data: Any, attributes: dict[str, Any], parts: list[bytes]) -> dict[str, Any]:
    values = data[...]
    shape = list(values.shape)
    texts = None
    if values.dtype.kind in "OS":
        texts = [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values.ravel()]
    elif values.dtype.kind in "fiub" and values.dtype.itemsize <= 8:
        parts.append(values.tobytes())
    else:
        raise ValueError(f"an array holds {values.dtype}")
    return {
        "dims": [str(d) for d in dims],
        "shape": shape,
        "type": values.dtype.str,
        "values": texts,
        "attributes": attributes,
    }


def _value(value: object) -> object:
    """An attribute as JSON; what JSON cannot say is no concern of ours."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if isinstance(value, (str, int, float, bool)) else None

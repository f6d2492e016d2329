"""Named arrays and one text as the bytes of a netCDF file: classic format, with a checksum of the whole.

The classic format (64-bit offsets) is a flat list of names and places, so that a file of a stranger can be read
without following anything: every number in the header is compared with the length of the file before it is used. Any
netCDF program reads these files; what the format cannot say (empty arrays, integers above 32 bits, some texts and
names) stands in the text attribute beside the record.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

MAGIC = b"CDF\x02"
_TEXT, _CHECKSUM, _BESIDE, _ORDER = "landscape", "sha256", "beside", "order"
_UNSIGNED = b"0" * 64
_TYPES = {1: "i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}  # of the format's specification
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # names that every reader of the format takes
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12


@dataclass
class Arrays:
    """Arrays as a file holds them: `variables` maps a name to dimensions, values and attributes."""

    variables: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    def understood(self) -> tuple[dict[str, xr.Variable], list[str]]:
        """Texts, truth values and integers (of 64 bits) as they were, and the names of the coordinates."""
        import xarray as xr

        coordinates = str(self.attributes.get("coordinates", "")).split()
        variables = {}
        for name, (dims, values, about) in self.variables.items():
            coordinates += str(about.get("coordinates", "")).split()
            if values.dtype.kind == "S":
                variables[name] = xr.Variable(dims[:-1], _joined(values, str(about.get("_Encoding", "utf-8"))))
            elif about.get("dtype") == "bool":
                variables[name] = xr.Variable(dims, values.astype(bool))
            else:
                kind = np.int64 if values.dtype.kind in "iu" else values.dtype
                variables[name] = xr.Variable(dims, values.astype(kind, copy=False))
        return variables, [n for n in coordinates if n in variables]


def _joined(letters: Any, encoding: str) -> object:
    """Texts whose letters lie along the last dimension."""
    if encoding not in ("utf-8", "ascii"):
        raise ValueError(f"its texts are {encoding!r}")
    width = letters.shape[-1]
    joined = np.ascontiguousarray(letters).view(f"S{width}").reshape(letters.shape[:-1])
    return np.array([v.decode(encoding) for v in joined.ravel()], dtype=str).reshape(joined.shape)


def encode(data: xr.Dataset, text: dict[str, Any]) -> bytes:
    """The bytes of a file.

    Args:
        data: Numbers, truth values and texts.
        text: What stands beside them; strict JSON.
    """
    beside = {
        str(n): _written(v, n in data.coords)
        for n, v in data.variables.items()
        if not (_fits(v) and all(_PLAIN.fullmatch(str(name)) for name in (n, *v.dims)))
    }
    order = list(map(str, data.data_vars))  # the writer sorts arrays by shape; the first one is the analysis' own
    content = json.dumps({**text, _ORDER: order, _BESIDE: beside}, allow_nan=False)
    plain = data.drop_vars(list(beside)).drop_attrs()
    made = bytes(
        plain.assign_attrs({_CHECKSUM: _UNSIGNED.decode(), _TEXT: content}).to_netcdf(
            engine="scipy", format="NETCDF3_64BIT"
        )
    )
    place = _checksum_place(made)
    return made[:place] + hashlib.sha256(made).hexdigest().encode() + made[place + 64 :]


def decode(content: bytes) -> tuple[xr.Dataset, dict[str, Any]]:
    """What `encode` was given.

    Raises:
        ValueError: If the bytes are no such file, or not what was written.
    """
    place = _checksum_place(content)
    unsigned = hashlib.sha256(content[:place])
    unsigned.update(_UNSIGNED)
    unsigned.update(memoryview(content)[place + 64 :])
    if unsigned.hexdigest().encode() != content[place : place + 64]:
        raise ValueError("its checksum does not fit: it was damaged, or changed by another program")
    return decoded(_Header(content).arrays())


def decoded(arrays: Arrays) -> tuple[xr.Dataset, dict[str, Any]]:
    """The dataset and the text of arrays that were read from a file.

    Raises:
        ValueError: If they are none of a result.
    """
    import xarray as xr

    try:
        text = json.loads(str(arrays.attributes[_TEXT]), parse_constant=_no_constant)
        variables, coordinates = arrays.understood()
        for name, value in text.pop(_BESIDE, {}).items():
            variables[name] = _read(value)
            coordinates += [name] if value["coordinate"] else []
        order = text.pop(_ORDER, ())
        variables = {n: variables[n] for n in (*order, *(n for n in variables if n not in order))}
        return xr.Dataset(variables).set_coords(coordinates), text
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]!r}") from None
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _fits(variable: Any) -> bool:
    """Whether the format holds these values as they are."""
    values = variable.values
    if not values.size and values.ndim:
        return False
    if values.dtype.kind in "iu":
        limits = np.iinfo(np.int32)
        return bool(limits.min <= values.min() and values.max() <= limits.max)
    if values.dtype.kind in "OU":
        return all(isinstance(v, str) and v and v.isprintable() for v in values.ravel())
    return True


def _written(variable: Any, coordinate: bool) -> dict[str, object]:
    kind = variable.dtype.kind
    return {
        "dims": list(variable.dims),
        "shape": list(variable.shape),
        "type": "text" if kind in "OU" else str(variable.dtype),
        "values": [str(v) for v in variable.values.ravel()] if kind in "OU" else variable.values.ravel().tolist(),
        "coordinate": coordinate,
    }


def _read(value: Any) -> Any:
    import xarray as xr

    kind, shape = value["type"], tuple(value["shape"])
    if kind not in ("text", "float64", "float32", "int64", "int32", "uint64", "bool"):
        raise ValueError(f"there is no type {kind!r}")
    if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) != len(value["values"]):
        raise ValueError(f"{len(value['values'])} values are no array of shape {list(shape)}")
    if kind == "text":
        values = np.empty(len(value["values"]), dtype=object)  # fixed widths would drop a NUL at the end
        values[:] = [_text(v) for v in value["values"]]
        values = values.reshape(shape)
    else:
        values = np.array(value["values"], dtype=kind).reshape(shape)
    return xr.Variable([_text(d) for d in value["dims"]], values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is no JSON")


def _checksum_place(content: bytes) -> int:
    """Where the 64 hexadecimal digits stand."""
    before = struct.pack(">i8sii", 6, b"sha256\0\0", 2, 64)
    found = content.find(before, 0, 1 << 20)
    if not content.startswith(MAGIC) or found < 0 or found + len(before) + 64 > len(content):
        raise ValueError("it is no netCDF file of this program")
    return found + len(before)


class _Header:
    """The list of names and places at the start of the file, read without trust."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, len(MAGIC)

    def arrays(self) -> Arrays:
        if self._number():
            raise ValueError("it has records")
        sizes = [(self._name(), self._number()) for _ in range(self._count(_DIMENSIONS))]
        attributes = self._attributes()
        variables = {}
        used = 0
        for _ in range(self._count(_VARIABLES)):
            name = self._name()
            places = [self._number() for _ in range(self._number())]
            own = self._attributes()
            kind = self._kind()
            self._number()  # the size, which follows from the shape
            begin = self._number(8)
            if any(p >= len(sizes) for p in places) or name in variables:
                raise ValueError(f"{name!r} is damaged")
            dims, shape = [sizes[p][0] for p in places], [sizes[p][1] for p in places]
            if len({*dims}) < len(dims):
                raise ValueError(f"{name!r} has a dimension twice")
            length = math.prod(shape) * kind.itemsize
            used += length
            if begin + length > len(self.content) or used > len(self.content):
                raise ValueError(f"{name!r} is larger than the file")
            values = np.frombuffer(self.content, kind, math.prod(shape), begin).reshape(shape)
            variables[name] = (
                tuple(dims),
                values.astype(kind.newbyteorder("=")),
                own,
            )
        return Arrays(variables, attributes)

    def _take(self, length: int) -> bytes:
        """The next bytes; fields are filled up to multiples of four."""
        start, self.place = self.place, self.place + length + -length % 4
        if self.place > len(self.content):
            raise ValueError("it ends within its header")
        return self.content[start : start + length]

    def _number(self, width: int = 4) -> int:
        return int.from_bytes(self._take(width), "big")

    def _count(self, tag: int) -> int:
        """How many entries a list has: its tag and their number, both zero where there is none."""
        found, count = self._number(), self._number()
        if found != tag and (found or count):
            raise ValueError("its header is damaged")
        return count

    def _name(self) -> str:
        return self._take(self._number()).decode("utf-8")

    def _kind(self) -> np.dtype[Any]:
        number = self._number()
        if number not in _TYPES:
            raise ValueError(f"it has a type {number}")
        return np.dtype(_TYPES[number])

    def _attributes(self) -> dict[str, object]:
        found = {}
        for _ in range(self._count(_ATTRIBUTES)):
            name, kind, count = self._name(), self._kind(), self._number()
            raw = self._take(count * kind.itemsize)
            values = np.frombuffer(raw, kind).astype(kind.newbyteorder("="))
            found[name] = raw.decode("utf-8") if kind.char == "S" else values[0] if count == 1 else values
        return found

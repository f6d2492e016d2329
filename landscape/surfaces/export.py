"""Surfaces for other programs: NumPy archives, tables, and images for ParaView."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from ..errors import UsageError
from ..files import atomic_path, write_bytes
from ..names import unknown_name
from ..result import Result, shows_stored


@shows_stored
def export(result: Result, form: str, path: Path) -> Path:
    """Write a stored result in another format; NaN and infinities stay what they are.

    Args:
        result: Any result for ``npz`` and ``csv``; one over ``(y, x)`` for ``vti``.
        form: A name in `FORMATS`.
        path: The file.

    Raises:
        UsageError: If the format is unknown or does not fit the result.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS, "--format")
    FORMATS[form](result, path)
    return path


def _npz(result: Result, path: Path) -> None:
    """Every array and coordinate by name, and the record as JSON text under ``record``."""
    data = result.data
    arrays = {str(k): v.values for k, v in (*data.coords.items(), *data.data_vars.items())}
    plain = {k: v.astype(str) if v.dtype == object else v for k, v in arrays.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **plain, record=np.array(json.dumps(result.record)))


def _csv(result: Result, path: Path) -> None:
    """A row per point, and per domain where there are any; arrays over other dimensions in files named after them."""
    dims = {str(n): frozenset(map(str, v.dims)) for n, v in result.data.data_vars.items()}
    largest = {d: n for n, d in dims.items() if not any(d < other for other in dims.values())}
    for i, (over, name) in enumerate(sorted(largest.items(), key=lambda one: -len(one[0]))):
        table = result.to_pandas(name)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.columns)
        for row in table.itertuples(index=False):
            writer.writerow([_cell(v) for v in row])
        file = path if not i else path.with_name(f"{path.stem}-{'-'.join(sorted(over))}{path.suffix}")
        write_bytes(file, text.getvalue().encode())


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return repr(value.item() if hasattr(value, "item") else value)


def _vti(result: Result, path: Path) -> None:
    """VTK XML ImageData with one point array per metric and domain; ``log10_loss`` is there for warping by height."""
    data = result.data
    if not {"x", "y"} <= set(data.dims):
        raise UsageError(f"a {result.kind} of one dimension is no image", "--format vti", "use csv or npz")
    x, y = data["x"].values, data["y"].values
    arrays: dict[str, Any] = {}
    for name, values in data.data_vars.items():
        others = [d for d in values.dims if d not in ("x", "y")]
        if {"x", "y"} <= set(values.dims) and len(others) <= 1:
            moved = values.transpose(*others, "y", "x")
            labels = [str(v) for v in data[others[0]].values] if others else [""]
            for i, label in enumerate(labels):
                arrays[f"{name} {label}".strip()] = (moved[i] if others else moved).values.astype(float)
    if "loss" in arrays:
        with np.errstate(all="ignore"):
            arrays["log10_loss"] = np.log10(arrays["loss"])
    write_bytes(path, _image(x, y, arrays).encode())


def _image(x: Any, y: Any, arrays: Mapping[str, Any]) -> str:
    extent = f"0 {len(x) - 1} 0 {len(y) - 1} 0 0"
    spacing = f"{float(x[-1] - x[0]) / (len(x) - 1)!r} {float(y[-1] - y[0]) / (len(y) - 1)!r} 1.0"
    lines = [
        '<?xml version="1.0"?>',
        '<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian">',
        f'<ImageData WholeExtent="{extent}" Origin="{float(x[0])!r} {float(y[0])!r} 0.0" Spacing="{spacing}">',
        f'<Piece Extent="{extent}"><PointData Scalars="loss">',
    ]
    for name, values in arrays.items():
        numbers = " ".join(repr(float(v)) for v in values.ravel())
        lines.append(f'<DataArray type="Float64" Name={quoteattr(name)} format="ascii">{numbers}</DataArray>')
    return "\n".join([*lines, "</PointData></Piece></ImageData></VTKFile>", ""])


FORMATS: Mapping[str, Callable[[Result, Path], None]] = {"npz": _npz, "csv": _csv, "vti": _vti}

"""Surfaces for other programs: NumPy archives, tables, and images for ParaView."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from ..base.arrays import Floats
from ..base.errors import UsageError
from ..base.files import atomic_path, write_bytes
from ..base.labels import defused, file_name, file_names, shown
from ..base.names import unknown_name
from ..results.result import Result, shows_stored

_OWN_MEMBERS = ("record", "names")


@shows_stored
def export(result: Result, form: str, path: Path) -> list[Path]:
    """Write a stored result in another format; NaN and infinities stay what they are.

    Args:
        result: Any result for ``npz`` and ``csv``; one over ``(y, x)`` for ``vti``.
        form: A name in `FORMATS`.
        path: The file.

    Returns:
        The files that were written, ``path`` first.

    Raises:
        UsageError: If the format is unknown or does not fit the result.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS, "`form=`")
    return FORMATS[form](result, path)


def _npz(result: Result, path: Path) -> list[Path]:
    """Every array and coordinate by name, and the record as JSON text under ``record``.

    An archive's members are files for whoever unpacks it; ``names`` has those whose own names are no plain ones.
    """
    data = result.data
    arrays = {str(k): v.values for k, v in (*data.coords.items(), *data.data_vars.items())}
    members = file_names([*_OWN_MEMBERS, *arrays])
    members |= {k: f"{members[k]}_" for k in arrays if k in _OWN_MEMBERS}
    plain = {members[k]: v.astype(str) if v.dtype == object else v for k, v in arrays.items()}
    others = {members[k]: k for k in arrays if members[k] != k}
    texts = {"record": result.record, **({"names": others} if others else {})}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in {**plain, **{k: np.array(json.dumps(v)) for k, v in texts.items()}}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)
    return [path]


def _csv(result: Result, path: Path) -> list[Path]:
    """A row per point, and per domain where there are any; arrays over other dimensions in files named after them."""
    dims = {str(n): frozenset(map(str, v.dims)) for n, v in result.data.data_vars.items()}
    largest = {d: n for n, d in dims.items() if not any(d < other for other in dims.values())}
    files = []
    for i, (over, name) in enumerate(sorted(largest.items(), key=lambda one: -len(one[0]))):
        table = result.to_pandas(name)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([defused(str(c)) for c in table.columns])
        for row in table.itertuples(index=False):
            writer.writerow([_cell(v) for v in row])
        file = path if not i else path.with_name(f"{path.stem}-{file_name('-'.join(sorted(over)))}{path.suffix}")
        write_bytes(file, text.getvalue().encode("utf-8", "backslashreplace"))
        files.append(file)
    return files


def _cell(value: object) -> str:
    if isinstance(value, str):
        return defused(value)
    return repr(value.item() if hasattr(value, "item") else value)


def _vti(result: Result, path: Path) -> list[Path]:
    """VTK XML ImageData with one point array per metric and domain; ``log10_loss`` is there for warping by height."""
    data = result.data
    if not {"x", "y"} <= set(data.dims):
        raise UsageError(f"a {result.kind} of one dimension is no image", "`form='vti'`", "use csv or npz")
    x, y = data["x"].values, data["y"].values
    arrays = {}
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
    write_bytes(path, _image(x, y, arrays).encode())  # names are shown, so any encoding has them
    return [path]


def _image(x: Floats, y: Floats, arrays: Mapping[str, Any]) -> str:
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
        lines.append(f'<DataArray type="Float64" Name={quoteattr(shown(name))} format="ascii">{numbers}</DataArray>')
    return "\n".join([*lines, "</PointData></Piece></ImageData></VTKFile>", ""])


FORMATS: Mapping[str, Callable[[Result, Path], list[Path]]] = {"npz": _npz, "csv": _csv, "vti": _vti}

"""Surfaces that tomgoldstein/loss-landscape computed (``.h5``), as results that all figures can draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..base.arrays import Floats
from ..base.errors import DataError, UsageError
from ..results.result import Result
from ..storage.hdf5 import read_hdf5
from .checks import value_checks


def read_surface_h5(path: Path | str) -> Result:
    """Read a surface of tomgoldstein/loss-landscape.

    Its program numbers the points of a grid row by row with x running fastest, but shapes the array as
    (x, y); read in the order of the numbers, grids that are not square come out right, too. Points that it did
    not finish hold -1 and become NaN. Accuracies are per cent there and shares here. What the file does not
    say - weights, examples, seeds, BatchNorm - stays unsaid.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is no such surface.
    """
    import xarray as xr

    path = Path(path).absolute()
    if not path.is_file():
        raise UsageError("there is no such file", str(path), "check the path")
    try:
        arrays = {name: values for name, (_, values, _) in read_hdf5(path).variables.items()}
        found = {k: np.asarray(v, dtype=float) for k, v in arrays.items() if k in _NAMES}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"this is no HDF5 surface: {error}", str(path), "copy it again") from error
    if "xcoordinates" not in found or not {"train_loss", "test_loss"} & set(found):
        raise DataError("it holds no xcoordinates and train_loss", str(path), "name a surface of loss-landscape")
    x, y = found.pop("xcoordinates"), found.pop("ycoordinates", None)
    shape = (len(x),) if y is None else (len(y), len(x))
    dims = ("x",) if y is None else ("y", "x")
    variables = {}
    unfinished = 0
    for name, values in found.items():
        if values.size != np.prod(shape):
            raise DataError(f"{name} holds {values.size} numbers for a grid of {shape}", str(path), "copy it again")
        grid = values.reshape(-1).reshape(shape)
        lost = grid == -1
        unfinished = max(unfinished, int(lost.sum()))
        grid = np.where(lost, np.nan, grid)
        variables[_NAMES[name]] = (dims, grid / 100 if name.endswith("acc") else grid)
    if "loss" not in variables:
        variables["loss"] = variables["test_loss"]
    coordinates = {"x": x} if y is None else {"x": x, "y": y}
    loss = variables["loss"][1]
    centre = float(loss[np.unravel_index(int(np.nan_to_num(_distance(x, y)).argmin()), shape)])
    record = {
        "target": str(path),
        "label": path.stem,
        "kind": f"{len(shape)}d",
        "shape": list(shape),
        "axes": [],
        "directions": str(arrays["dir_file"]) if "dir_file" in arrays else "",
        "center_loss": centre,
        "unfinished_cells": unfinished,
        **value_checks(loss, coordinates, centre),
        "metrics": list(variables),
        "source": "tomgoldstein/loss-landscape",
    }
    return Result("surface", xr.Dataset(variables, coordinates), record, path)


_NAMES = {
    "xcoordinates": "x",
    "ycoordinates": "y",
    "train_loss": "loss",
    "train_acc": "accuracy",
    "test_loss": "test_loss",
    "test_acc": "test_accuracy",
}


def _distance(x: Floats, y: Any) -> Floats:
    return np.abs(x) if y is None else np.hypot(x[None, :], y[:, None])

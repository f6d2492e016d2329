from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from landscape.base.errors import DataError, UsageError
from landscape.results.result import Result


def made(**record) -> Result:
    data = xr.Dataset(
        {
            "loss": (("y", "x"), np.array([[1.0, np.nan, np.inf], [-np.inf, 0.1, 1e-300]])),
            "seen": ("name", np.array([True, False])),
        },
        {"x": [-1.0, 0.0, 1.0], "y": [0.0, 0.5], "name": ["a", "ü"]},
    )
    return Result(
        "surface", data, {"target": "/runs/sam-seed3/checkpoints/step-1.safetensors", "value": math.nan, **record}
    )


def test_stored_and_read_back(tmp_path: Path):
    result = made(note="ü", numbers=(1, 2.5))
    path = result.save(tmp_path / "results" / "surface.nc")
    again = Result.load(path)
    assert again.kind == "surface"
    assert again.record == {"target": result["target"], "value": None, "note": "ü", "numbers": [1, 2.5]}
    assert again.data.identical(result.data)
    assert again.data["loss"].dims == ("y", "x")
    assert again.data["seen"].dtype == bool
    assert again.path == path == result.path
    assert [p.name for p in path.parent.iterdir()] == ["surface.nc"]


def test_the_json_object_is_strict(tmp_path: Path):
    result = made()
    assert result.to_json()["result"] is None
    result.save(tmp_path / "a.nc")
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["result"] == str(tmp_path / "a.nc")
    assert result.to_json()["value"] is None


def test_vectors_lie_beside_it(tmp_path: Path):
    result = made()
    result.vectors = {"d1.w": torch.arange(4.0).view(2, 2), "d2.w": torch.ones(1)}
    result.save(tmp_path / "a.nc")
    assert result["directions"] == str(tmp_path / "a.safetensors")
    stored = load_file(tmp_path / "a.safetensors")
    assert torch.equal(stored["d1.w"], torch.arange(4.0).view(2, 2))
    assert Result.load(tmp_path / "a.nc")["directions"] == str(tmp_path / "a.safetensors")


def test_a_record_of_a_large_network_fits(tmp_path: Path):
    """HDF5 limits plain attributes to 64 KiB; the parameter names of a transformer exceed that."""
    names = [f"transformer.encoder.layers.{i}.self_attention.output.dense.weight" for i in range(3000)]
    Result("hessian", xr.Dataset({"eigenvalues": ("rank", [1.0])}), {"parameter_names": names}).save(
        tmp_path / "a.nc"
    )
    assert Result.load(tmp_path / "a.nc")["parameter_names"] == names


def test_saving_twice_replaces(tmp_path: Path):
    made(a=1).save(tmp_path / "a.nc")
    made(a=2).save(tmp_path / "a.nc")
    assert Result.load(tmp_path / "a.nc")["a"] == 2


def test_as_a_table():
    table = made().to_pandas()
    assert list(table.columns) == ["y", "x", "loss"]
    assert len(table) == 6
    assert table[(table.x == 1.0) & (table.y == 0.5)].iloc[0].loss == 1e-300
    other = made().to_pandas("seen")
    assert other.to_dict("list") == {"name": ["a", "ü"], "seen": [True, False]}
    with pytest.raises(UsageError, match=r"unknown array 'los' \(surface\): did you mean 'loss'"):
        made().to_pandas("los")
    assert len(Result("x", xr.Dataset(), {}).to_pandas()) == 0
    assert Result("x", xr.Dataset({"a": 3}), {}).to_pandas().a.tolist() == [3]


def test_what_a_notebook_shows():
    page = made(target="<script>alert(1)</script>", loss=0.123456789, n_parameters=12345)._repr_html_()
    assert "<script" not in page
    assert "loss <b>0.123457</b>" in page
    assert "n parameters <b>12,345</b>" in page
    assert page.count("<tr") >= 7
    assert "<details>" in page
    long = Result("hessian", xr.Dataset({"eigenvalues": ("rank", np.arange(100.0))}, {"rank": range(100)}), {})
    assert "70 more rows" in long._repr_html_()


@pytest.mark.parametrize(
    ("record", "label", "seed"),
    [
        ({"run": {"optimizer": "sam", "seed": 3}}, "sam", 3),
        ({"label": "mine"}, "mine", None),
        ({"target": "/a/b/net.pt"}, "net.pt", None),
        ({"target": None}, "surface", None),
    ],
)
def test_labels(record: dict, label: str, seed: int | None):
    result = made(**record)
    assert (result.label, result.seed) == (label, seed)


@pytest.mark.parametrize("content", [b"", b"not a netCDF file", b"\x89HDF\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_result(tmp_path: Path, content: bytes):
    file = tmp_path / "broken.nc"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"no stored result.*broken.nc.*`force=True`") as caught:
        Result.load(file)
    assert caught.value.exit_code == 3


def test_a_truncated_result(tmp_path: Path):
    path = made().save(tmp_path / "a.nc")
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match="no stored result"):
        Result.load(path)


def test_a_netcdf_file_of_somebody_else(tmp_path: Path):
    xr.Dataset({"t": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"no stored result.*other.nc"):
        Result.load(tmp_path / "other.nc")


def test_a_file_that_is_missing(tmp_path: Path):
    with pytest.raises(UsageError, match=r"there is no such result.*gone.nc") as caught:
        Result.load(tmp_path / "gone.nc")
    assert caught.value.exit_code == 2

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET

import h5py
import numpy as np
import pytest
from cases import domain_data, problem_of, small_mlp

from landscape.base.errors import DataError, UsageError
from landscape.surfaces.export import export
from landscape.surfaces.foreign import read_surface_h5
from landscape.surfaces.surface import surface


@pytest.fixture(scope="module")
def found():
    result = surface(problem_of(small_mlp(), domain_data()), points=3, range=0.5)
    result.data["loss"].values[0, 1] = np.nan
    return result


def test_npz(found, tmp_path):
    with np.load(export(found, "npz", tmp_path / "a.npz")[0], allow_pickle=False) as stored:
        for name in ("loss", "domain_loss", "x", "y"):
            assert np.array_equal(stored[name], found.data[name].values, equal_nan=True)
        assert stored["domain"].tolist() == ["art", "cartoon", "photo"]
        assert json.loads(str(stored["record"]))["weights_hash"] == found["weights_hash"]


def test_csv_has_every_number(found, tmp_path):
    rows = list(csv.DictReader(export(found, "csv", tmp_path / "a.csv")[0].read_text().splitlines()))
    assert len(rows) == 27
    for row in rows:
        at = {k: float(row[k]) for k in "xy"}
        assert float(row["loss"]) == pytest.approx(float(found.data["loss"].sel(**at)), nan_ok=True, abs=0)
        assert float(row["domain_loss"]) == float(found.data["domain_loss"].sel(domain=row["domain"], **at))


def test_vti_is_a_vtk_image(found, tmp_path):
    """Numbers run along x first, as VTK counts points."""
    root = ET.parse(export(found, "vti", tmp_path / "a.vti")[0]).getroot()
    image = root[0]
    assert root.attrib["type"] == image.tag == "ImageData"
    assert image.attrib["WholeExtent"] == "0 2 0 2 0 0"
    assert [float(v) for v in image.attrib["Origin"].split()] == [-0.5, -0.5, 0]
    assert [float(v) for v in image.attrib["Spacing"].split()] == [0.5, 0.5, 1]
    arrays = {a.attrib["Name"]: np.array(a.text.split(), dtype=float) for a in image.iter("DataArray")}
    assert {"loss", "accuracy", "log10_loss", "domain_loss art"} <= set(arrays)
    assert np.array_equal(arrays["loss"], found.data["loss"].values.ravel(), equal_nan=True)
    assert np.array_equal(arrays["domain_loss photo"], found.data["domain_loss"].values[2].ravel())


def test_what_cannot_be_exported_says_so(tmp_path):
    line = surface(problem_of(small_mlp(), domain_data()), dim=1, points=3)
    with pytest.raises(UsageError, match="one dimension is no image"):
        export(line, "vti", tmp_path / "a.vti")
    with pytest.raises(UsageError, match=r"unknown format 'vtk'.*vti"):
        export(line, "vtk", tmp_path / "a.vtk")


def goldstein(path, nx: int = 5, ny: int = 3):
    """A file as tomgoldstein/loss-landscape writes it: shaped (x, y), numbered like meshgrid(x, y)."""
    x, y = np.linspace(-1, 1, nx), np.linspace(-0.5, 0.5, ny)
    mesh_x, mesh_y = np.meshgrid(x, y)
    loss = -np.ones((nx, ny))
    loss.ravel()[:-1] = (0.1 + mesh_x + 10 * mesh_y**2).ravel()[:-1] + 1
    with h5py.File(path, "w") as file:
        file["xcoordinates"], file["ycoordinates"], file["dir_file"] = x, y, "directions.h5"
        file["train_loss"], file["train_acc"] = loss, np.full((nx, ny), 90.0)
    return x, y


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (3, 6)])
def test_surfaces_of_loss_landscape_are_read(tmp_path, shape):
    x, y = goldstein(tmp_path / "s.h5", *shape)
    result = read_surface_h5(tmp_path / "s.h5")
    loss = result.data["loss"]
    assert loss.dims == ("y", "x")
    expected = 1.1 + x[None, :] + 10 * y[:, None] ** 2
    expected[-1, -1] = np.nan
    assert loss.values == pytest.approx(expected, nan_ok=True)
    assert result.data["accuracy"].values[0, 0] == 0.9
    assert (result["unfinished_cells"], result["directions"], result.label) == (1, "directions.h5", "s")


def test_a_line_of_loss_landscape(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["xcoordinates"], file["test_loss"] = np.array([-1.0, 0, 1]), np.array([2.0, 1, 3])
    result = read_surface_h5(tmp_path / "s.h5")
    assert result.data["loss"].values.tolist() == [2, 1, 3]
    assert (result["kind"], result["center_loss"], result["minimum"]) == ("1d", 1, 1)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no hdf5")
    with pytest.raises(DataError, match="no HDF5 surface"):
        read_surface_h5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(DataError, match="holds no xcoordinates"):
        read_surface_h5(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["xcoordinates"], file["train_loss"] = np.zeros(3), np.zeros(4)
    with pytest.raises(DataError, match="train_loss holds 4 numbers"):
        read_surface_h5(tmp_path / "c.h5")
    with pytest.raises(UsageError, match="no such file"):
        read_surface_h5(tmp_path / "d.h5")


def test_checkpoints_on_a_plane_have_a_table_of_their_own(tmp_path):
    from figures import made

    export(made.trajectory("sgd", 0), "csv", tmp_path / "a.csv")
    plane, checkpoints = (
        list(csv.DictReader((tmp_path / n).read_text().splitlines())) for n in ("a.csv", "a-checkpoint.csv")
    )
    assert (len(plane), len(checkpoints)) == (20, 8)
    assert {"x", "y", "loss"} <= set(plane[0])
    assert {"checkpoint_x", "off_plane", "plane_loss"} <= set(checkpoints[0])

"""HDF5 files that lead elsewhere, or that claim more than they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

RECORD = {"target": "net.pt", "axes": [{"direction": "filter", "norm": 1.0, "seed": 0}]}


def surface() -> xr.Dataset:
    """Losses of two domains over a plane."""
    x = np.linspace(-1, 1, 5)
    loss = x[None, :] ** 2 + x[:, None] ** 2
    return xr.Dataset(
        {"loss": (("y", "x"), loss), "domain_loss": (("domain", "y", "x"), np.stack([loss, 2 * loss]))},
        {"x": x, "y": x, "domain": ["photo", "größe"]},
    )


def old_result(path: Path) -> Path:
    """A result as earlier versions stored it: netCDF on HDF5."""
    text = json.dumps({"kind": "surface", "record": RECORD})
    surface().assign_attrs(landscape=text).to_netcdf(path, engine="h5netcdf")
    return path


def external_link(file: h5py.File, secret: Path) -> None:
    """An array that lies in another file."""
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["loss"] = np.arange(25.0).reshape(5, 5)
    file["loss"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/loss")


def external_storage(file: h5py.File, secret: Path) -> None:
    """An array whose bytes are those of any file of the machine."""
    size = secret.stat().st_size
    file.create_dataset("loss", (size,), "u1", external=[(str(secret), 0, size)])


def soft_link(file: h5py.File, secret: Path) -> None:
    """A name that stands for another."""
    file["loss"] = h5py.SoftLink("/x")


def soft_link_loop(file: h5py.File, secret: Path) -> None:
    """Two names that stand for each other."""
    file["loss"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/loss")


def group_in_itself(file: h5py.File, secret: Path) -> None:
    """A group that holds the root."""
    file.create_group("loss")
    file["loss"]["root"] = file["/"]


def virtual(file: h5py.File, secret: Path) -> None:
    """An array that is made of another file's."""
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["loss"] = np.arange(25.0).reshape(5, 5)
    layout = h5py.VirtualLayout(shape=(5, 5), dtype="f8")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "loss", shape=(5, 5))
    file.create_virtual_dataset("loss", layout)


def never_written(file: h5py.File, secret: Path) -> None:
    """10^12 numbers of which none was written."""
    file.create_dataset("loss", (10**12,), "f8", chunks=(1024,))


def contiguous_never_written(file: h5py.File, secret: Path) -> None:
    """The same without chunks."""
    file.create_dataset("loss", (10**9, 10**3), "f8")


def compressed(file: h5py.File, secret: Path) -> None:
    """40 MB of zeros in some kilobytes."""
    file.create_dataset("loss", data=np.zeros((1_000, 5_000), "f8"), chunks=(1000, 5000), compression="gzip")


def one_text_many_times(path: Path) -> Path:
    """A surface of 100,000 losses that are all the same text of a megabyte, which stands in the file once."""
    with h5py.File(path, "w") as file:
        file["xcoordinates"] = np.arange(5.0)
        once = file.create_dataset("dir_file", (1,), h5py.string_dtype())
        once[0] = "x" * 1_000_000
        many = file.create_dataset("train_loss", (100_000,), h5py.string_dtype())
        many[...] = "y"
        places = once.id.get_offset(), many.id.get_offset()
    with open(path, "r+b") as raw:
        raw.seek(places[0])
        reference = raw.read(16)  # length of the text, and its place in the heap
        raw.seek(places[1])
        raw.write(reference * 100_000)
    return path


def compound(file: h5py.File, secret: Path) -> None:
    """An array of records."""
    file["loss"] = np.zeros(3, [("a", "f8"), ("b", "i4")])


HOSTILE: dict[str, Callable[[h5py.File, Path], None]] = {
    f.__name__: f
    for f in (
        external_link,
        external_storage,
        soft_link,
        soft_link_loop,
        group_in_itself,
        virtual,
        never_written,
        contiguous_never_written,
        compressed,
        compound,
    )
}


def hostile(kind: str, path: Path, *, result: bool = True) -> Path:
    """Such a file: an old result or a surface of loss-landscape, in which the losses are what ``kind`` says."""
    secret = path.with_name("secret")
    secret.write_bytes(b"the password is swordfish\n" * 10)
    if result:
        old_result(path)
    with h5py.File(path, "a") as file:
        if result:
            del file["loss"]
        else:
            file["xcoordinates"] = np.arange(5.0)
        HOSTILE[kind](file, secret)
        if not result:
            file.move("loss", "train_loss")
    return path

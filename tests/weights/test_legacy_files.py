"""Checkpoints of torch < 1.6 and bare pickles, read by the same machine that executes nothing."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from test_inert_pickle import STATE, Loud, Runs, objects
from torch import nn

from landscape.base.errors import DataError, LandscapeError
from landscape.weights.checkpoint import read_weights


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False, **options)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_objects_beside_the_weights_are_never_made(protocol: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pth", {"model": STATE, "epoch": 3, **objects()}, pickle_protocol=protocol)
    Loud.traces.clear()
    weights = read_weights(path)
    assert not Loud.traces
    assert (weights.container, weights.format) == ("model", "pickle")
    assert all(torch.equal(weights.tensors[k], v) and weights.tensors[k].dtype == v.dtype for k, v in STATE.items())
    assert {"argparse.Namespace"} <= set(weights.placeholders)


def test_views_types_and_shared_storages_are_as_torch_reads_them(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    tensors = {
        "embed.weight": base[:12].view(3, 4),
        "head.weight": base[:12].view(3, 4),
        "t.weight": base.view(4, 6).t(),
        "step.weight": base[1::2],
        "empty.weight": torch.zeros(0, 3),
        "half.weight": torch.ones(3, dtype=torch.float16),
        "b.weight": torch.tensor([True, False]),
        "c.weight": torch.tensor([1 + 2j]),
        "long.bias": torch.arange(5),
        "p.weight": nn.Parameter(torch.ones(2)),
        "odd.weight": torch.ones(3, dtype=torch.bfloat16),
    }
    path = saved(tmp_path / "c.pth", {"model": tensors, "a": argparse.Namespace()})
    plain = torch.load(saved(tmp_path / "plain.pth", tensors), weights_only=True)
    read = read_weights(path).tensors
    assert set(read) == set(tensors)
    for name, tensor in plain.items():
        assert torch.equal(read[name], tensor), name
        assert (read[name].stride(), read[name].dtype) == (tensor.stride(), tensor.dtype)
    assert read["embed.weight"].data_ptr() == read["head.weight"].data_ptr()


@pytest.mark.parametrize("what", ["class", "eval", "system", "raw"])
def test_code_runs_nowhere(what: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = Runs(eval, f"open({str(canary)!r}, 'w')") if what == "eval" else Runs(os.system, f"touch {canary}")
    path = tmp_path / "c.pth"
    if what == "raw":
        path.write_bytes(pickle.dumps({"model": STATE["0.weight"].tolist(), "x": evil}))
    else:
        saved(path, nn.Linear(2, 2) if what == "class" else {"model": STATE, "x": evil})
    with pytest.raises(DataError, match=r"Linear.*could run code" if what == "class" else "could run code that no"):
        read_weights(path)
    assert not canary.exists()


def test_modules_with_their_source_are_named(tmp_path: Path) -> None:
    """Before torch 1.6 the source of a class went into the file, under a persistent name."""
    path = saved(tmp_path / "c.pth", {"0.weight": torch.ones(3)})
    content = path.read_bytes()
    cls = b"(X\x06\x00\x00\x00modulecmine\nNet\nX\x04\x00\x00\x00m.pyX\x03\x00\x00\x00codtQ"
    place = content.index(b"}q\x00X\x08\x00\x00\x000.weight")
    path.write_bytes(content[:place] + cls + b"0" + content[place:])
    weights = read_weights(path)
    assert torch.equal(weights.tensors["0.weight"], torch.ones(3))
    assert weights.placeholders == ("mine.Net",)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_what_is_cut_off_is_told(share: float, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pth", {"model": {**STATE, "big.weight": torch.ones(300)}, "a": argparse.Namespace()})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="truncated, damaged or no checkpoint"):
        read_weights(path)


def changed(path: Path, old: bytes, new: bytes) -> Path:
    content = saved(path, {"weight": torch.ones(3), "a": argparse.Namespace()}).read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


THREE, FOUR, ONE = struct.pack("<q", 3), struct.pack("<q", 4), struct.pack("<f", 1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            struct.pack("<q", 3) + struct.pack("<f", 1.0),
            struct.pack("<q", 4) + struct.pack("<f", 1.0),
            "another size",
        ),
        (b"\x4d\xe9\x03.", b"\x4d\xea\x03.", "another protocol"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "another byte order"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_weights(changed(tmp_path / "c.pth", old, new))


def test_a_bare_pickle_with_tensors_has_no_numbers(tmp_path: Path) -> None:
    """Its storages would be memory that nobody has written."""
    content = saved(tmp_path / "c.pth", {"weight": torch.ones(3)}).read_bytes()
    start = content.index(b"\x80\x02}q\x00X\x06\x00\x00\x00weight")
    (tmp_path / "d.pth").write_bytes(content[start:])
    with pytest.raises(DataError, match="tensors and no numbers"):
        read_weights(tmp_path / "d.pth")


@pytest.mark.parametrize("content", [{}, [], collections.defaultdict(list), collections.OrderedDict()])
@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_said_to_be_nothing(content: Any, legacy: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DataError, match="no weights found in it; it holds: nothing"):
        read_weights(tmp_path / "c.pt")


@pytest.mark.parametrize("factory", [None, list, dict, int, lambda: 0])
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_in_a_defaultdict_are_weights(factory: Any, legacy: bool, tmp_path: Path) -> None:
    name = factory if factory is None or isinstance(factory, type) else Loud
    torch.save(
        collections.defaultdict(name, {"weight": torch.ones(2)}),
        tmp_path / "c.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    weights = read_weights(tmp_path / "c.pt")
    assert torch.equal(weights.tensors["weight"], torch.ones(2))
    assert len(weights.placeholders) == (name is Loud)


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_half_a_million_tensors_are_read(legacy: bool, tmp_path: Path) -> None:
    numbers = torch.arange(500_000.0)
    content = {f"layers.{i}.weight": numbers[i : i + 1] for i in range(500_000)}
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    read = read_weights(tmp_path / "c.pt").tensors
    assert len(read) == 500_000
    assert float(read["layers.499999.weight"]) == 499_999


@pytest.mark.parametrize("made", range(60))
def test_no_damage_is_more_than_a_refusal(made: int, tmp_path: Path) -> None:
    """Bytes changed in the pickles' part: read as something or refused, and nothing else."""
    content = bytearray(saved(tmp_path / "c.pth", {"model": STATE, **objects()}).read_bytes())
    g = torch.Generator().manual_seed(made)
    for place in torch.randint(0, len(content), (1 + made % 4,), generator=g).tolist():
        content[place] = int(torch.randint(0, 256, (1,), generator=g))
    (tmp_path / "c.pth").write_bytes(content)
    with contextlib.suppress(LandscapeError):
        read_weights(tmp_path / "c.pth")

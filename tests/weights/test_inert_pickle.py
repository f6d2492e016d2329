"""Objects in a checkpoint become names: nothing is imported, called or made, and tensors are what they were."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import io
import os
import pathlib
import pickle
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landscape.base.errors import DataError, LandscapeError
from landscape.weights.checkpoint import facts_of, read_weights
from landscape.weights.inert_pickle import Malformed, Placeholder, read_inertly

STATE = {"0.weight": torch.arange(12.0).reshape(3, 4), "0.bias": torch.ones(3), "1.n": torch.tensor(3)}


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    inner: Any = None


class Fields(dict):
    """A dictionary of another class, as configurations are."""


class Loud:
    """Constructed, called, filled or asked for anything it would leave a trace."""

    traces: ClassVar[list[str]] = []

    def __new__(cls, *_: Any) -> Loud:
        cls.traces.append("constructed")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.traces.append("filled")


class Runs:
    """Unpickled it would run what it was given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.made


def objects() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/tmp")),
        "path": pathlib.Path("/tmp/x"),
        "lr": np.float64(0.1),
        "array": np.arange(3),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "when": datetime.datetime(2024, 5, 1, 12),
        "colour": Colour.RED,
        "config": Settings(inner=Settings()),
        "fields": Fields(a=1, b=Fields()),
        "set": {1, 2},
        "loud": Loud(),
        "complex": 1 + 2j,
        "bytes": b"\x00\xff",
    }


def saved(path: Path, content: Any, protocol: int = 2) -> Path:
    torch.save(content, path, pickle_protocol=protocol)
    return path


def with_pickle(path: Path, data: bytes) -> Path:
    """A checkpoint whose description of itself is this one, with the records of `STATE`."""
    saved(path, STATE)
    with zipfile.ZipFile(path) as whole:
        records = {r.filename: whole.read(r) for r in whole.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as there:
        for name, content in records.items():
            there.writestr(name, data if name.endswith("data.pkl") else content)
    return path


def no_tensors(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
    raise AssertionError("there is none")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_beside_the_weights_are_never_made(protocol: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"model": STATE, "epoch": 3, **objects()}, protocol)
    Loud.traces.clear()
    weights = read_weights(path)
    assert not Loud.traces
    assert weights.container == "model"
    assert all(torch.equal(weights.tensors[k], v) and weights.tensors[k].dtype == v.dtype for k, v in STATE.items())
    assert {"argparse.Namespace", f"{__name__}.Loud", f"{__name__}.Settings"} <= set(weights.placeholders)
    assert any("pathlib" in name for name in weights.placeholders)
    assert any("scalar" in name for name in weights.placeholders)
    assert facts_of(path)["placeholders"] == list(weights.placeholders)
    assert not any(name.startswith(("torch.", "collections.")) for name in weights.placeholders)


def test_modules_that_are_not_loaded_stay_so(tmp_path: Path) -> None:
    data = b"\x80\x02}X\x05\x00\x00\x00modelcantigravity\nfly\n)Rs."
    with pytest.raises(DataError, match=r"antigravity\.fly"):
        read_weights(with_pickle(tmp_path / "c.pt", data))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_what_they_were(protocol: int) -> None:
    content = {"a": [1, -(2**70), 2.5, None, True], "b": ("x", "ü\x1b", b"\0"), 3: {"c": ()}, "d": [[]] * 2}
    content["itself"] = content["a"]
    described = read_inertly(pickle.dumps(content, protocol), no_tensors)
    found, replaced = described.content, described.replaced
    if protocol > 2:
        assert found == content
        assert found["itself"] is found["a"]
    assert set(found) == set(content)
    assert all("_codecs" in r or "bytes" in r for r in replaced)


@pytest.mark.parametrize("protocol", range(6))
def test_whatever_is_done_to_a_placeholder_gives_a_placeholder(protocol: int) -> None:
    described = read_inertly(pickle.dumps(objects(), protocol), no_tensors)
    found, replaced = described.content, described.replaced
    assert isinstance(found["args"], Placeholder)
    assert found["args"].name == "argparse.Namespace"
    assert found["counts"] == {"a": [1]}
    assert found["set"] == [1, 2]
    assert isinstance(found["fields"], Placeholder) or protocol < 2
    assert f"{__name__}.Loud" in replaced or protocol < 2


@pytest.mark.parametrize("function", [os.system, eval, exec, os.popen, __import__])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_beside_weights_runs_nowhere_and_is_told(function: Any, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    argument = f"touch {canary}" if function in (os.system, os.popen) else f"open({str(canary)!r}, 'w')"
    path = saved(tmp_path / "c.pt", {"model": STATE, "x": Runs(function, argument)}, protocol)
    with pytest.raises(DataError, match="could run code that no checkpoint needs"):
        read_weights(path)
    assert not canary.exists()


def test_shared_storages_stay_shared_and_views_are_views(tmp_path: Path) -> None:
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
        "u.weight": torch.tensor([1, 2], dtype=torch.uint16),
        "p.weight": torch.nn.Parameter(torch.ones(2)),
        "odd.weight": torch.ones(3, dtype=torch.bfloat16),
    }
    read = read_weights(saved(tmp_path / "c.pt", {"model": tensors, "args": argparse.Namespace()})).tensors
    plain = read_weights(saved(tmp_path / "plain.pt", tensors)).tensors
    assert set(read) == set(plain)
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].stride() == plain[name].stride()
        assert read[name].dtype == tensor.dtype
    assert read["embed.weight"].data_ptr() == read["head.weight"].data_ptr()
    before = (tmp_path / "c.pt").read_bytes()
    read["embed.weight"].zero_()
    assert (tmp_path / "c.pt").read_bytes() == before


class Subclass(torch.Tensor):
    """Whatever it computes, it is no plain tensor."""


@pytest.mark.parametrize(
    "value",
    [np.ones(3), argparse.Namespace(), torch.ones(3).as_subclass(Subclass)],
    ids=["array", "object", "subclass"],
)
def test_what_stands_in_the_place_of_a_tensor_is_named(value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"model": {**STATE, "2.weight": value}, "args": argparse.Namespace()})
    weights = read_weights(path)
    assert set(weights.tensors) == set(STATE)
    [left] = weights.left_out
    assert left.startswith("2.weight (")


@pytest.mark.parametrize("value", [torch.eye(2).to_sparse(), torch.tensor([1j]).conj()], ids=["sparse", "conjugated"])
def test_tensors_that_are_not_plain_are_refused_by_name(value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"model": {**STATE, "2.weight": value}, "args": argparse.Namespace()})
    with pytest.raises(DataError, match=r"tensor '2.weight' is sparse, quantized"):
        read_weights(path)


def test_a_tensor_with_attributes_is_a_tensor(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    tensor.note = argparse.Namespace()
    path = saved(tmp_path / "c.pt", {"model": {"weight": tensor}})
    assert torch.equal(read_weights(path).tensors["weight"], torch.ones(3))


def storage(key: str = "0", numel: int = 12, kind: bytes = b"FloatStorage") -> bytes:
    text = key.encode()
    count = b"\x8a\x08" + struct.pack("<q", numel)
    named = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX" + struct.pack("<I", len(text)) + text
    return named + b"X\x03\x00\x00\x00cpu" + count + b"tQ"


def tensor(size: bytes, stride: bytes, offset: int = 0, **kind: Any) -> bytes:
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(**kind) + b"\x8a\x08" + struct.pack("<q", offset)
    return head + b"(" + size + b"t(" + stride + b"t\x89}tR"


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


OBJECT = b"cargparse\nNamespace\n)\x81"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (tensor(b"K\x0d", b"K\x01"), "beyond its storage"),
        (tensor(b"K\x01", b"K\x01", offset=12), "beyond its storage"),
        (tensor(b"K\x01", b"K\x01", offset=-1), "impossible shape"),
        (tensor(number(2**61), number(0)), "claims shape"),
        (tensor(number(2**40) * 2, number(0) * 2), "impossible shape"),
        (tensor(b"K\x01", number(-1)), "impossible shape"),
        (tensor(b"K\x01", b""), "no shape"),
        (tensor(b"K\x01" * 65, b"K\x00" * 65), "no shape"),
        (tensor(b"K\x01", b"K\x01", numel=13), "more elements than its record"),
        (tensor(b"K\x01", b"K\x01", numel=2**62), "more elements than its record"),
        (tensor(b"K\x01", b"K\x01", numel=-1), "another way"),
        (tensor(b"K\x01", b"K\x01", kind=b"DoubleStorage"), "more elements than its record"),
        (tensor(b"K\x01", b"K\x01", key="../0"), "storage is missing"),
        (tensor(b"K\x01", b"K\x01", key="9"), "storage is missing"),
    ],
)
def test_tensors_that_lie_about_their_storage_are_refused(made: bytes, message: str, tmp_path: Path) -> None:
    data = b"\x80\x02}(X\x01\x00\x00\x00x" + OBJECT + b"X\x06\x00\x00\x00weight" + made + b"u."
    with pytest.raises(DataError, match=message):
        read_weights(with_pickle(tmp_path / "c.pt", data))


def test_the_same_builder_of_pickles_makes_sound_ones(tmp_path: Path) -> None:
    made = tensor(b"K\x03K\x04", b"K\x04K\x01")
    data = b"\x80\x02}(X\x01\x00\x00\x00x" + OBJECT + b"X\x06\x00\x00\x00weight" + made + b"u."
    assert torch.equal(read_weights(with_pickle(tmp_path / "c.pt", data)).tensors["weight"], STATE["0.weight"])


def nested(count: int) -> bytes:
    """Lists that hold the one before many times: ten to the ``count`` paths in a few bytes."""
    data = b"]q\x00"
    for i in range(count):
        data += b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1])
    return data


def dictionaries(count: int) -> bytes:
    data = b"}q\x00"
    for i in range(count):
        entries = b"".join(b"X\x02\x00\x00\x00" + b"%02d" % k + b"h" + bytes([i]) for k in range(99))
        data += b"}(" + entries + b"uq" + bytes([i + 1])
    return data


BOMBS = {
    "lists": nested(200),
    "dictionaries": dictionaries(20),
    "itself": b"}q\x00X\x05\x00\x00\x00modelh\x00s",
    "a list of itself": b"]q\x00h\x00a",
    "deep tuple": b")" + b"\x85" * 100_000,
    "deep tuple as key": b"})" + b"\x85" * 500_000 + b"K\x01s",
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "many marks": b"(" * 100_000,
    "many numbers": b"](" + b"K\x01" * 300_000 + b"e",
    "many sets": b"]("
    + b"".join(map(number, range(10_000)))
    + b"eq\x00c__builtin__\nset\nq\x01("
    + b"h\x01h\x00\x85R" * 30_000
    + b"t",
    "a long array": b"c__builtin__\nbytearray\n" + number(10**13) + b"\x85R",
    "much text": b"X\x40\x42\x0f\x00"
    + b"a" * 10**6
    + b"q\x00](c_codecs\nencode\nq\x01"
    + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 20_000
    + b"e",
    "an unset tensor": b"ctorch\nTensor\n" + number(10**7) * 2 + b"\x86\x81",
    "far memo": b"]r\xff\xff\xff\xff",
    "long text": b"X\xff\xff\xff\x7fabc",
    "longer text": b"\x8d" + b"\x7f" * 8 + b"abc",
    "huge number": b"\x8b\xff\xff\xff\x7f\x01",
    "huge key": b"}\x8b\x00\x10\x00\x00" + b"\x01" * 4096 + b"K\x01s",
    "decimals": b"L" + b"9" * 100_000 + b"L\n",
    "colliding keys": b"}(" + b"".join(number((2**61 - 1) * (k % 4)) + b"N" for k in range(1000)) + b"u",
    "pops": b"0" * 100,
    "call of a number": b"K\x01)R",
    "state of a number": b"K\x01}b",
    "append to a dictionary": b"}K\x01a",
    "half an entry": b"}(K\x01u",
    "extension": b"\x82\x01",
    "buffer": b"\x97",
    "persistent text": b"Pabc\n",
    "name from numbers": b"K\x01K\x02\x93",
    "class with arguments": b"(cposix\nsystem\nX\x02\x00\x00\x00lso",
    "instance": b"(X\x02\x00\x00\x00lsiposix\nsystem\n",
    "called twice": b"cfunctools\npartial\n)R)R}b",
}


@pytest.mark.parametrize("beside", [b"", OBJECT + b"0"], ids=["alone", "beside an object"])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon_and_cleanly(name: str, beside: bytes, tmp_path: Path) -> None:
    data = b"\x80\x02" + beside + BOMBS[name] + b"."
    started = time.process_time()
    with pytest.raises(LandscapeError) as caught:
        read_weights(with_pickle(tmp_path / "c.pt", data))
    assert "c.pt" in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert time.process_time() - started < 60  # seconds against hours


def test_names_with_escapes_are_shown_as_text(tmp_path: Path) -> None:
    name = b"evil\x1b[2J\x07"
    data = b"\x80\x02}X\x05\x00\x00\x00modelc" + name + b"\nx\n)Rs."
    with pytest.raises(DataError) as caught:
        read_weights(with_pickle(tmp_path / "c.pt", data))
    assert "\x1b" not in str(caught.value)
    assert "evil\\x1b[2J" in str(caught.value)


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"model": STATE, "x": argparse.Namespace()})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as whole:
        whole.writestr("c/data/0", b"\0" * 48)
    with pytest.raises(DataError):
        read_weights(path)


def test_records_at_odd_places_are_copied(tmp_path: Path) -> None:
    data = saved(tmp_path / "c.pt", {"model": STATE, "x": argparse.Namespace()}).read_bytes()
    assert data
    with zipfile.ZipFile(tmp_path / "c.pt") as whole:
        records = {r.filename: whole.read(r) for r in whole.infolist()}
    for shift in range(4):
        with zipfile.ZipFile(tmp_path / "d.pt", "w", zipfile.ZIP_STORED) as there:
            there.writestr("c/" + "x" * shift, b"")
            for name, content in records.items():
                there.writestr(name, content)
        read = read_weights(tmp_path / "d.pt").tensors
        assert all(torch.equal(read[k], v) for k, v in STATE.items())


# -- fuzzing -------------------------------------------------------------------------------------------------------


def _pickle_of(content: Any, protocol: int) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, pickle_protocol=protocol)
    with zipfile.ZipFile(file) as whole:
        return whole.read("archive/data.pkl")


SEEDS = [_pickle_of({"model": STATE, **objects()}, protocol) for protocol in (2, 4)] + [
    pickle.dumps(objects(), 0),
    b"\x80\x02}X\x01\x00\x00\x00xcposix\nsystem\nX\x04\x00\x00\x00true\x85Rs.",
]
OPCODES = [
    bytes([k]) for k in b"().0123]}abcdegijlopqrstuRQPNJKMXh\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8f\x90\x93\x94"
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["operation", "set", "cut", "repeat", "graft"]))
        if kind == "operation":
            data[place : place + length % 2] = draw(st.sampled_from(OPCODES))
        elif kind == "set":
            data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * draw(st.integers(1, 50))
        else:
            other = draw(st.sampled_from(SEEDS))
            data[place:place] = other[place : place + 10 * length]
    return bytes(data)


def test_no_damage_imports_calls_or_hangs(record_property: Any) -> None:
    """What a pickle could do shows in audit events: imports, commands, files opened, code compiled."""
    seen: list[str] = []
    watching = False
    assert "x".encode("raw-unicode-escape")  # how protocol 0 writes text: Python loads this codec when first asked

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event.startswith(
            ("import", "os.", "subprocess", "open", "exec", "compile", "pickle.", "socket")
        ):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    tally = {"read": 0, "refused": 0}
    elements = {"0": torch.zeros(12), "1": torch.zeros(3), "2": torch.zeros(1)}

    def views(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        whole = elements.get(key)
        if whole is None or count * dtype.itemsize > whole.nbytes:
            raise Malformed("there is none")
        return whole.view(torch.uint8)[: count * dtype.itemsize].view(dtype)

    @settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(damaged())
    def try_one(data: bytes) -> None:
        nonlocal watching
        watching = True
        try:
            read_inertly(data, views)
            tally["read"] += 1
        except Malformed:
            tally["refused"] += 1
        finally:
            watching = False

    Loud.traces.clear()
    try_one()
    for kind, count in tally.items():
        record_property(kind, count)
    assert not seen
    assert not Loud.traces
    assert tally["read"] > 30
    assert tally["refused"] > 30

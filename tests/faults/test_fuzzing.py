"""Fuzzers against everything that reads strangers' files and words: by structure, and by coverage.

What they found stands below as plain tests.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import pickle
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes

import landscape
from landscape.specs import DomainsSpec, HessianSpec, PathSpec, ProblemSpec, SharpnessSpec, SurfaceSpec, TrainSpec
from landscape.storage import netcdf

from . import fuzz_targets
from .hostile_hdf5 import RECORD, surface

FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=600)
SHIPPED = Path(landscape.__file__).parent / "study" / "experiments"
STATE = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3), "n": torch.tensor(3)}


def _torch_bytes(content: object, *, legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


CHECKPOINTS = {
    "zip": b"\0" + _torch_bytes({"state_dict": STATE, "epoch": 3}, legacy=False),
    "objects": b"\0" + _torch_bytes({"model": STATE, "args": argparse.Namespace(lr=0.1)}, legacy=False),
    "legacy": b"\0" + _torch_bytes(STATE, legacy=True),
    "safetensors": b"\1" + safetensors_bytes(STATE),
    "raw pickle": b"\2" + pickle.dumps({"a": 1, "b": [2.0, None]}),
}
RUN = json.dumps(
    {"version": 1, "status": "finished", "spec": {"optimizer": ["sgd"], "seed": [0]}, "selected": {"step": 1}}
).encode()
LOG = b'{"step": 1, "loss": 0.5, "evaluation": {"test_loss": 0.4}}\n'
SEEDS: dict[str, list[bytes]] = {
    "checkpoint": list(CHECKPOINTS.values()),
    "configuration": [
        b'\0lr = 0.1\noptimizer = ["sam"]\nseed = [0, 1]\nrho = 0.05\nprobe = ["surrogate-gap@every=5"]\n',
        b'\3points = 11\nrange = "auto"\ndirection = ["eigvec:1", "sam:0.05"]\nmodel-arg = ["a=1"]\n',
    ],
    "experiment": [b"\1" + (SHIPPED / "flatness-vs-generalization.toml").read_bytes()],
    "words": [b"--optimizer\nsam\n--rho\n0.1", b"--data-arg\na=1\nb=x\n--probe\ninner-maximum@every=3\n--help"],
    "plugin": [b"\0evil:make", b"\1path/to/file.py:data", b"\2os.path:join", b"\0torchvision:resnet18"],
    "record": [RUN + b"\0" + LOG],
    "result": [netcdf.encode(surface(), {"kind": "surface", "record": RECORD})],
}


# -- by structure -------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A checkpoint in which bytes were changed, dropped, repeated or swapped with those of another."""
    data = bytearray(draw(st.sampled_from(list(CHECKPOINTS.values()))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(1, max(1, len(data) - 1)))
        length = draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["set", "cut", "repeat", "graft", "end"]))
        if kind == "set":
            data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length]
        elif kind == "graft":
            other = draw(st.sampled_from(list(CHECKPOINTS.values())))
            data[place : place + length] = other[place : place + length]
        else:
            del data[place:]
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
LINE = st.fixed_dictionaries(
    {}, optional={"step": JSON, "loss": JSON, "evaluation": JSON | st.just({"test_loss": 0.1})}
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A run.json and a log in which some values are of any kind."""
    facts = json.loads(RUN)
    for key in draw(st.lists(st.sampled_from([*facts, "ingredients", "final"]), max_size=3)):
        facts[key] = draw(JSON)
    text = json.dumps(facts) if draw(st.booleans()) else json.dumps(draw(JSON))
    log = "\n".join(json.dumps(x) for x in draw(st.lists(LINE | JSON, max_size=4))) + draw(
        st.sampled_from(["", "\n"])
    )
    return text.encode("utf-8", "surrogatepass") + b"\0" + log.encode("utf-8", "surrogatepass")


SPECS = (TrainSpec, HessianSpec, SharpnessSpec, SurfaceSpec, DomainsSpec, PathSpec, ProblemSpec)
VALUE = st.one_of(
    JSON,
    st.sampled_from(["auto", "sam", "disam", "eigvec:1", "eigvec:", "pca:x", "0.4", "pair:0.4", "missing:2", "8:1:0",
                     "5epochs", "0steps", "x@every=0", "file:", "[", "(", "inf", "nan", "1e999", "-0", "\0"]),
    st.lists(st.sampled_from(["sgd", "sam", "", "eigvec:1", "pca:-1", "a=1", "=", "loss"]), max_size=3),
)  # fmt: skip


PLACES = st.sampled_from(
    ["name", "train", "arms", "grid", "random", "seeds", "analyses", "report", "tiny", "grid.lr", "grid.optimizer",
     "train.epochs", "random.draws", "random.lr", "seeds.init", "analyses.0", "tiny.train", "tiny.grid", "odd"]
)  # fmt: skip


@st.composite
def experiments(draw: st.DrawFn) -> bytes:
    """The shipped study, as JSON for lack of a TOML writer, with values of any kind in some places."""
    content = tomllib.loads((SHIPPED / "flatness-vs-generalization.toml").read_text())
    for place in draw(st.lists(PLACES, min_size=1, max_size=3)):
        within: Any = content
        *path, last = place.split(".")
        for step in path:
            within = within.get(step) if isinstance(within, dict) else None
        if isinstance(within, dict):
            within[last] = draw(VALUE)
        elif isinstance(within, list) and within:
            within[0] = draw(VALUE)
    return json.dumps(content).encode("utf-8", "surrogatepass")


def check_experiment(made: bytes) -> None:
    from landscape.base.errors import UsageError
    from landscape.specs.study import Experiment

    for size in ("full", "tiny"):
        try:
            Experiment.from_content(json.loads(made), "study.toml", size=size)
        except UsageError as error:
            fuzz_targets.require_clean(error)


@st.composite
def mappings(draw: st.DrawFn) -> tuple[type, dict[str, Any]]:
    """Any of the specs, with values of any kind."""
    kind = draw(st.sampled_from(SPECS))
    names = [f.name for f in dataclasses.fields(kind)]
    return kind, draw(st.dictionaries(st.sampled_from([*names, "unknown"]), VALUE, max_size=3))


NAMES = st.one_of(
    st.text(max_size=20),
    st.builds("{}:{}".format, st.text(max_size=12), st.text(max_size=6)),
    st.sampled_from(["a\0b.py:c", "..:x", ".:x", "a..b:c", "os:system", "~root/x.py:y", "x" * 5000 + ".py:f", "hf:\0",
                     "images:", "__main__:x", "builtins:exec", "\ud800.py:x", "a b:c", "/:x", "sys:exit"]),
)  # fmt: skip


def check_spec(kind: type, mapping: dict[str, Any]) -> None:
    from landscape.base.errors import UsageError

    try:
        spec = typing.cast(Any, kind).from_dict(mapping, "c.toml")
    except UsageError as error:
        fuzz_targets.require_clean(error)
        return
    again = spec.from_dict(json.loads(json.dumps(spec.to_dict())), "run.json")
    assert again.to_dict() == spec.to_dict()
    assert re.fullmatch(r"[0-9a-f]{64}", spec.digest())


@pytest.mark.parametrize("bounds", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("target", ["checkpoint", "record", "spec", "experiment", "plugin"])
def test_any_answer_is_a_clean_one(target: str, bounds: settings, record_property: Any) -> None:
    tried = 0
    inputs: dict[str, Any] = {
        "checkpoint": damaged(),
        "record": records(),
        "spec": mappings(),
        "experiment": experiments(),
        "plugin": NAMES,
    }

    @bounds
    @given(inputs[target])
    def try_one(made: Any) -> None:
        nonlocal tried
        tried += 1
        if target == "spec":
            check_spec(*made)
        elif target == "experiment":
            check_experiment(made)
        else:
            data = made if isinstance(made, bytes) else b"\0" + made.encode("utf-8", "surrogatepass")
            fuzz_targets.TARGETS[target](data)

    try_one()
    record_property("inputs", tried)
    assert tried >= bounds.max_examples // 2


def test_the_targets_accept_what_is_sound() -> None:
    """If they refused everything, nothing would have been tried."""
    for name in ("zip", "objects", "legacy", "safetensors"):
        assert fuzz_targets.checkpoint(CHECKPOINTS[name]) == "read"
    assert [fuzz_targets.configuration(c) for c in SEEDS["configuration"]] == ["read", "read"]
    assert [fuzz_targets.words(w) for w in SEEDS["words"]] == ["read", "helped"]
    assert fuzz_targets.experiment(SEEDS["experiment"][0]) == "read"
    assert fuzz_targets.plugin(b"\0mlp") == "resolved"
    assert fuzz_targets.record(SEEDS["record"][0]) == "read"
    assert fuzz_targets.result(SEEDS["result"][0]) == "read"


# -- by coverage --------------------------------------------------------------------------------------------------


def test_a_string_that_claims_more_than_memory_is_refused(tmp_path: Path) -> None:
    """Found by the search below: a pickle of a few bytes whose string says that it has 10^18 characters."""
    from landscape.base.errors import DataError
    from landscape.weights.checkpoint import read_weights

    for opcode, width in ((b"\x8d", 8), (b"\x8e", 8), (b"X", 4), (b"B", 4)):
        (tmp_path / "w.pt").write_bytes(b"\x80\x02" + opcode + b"\x1e" * width + b"text")
        with pytest.raises(DataError, match=r"w\.pt"):
            read_weights(tmp_path / "w.pt")


@pytest.mark.slow
@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_a_search_for_new_branches_finds_no_crash(target: str, tmp_path: Path, record_property: Any) -> None:
    pytest.importorskip("atheris")
    for i, seed in enumerate(SEEDS[target]):
        (tmp_path / f"seed{i}").write_bytes(seed)
    process = subprocess.run(
        [sys.executable, fuzz_targets.__file__, target, "15", str(tmp_path)],
        capture_output=True, text=True, errors="replace", check=False, timeout=400,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", process.stderr)
    assert runs, process.stderr[-2000:]
    record_property("inputs", int(runs[1]))
    assert int(runs[1]) > 50


# -- what was found -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log",
    [
        b"null\n{}\n",  # a line that is no object
        b'{"step": [1], "evaluation": {"test_loss": 0.1}}\n',  # a step that is no number
        b'{"step": 1, "evaluation": 3}\n',
        b'{"step": 1, "evaluation": {"test_loss": "low"}}\n',
        b'{"step": 1}\n' + b"[" * 100_000 + b"\n",
    ],
)
def test_logs_of_any_kind(log: bytes) -> None:
    assert fuzz_targets.record(RUN + b"\0" + log) == "read"


@pytest.mark.parametrize("selected", [b"3", b"[1]", b'{"step": [1]}', b'{"step": null}'])
def test_selections_of_any_kind(selected: bytes) -> None:
    assert fuzz_targets.record(RUN.replace(b'{"step": 1}', selected) + b"\0" + LOG) == "read"


@pytest.mark.parametrize(
    "name",
    [b"x" * 5000 + b".py:f", b"a\0b.py:f", b"~nobody-at-all/x.py:f", b"..:f", b"images:" + b"y" * 5000, b"\xff:f"],
)
def test_names_that_no_file_can_have(name: bytes) -> None:
    for kind in (b"\0", b"\1", b"\2"):
        assert fuzz_targets.plugin(kind + name) in ("refused", "resolved")

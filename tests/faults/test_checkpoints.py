"""Checkpoints from strangers: one true sentence, the right exit code, no code run, no memory taken."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

STATE = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3)}
CANARY = "canary"


class Evil:
    """Unpickling it would leave a file behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.folder / CANARY}",)


def saved(path: Path, content: object, *, legacy: bool = False) -> bytes:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


def evil(path: Path) -> None:
    saved(path, Evil(path.parent))


def evil_legacy(path: Path) -> None:
    saved(path, Evil(path.parent), legacy=True)


def evil_raw(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(path.parent)))


def truncated(size: float) -> Callable[[Path], None]:
    """The first ``size`` bytes, or that share of the file, or all but ``-size`` bytes."""

    def make(path: Path) -> None:
        content = saved(path, STATE)
        path.write_bytes(content[: int(size * len(content)) if 0 < size < 1 else int(size)])

    return make


def truncated_legacy(path: Path) -> None:
    content = saved(path, STATE, legacy=True)
    path.write_bytes(content[: len(content) // 2])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269722\n")


def page(path: Path) -> None:
    path.write_text("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(1, 256)) * 4)


def flipped(path: Path) -> None:
    content = bytearray(saved(path, STATE))
    place = content.find(STATE["weight"].numpy().tobytes())
    content[place + 7] ^= 1
    path.write_bytes(content)


def flipped_own(path: Path) -> None:
    from landscape.weights.weights import save_tensors

    save_tensors(path, STATE)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def bomb(path: Path) -> None:
    plain = path.with_name("plain")
    saved(plain, {"weight": torch.zeros(50_000_000)})
    with zipfile.ZipFile(plain) as a, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as b:
        for record in a.infolist():
            b.writestr(record.filename, a.read(record.filename))
    plain.unlink()


def expanded(path: Path) -> None:
    saved(path, {"weight": torch.zeros(1).expand(10**6, 10**6)})


def legacy_claim(path: Path) -> None:
    content = saved(path, {"weight": torch.zeros(3)}, legacy=True)
    place = content.find(b"K\x03", content.find(b"cpu"))  # the storage's number of elements
    path.write_bytes(content[:place] + b"J" + struct.pack("<i", 2_000_000_000) + content[place + 2 :])


def header(entries: dict[str, object], body: int) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * body


def overlapping(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [4]}
    a, b = {**entry, "data_offsets": [0, 16]}, {**entry, "data_offsets": [8, 24]}
    path.write_bytes(header({"a": a, "b": b}, 24))


def huge_header(path: Path) -> None:
    path.write_bytes((10**12).to_bytes(8, "little") + b"{}")


def huge_shape(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}
    path.write_bytes(header({"a": entry}, 64))


def newer(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(STATE, path, metadata={"landscape": json.dumps({"version": 99, "sha256": "0"})})


def module(path: Path) -> None:
    saved(path, torch.nn.Linear(4, 3))


def optimizer_only(path: Path) -> None:
    saved(path, {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3})


def nan(path: Path) -> None:
    saved(path, {**STATE, "bias": torch.tensor([1.0, float("nan"), float("inf")])})


CASES: dict[str, tuple[int, Callable[[Path], None], str, int, str]] = {
    "malicious zip": (1, evil, "c.pt", 3, "could run code"),
    "malicious legacy": (2, evil_legacy, "c.pt", 3, "could run code"),
    "malicious raw pickle": (2, evil_raw, "c.pkl", 3, "could run code"),
    "empty": (4, truncated(0), "c.pt", 3, "empty (0 bytes)"),
    "1 byte": (4, truncated(1), "c.pt", 3, "truncated, damaged"),
    "4 bytes": (4, truncated(4), "c.pt", 3, "truncated or damaged"),
    "100 bytes": (4, truncated(100), "c.pt", 3, "truncated or damaged"),
    "25 %": (4, truncated(0.25), "c.pt", 3, "truncated or damaged"),
    "50 %": (4, truncated(0.5), "c.pt", 3, "truncated or damaged"),
    "90 %": (4, truncated(0.9), "c.pt", 3, "truncated or damaged"),
    "99 %": (4, truncated(0.99), "c.pt", 3, "truncated or damaged"),
    "all but 1 byte": (4, truncated(-1), "c.pt", 3, "truncated or damaged"),
    "legacy 50 %": (4, truncated_legacy, "c.pt", 3, "truncated, damaged"),
    "Git LFS pointer": (5, pointer, "c.pt", 3, "is a Git LFS pointer"),
    "web page": (6, page, "c.pt", 3, "web page"),
    "noise": (4, noise, "c.pt", 3, "no checkpoint"),
    "flipped bit": (8, flipped, "c.pt", 3, "CRC mismatch in record 'c/data/0'"),
    "flipped bit in ours": (8, flipped_own, "c.safetensors", 3, "SHA-256 mismatch"),
    "compressed bomb": (9, bomb, "c.pt", 3, "is compressed"),
    "expanded view": (10, expanded, "c.pt", 3, "claims shape (1000000, 1000000) on 4 bytes"),
    "legacy claim": (10, legacy_claim, "c.pt", 3, "claims more elements than the file has bytes"),
    "overlapping offsets": (22, overlapping, "c.safetensors", 3, "damaged"),
    "huge header": (22, huge_header, "c.safetensors", 3, "header claims 1,000,000,000,000 bytes"),
    "huge shape": (22, huge_shape, "c.safetensors", 3, "damaged"),
    "newer format": (21, newer, "c.safetensors", 3, "format version 99"),
    "whole module": (19, module, "c.pt", 3, "save model.state_dict()"),
    "optimizer only": (18, optimizer_only, "c.pt", 3, "it holds: optimizer, epoch"),
    "NaN weights": (14, nan, "c.pt", 4, "bias holds 2 NaN or infinite value(s)"),
}


@pytest.fixture(scope="module")
def plain_peak(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Peak memory in MB of looking at a sound checkpoint of a few bytes."""
    folder = tmp_path_factory.mktemp("plain")
    saved(folder / "c.pt", STATE)
    outcome = Landscape(folder)("info", "c.pt")
    assert outcome.code == 0
    return outcome.peak_mb


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.case(c[0])) for n, c in CASES.items()])
def test_info_says_one_true_sentence(name: str, landscape: Landscape, tmp_path: Path, plain_peak: float) -> None:
    _, make, file, code, text = CASES[name]
    make(tmp_path / file)
    outcome = landscape("info", file)
    assert outcome.code == code, outcome.err
    assert text in outcome.error
    assert file in outcome.error
    assert "weights_only" not in outcome.err
    assert not (tmp_path / CANARY).exists()
    assert outcome.peak_mb < plain_peak + 50


@pytest.mark.case(3)
@pytest.mark.parametrize("make", [evil, evil_legacy, evil_raw])
def test_an_environment_variable_cannot_unlock_pickles(
    make: Callable[[Path], None], landscape: Landscape, tmp_path: Path
) -> None:
    make(tmp_path / "c.pt")
    outcome = landscape("info", "c.pt", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert outcome.code == 3
    assert not (tmp_path / CANARY).exists()


@pytest.mark.case(7)
def test_missing_path_and_folder(landscape: Landscape, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert landscape("info", "nothing.pt").code == 2
    outcome = landscape("info", "folder")
    assert outcome.code == 2
    assert "holds no run" in outcome.error


NETWORK = """
import torch
def linear(outputs=3):
    return torch.nn.Linear(4, outputs)
def data():
    x = torch.arange(40.0).reshape(10, 4) / 40
    return {"train": (x, torch.arange(10) % 3)}
"""
ARGUMENTS = ("--model", "net.py:linear", "--data", "net.py:data", "--top", "1", "--json")


def _fit(landscape: Landscape, tmp_path: Path, state: object, *extra: str):
    (tmp_path / "net.py").write_text(NETWORK)
    saved(tmp_path / "c.pt", state)
    return landscape("hessian", "c.pt", *ARGUMENTS, *extra)


@pytest.mark.case(11)
def test_missing_and_unexpected_keys(landscape: Landscape, tmp_path: Path) -> None:
    state = {f"extra{i}": torch.zeros(1) for i in range(30)}
    outcome = _fit(landscape, tmp_path, state)
    assert outcome.code == 3
    assert "2 missing key(s): weight, bias" in outcome.error
    assert "30 unexpected key(s)" in outcome.error
    assert outcome.error.count("extra") == 10


@pytest.mark.case(13)
def test_shape_mismatch_names_layer_and_both_shapes(landscape: Landscape, tmp_path: Path) -> None:
    outcome = _fit(landscape, tmp_path, STATE, "--model-arg", "outputs=7")
    assert outcome.code == 3
    assert "weight has shape (3, 4), the model expects (7, 4)" in outcome.error


@pytest.mark.case(15)
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.long(), "holds int64"),
        (lambda t: t.to(torch.complex64), "holds complex64"),
        (lambda t: t.double() * 1e300, "does not fit into float32"),
    ],
)
def test_kinds_of_numbers_that_are_no_weights(
    change: Callable[[torch.Tensor], torch.Tensor], text: str, landscape: Landscape, tmp_path: Path
) -> None:
    outcome = _fit(landscape, tmp_path, {**STATE, "weight": change(STATE["weight"] + 1)})
    assert outcome.code == 3
    assert text in outcome.error


@pytest.mark.case(14)
def test_nan_weights_are_a_numerical_failure_everywhere(landscape: Landscape, tmp_path: Path) -> None:
    outcome = _fit(landscape, tmp_path, {**STATE, "bias": torch.full((3,), float("nan"))})
    assert outcome.code == 4
    assert "bias holds 3 NaN" in outcome.error


@pytest.mark.case(16)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_equal_their_float32_values(dtype: torch.dtype, landscape: Landscape, tmp_path: Path) -> None:
    half = {k: (v / 7).to(dtype) for k, v in STATE.items()}
    outcome = _fit(landscape, tmp_path, half)
    assert outcome.code == 0, outcome.err
    assert "are cast to the model's type" in outcome.err
    full = _fit(landscape, tmp_path, {k: v.float() for k, v in half.items()}, "--force")
    assert json.loads(outcome.out)["eigenvalues"] == json.loads(full.out)["eigenvalues"]


@pytest.mark.case(12, 18)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"module." + k: v for k, v in s.items()},
        lambda s: {"_orig_mod." + k: v for k, v in s.items()},
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {"module." + k: v for k, v in s.items()}},
        lambda s: {"last": s},
        lambda s: {"state_dict": {"model." + k: v for k, v in s.items()}, "hyper_parameters": {"lr": 0.1}},
    ],
)
def test_wrappers_are_recognised(wrap: Callable[[dict], object], landscape: Landscape, tmp_path: Path) -> None:
    plain = _fit(landscape, tmp_path, STATE)
    outcome = _fit(landscape, tmp_path, wrap(STATE), "--force")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["weights_hash"] == json.loads(plain.out)["weights_hash"]


@pytest.mark.case(17)
def test_a_checkpoint_of_another_device_is_read_on_the_cpu(landscape: Landscape, tmp_path: Path) -> None:
    """There need be no GPU: the file says of its tensors that they were on one."""
    plain = _fit(landscape, tmp_path, STATE)
    with zipfile.ZipFile(tmp_path / "c.pt") as whole:
        records = {r.filename: whole.read(r) for r in whole.infolist()}
    with zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_STORED) as there:
        for name, content in records.items():
            there.writestr(name, content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert b"cuda:0" in (tmp_path / "c.pt").read_bytes()
    outcome = landscape("hessian", "c.pt", *ARGUMENTS, "--force")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["weights_hash"] == json.loads(plain.out)["weights_hash"]


def test_trailing_junk_is_allowed(tmp_path: Path) -> None:
    from landscape.weights.checkpoint import read_weights

    content = saved(tmp_path / "c.pt", STATE)
    (tmp_path / "c.pt").write_bytes(content + b"junk")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(read_weights(tmp_path / "c.pt").tensors["weight"], STATE["weight"])

"""Folders of torch.distributed.checkpoint are read without executing their pickled index; lies in it are told."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_inert_pickle import OPCODES, Runs
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata

from landscape.base.errors import DataError, LandscapeError, UsageError
from landscape.weights.checkpoint import facts_of, read_weights


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def saved(folder: Path, state: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return folder


def same(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].dtype == tensor.dtype


def test_a_network_beside_its_optimizer(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    weights = read_weights(saved(tmp_path / "c", state))
    same(weights.tensors, model.state_dict())
    assert weights.container == "model"
    assert set(weights.placeholders) <= {"pathlib.PosixPath"}  # where it was written
    assert facts_of(tmp_path / "c")["tensors"] == len(model.state_dict())
    with pytest.raises(UsageError, match="ema"):
        read_weights(tmp_path / "c", "ema")


def test_the_state_alone_in_every_type_and_shape(tmp_path: Path) -> None:
    state = {
        "weight": torch.arange(6.0).reshape(2, 3).t(),
        "half.weight": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "empty.weight": torch.zeros(0, 4),
        "b.weight": torch.tensor([True, False]),
        "c.weight": torch.tensor([1 + 2j], dtype=torch.complex128),
    }
    same(read_weights(saved(tmp_path / "c", state)).tensors, state)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_pieces_of_fsdp_in_one_process(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    model = network()
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    fully_shard(model)
    dcp.save({"model": model.state_dict()}, checkpoint_id=str(tmp_path / "c"))
    same(read_weights(tmp_path / "c").tensors, expected)


# -- an index that lies --------------------------------------------------------------------------------------------


def rewritten(folder: Path, change: Callable[[Metadata], None]) -> Path:
    saved(folder, {"model": network().state_dict()})
    path = folder / ".metadata"
    index = pickle.loads(path.read_bytes())
    change(index)
    path.write_bytes(pickle.dumps(index))
    return folder


def _entry(index: Metadata) -> Any:
    return index.state_dict_metadata["model.0.weight"]


def _info(index: Metadata, name: str = "model.0.weight") -> Any:
    return next(info for at, info in index.storage_data.items() if at.fqn == name)


def _elsewhere(index: Metadata) -> None:
    _info(index).relative_path = "../__0_0.distcp"


def _gone(index: Metadata) -> None:
    _info(index).relative_path = "__9_0.distcp"


def _beyond(index: Metadata) -> None:
    _info(index).length = 10**9


def _compressed(index: Metadata) -> None:
    _info(index).transform_descriptors = ["zstd"]


def _large(index: Metadata) -> None:
    _entry(index).size = torch.Size([10**6, 10**6])


def _huge(index: Metadata) -> None:
    _entry(index).size = torch.Size([2**40, 2**40])


def _longer(index: Metadata) -> None:
    _entry(index).size = torch.Size([8, 5])


def _doubled(index: Metadata) -> None:
    _entry(index).chunks *= 2


def _another(index: Metadata) -> None:
    _info(index).offset = _info(index, "model.2.weight").offset
    _info(index).length = _info(index, "model.2.weight").length


def _outside(index: Metadata) -> None:
    _entry(index).chunks = [ChunkStorageMetadata(torch.Size([1, 0]), torch.Size([7, 5]))]


def _no_index(index: Metadata) -> None:
    index.storage_data = {}


def _no_table(index: Metadata) -> None:
    index.storage_data = None


def _one_place(index: Metadata) -> None:
    index.planner_data = dict.fromkeys(index.planner_data, ("model",))


def _command(index: Metadata) -> None:
    index.planner_data = Runs(os.system, "touch canary")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_elsewhere, "names a file elsewhere"),
        (_gone, r"missing: __9_0.distcp"),
        (_beyond, "beyond the end"),
        (_compressed, r"compressed.*dcp_to_torch FOLDER FILE.pt"),
        (_large, "claims 4,000,000"),
        (_huge, "impossible shape"),
        (_longer, "pieces of tensor 'model.0.weight' are missing"),
        (_doubled, "another than its index says"),
        (_another, "another than its index says"),
        (_outside, "lies elsewhere"),
        (_no_index, "lies elsewhere"),
        (_no_table, "index is damaged"),
        (_one_place, "stand in one place"),
        (_command, "could run code that no checkpoint needs"),
    ],
)
def test_an_index_that_lies_is_refused(
    change: Callable[[Metadata], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        read_weights(rewritten(tmp_path / "c", change))
    assert not (tmp_path / "canary").exists()


def test_an_empty_index_and_pieces_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(DataError, match=r"pickle is damaged.*dcp_to_torch"):
        read_weights(tmp_path)
    folder = saved(tmp_path / "c", network().state_dict())
    (file,) = folder.glob("*.distcp")
    file.write_bytes(b"\0" * len(file.read_bytes()))
    with pytest.raises(DataError, match=r"another format than torch.save's.*dcp_to_torch"):
        read_weights(folder)


def test_changed_bytes_of_a_piece_are_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"weight": torch.arange(100.0)})
    (file,) = folder.glob("*.distcp")
    content = file.read_bytes()
    file.write_bytes(content.replace(torch.arange(100.0).numpy().tobytes(), torch.ones(100).numpy().tobytes()))
    with pytest.raises(DataError, match="CRC mismatch"):
        read_weights(folder)


def test_no_damage_imports_calls_or_hangs(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"model": network().state_dict()})
    index = folder / ".metadata"
    seed = index.read_bytes()
    seen: list[str] = []
    watching = False
    assert "x".encode("raw-unicode-escape")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        reading = event == "open" and Path(str(arguments[0])).parent == folder
        if (
            watching
            and not reading
            and event.startswith(
                ("import", "os.system", "subprocess", "open", "exec", "compile", "pickle.", "socket")
            )
        ):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    read_weights(folder)  # what is imported when first asked
    tally = {"read": 0, "refused": 0}

    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def try_one(drawn: st.DataObject) -> None:
        nonlocal watching
        data = bytearray(seed)
        for _ in range(drawn.draw(st.integers(1, 4))):
            place, length = drawn.draw(st.integers(0, len(data))), drawn.draw(st.integers(0, 8))
            kind = drawn.draw(st.sampled_from(["operation", "set", "cut", "repeat"]))
            if kind == "operation":
                data[place : place + length % 2] = drawn.draw(st.sampled_from(OPCODES))
            elif kind == "set":
                data[place : place + length] = drawn.draw(st.binary(min_size=length, max_size=length))
            elif kind == "cut":
                del data[place : place + length]
            else:
                data[place:place] = data[place : place + length] * drawn.draw(st.integers(1, 50))
        index.write_bytes(data)
        watching = True
        try:
            read_weights(folder)
            tally["read"] += 1
        except LandscapeError:
            tally["refused"] += 1
        finally:
            watching = False

    try_one()
    assert not seen
    assert tally["read"] > 10
    assert tally["refused"] > 10

"""Two processes equal one: sums to rounding, rows of surfaces bit for bit; what cannot be shared is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from landscape.base.errors import UsageError
from landscape.runtime import distributed

from .launch import answers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return answers("together.py", tmp_path_factory.mktemp("together"))


def numbers(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Leaves of two answers side by side; a list of numbers is one leaf."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            yield from numbers(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list) and any(isinstance(x, (list, dict, str)) for x in one):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from numbers(a, b, f"{path}/{i}")
    else:
        yield path, one, other


def distance(one: Any, other: Any) -> float:
    """Largest difference relative to the largest entry of the answer, over all leaves."""
    worst = 0.0
    for path, a, b in numbers(one, other):
        if isinstance(a, (str, bool)) or a is None:
            assert a == b, path
            continue
        x, y = np.array(a, dtype=float), np.array(b, dtype=float)
        assert x.shape == y.shape, path
        assert (np.isnan(x) == np.isnan(y)).all(), path
        if np.nan_to_num(x).any():
            worst = max(worst, float(np.nanmax(np.abs(x - y)) / np.nanmax(np.abs(x))))
        else:
            worst = max(worst, float(np.abs(np.nan_to_num(y)).max(initial=0)))
    return worst


def test_every_process_has_the_same_answers(found):
    assert [f.pop("place") for f in found] == [[0, 2], [1, 2]]
    first = {**found[0], "curvature": None, "sharpness": None, "domains": None, "resumed": None}
    assert first == {**found[1], "curvature": None, "sharpness": None, "domains": None, "resumed": None}
    for of in (lambda f: f["domains"], lambda f: f["curvature"]["whole"], lambda f: f["sharpness"]["m-sharpness"]):
        assert of(found[0])["together"] == of(found[1])["together"]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("float64", 1e-12), ("float32", 1e-5), ("train mode", 1e-12), ("few", 0.0), ("few micro-batches", 0.0)],
)
def test_loss_gradient_and_products(found, name: str, tolerance: float):
    """Uneven shards; whole micro-batches where the loss depends on them; and fewer of either than processes."""
    assert distance(found[0][name]["one"], found[0][name]["together"]) <= tolerance


def test_every_operator(found):
    for kind, answer in found[0]["products"].items():
        assert distance(answer["one"], answer["together"]) < 1e-12, kind


def test_eigenvalues_trace_and_density(found):
    whole, parts = found[0]["curvature"]["whole"], found[0]["curvature"]["parts"]
    pairs = [(whole["one"], whole["together"]), (parts["one"], parts["together"])]
    pairs += [(parts["one"]["domains"][name], d) for name, d in parts["together"]["domains"].items()]
    assert len(pairs) == 5
    for one, together in pairs:
        for name in ("loss", "gradient_norm", "eigenvalues", "smallest"):
            assert distance(one[name], together[name]) < 1e-9, name
        assert len(together["eigenvalues"]) == len(one["eigenvalues"]) > 0
        assert all(together["converged"])
        assert one["hvp_count"] == together["hvp_count"]
    for name in ("trace", "density", "data_hash"):
        assert distance(whole["one"][name], whole["together"][name]) < 1e-7, name
    assert distance(parts["one"]["subsamples"], parts["together"]["subsamples"]) < 1e-7


def test_stored_products_are_taken_up(found):
    """Each process stores its stretch of every product; all of it together makes the same bits."""
    answer = found[0]["resumed"]
    assert answer["stopped"] == "NotConverged"
    assert answer["again"] == answer["whole"]
    folders, before, after = answer["files"]
    assert folders == ["process-1-of-2", "process-2-of-2"]
    # Of these 6 products none is made and stored again.
    assert before == 2 * 6
    assert after == 2 * answer["whole"]["hvp_count"]


def test_every_measure(found):
    for name, answer in found[0]["sharpness"].items():
        # Keskar's is where a line search ends: rounding decides its last digits.
        assert distance(answer["one"], answer["together"]) < (1e-6 if name == "keskar" else 1e-9), name


def test_domains(found):
    answer = found[0]["domains"]
    assert len(answer["one"]["domains"]) == 3
    assert distance(answer["one"], answer["together"]) < 1e-6


def test_surfaces_bit_for_bit(found):
    for rank in (0, 1):
        surfaces, single = found[rank]["surfaces"], found[rank]["surfaces of one"]
        for name, bits in single.items():
            if name != "eigenvector":
                assert surfaces[name] == {"together": bits, "stored": bits}, name
        # The eigenvector is computed together: equal to rounding.
        assert distance(single["eigenvector"], surfaces["eigenvector"]) < 1e-9
    assert set(found[0]["surfaces"]["rows of"]) == {"0", "1"}


def test_wrappers(found):
    wrapped = found[1]["wrapped"]
    assert wrapped["ddp"] == wrapped["plain"]
    assert abs(wrapped["fsdp"]) < 1e-12
    assert wrapped["fsdp alone"].startswith("2 process(es) hold the pieces of its parameters, and 1 compute(s) here")


def test_processes_with_different_examples_are_refused(found):
    for one in found:
        assert "do not have the same weights and examples" in one["other examples"]


def test_the_first_one_decides(found):
    assert [f["told"] for f in found] == [{"rank": 0}] * 2
    assert [f["gathered"] for f in found] == [[0, 3]] * 2
    assert [f["decided"] for f in found] == ["the first one cannot (here): ask again"] * 2


# -- in one process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("n", [0, 1, 5, 37])
def test_stretches_hold_everything_once_and_keep_units_whole(monkeypatch, world: int, unit: int, n: int):
    everything: list[int] = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank_and_world_size", lambda rank=rank: (rank, world))
        part = distributed.shard(n, unit)
        assert part.start % unit == 0 or part == slice(n, n)
        assert part.stop - part.start <= math.ceil(math.ceil(n / unit) / world) * unit
        everything += range(n)[part]
        with distributed.no_sharding():
            assert distributed.shard(n, unit) == slice(0, n)
    assert everything == list(range(n))


def test_one_process_is_one_process(monkeypatch):
    """What a launcher left in the environment means nothing outside the block; a block without launcher, either."""
    with distributed.processes():
        assert distributed.rank_and_world_size() == (0, 1)
        assert not distributed.is_distributed()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert distributed.rank_and_world_size() == (0, 1)
    assert distributed.is_main_process()
    with distributed.processes():  # nobody says where the others are
        assert distributed.rank_and_world_size() == (0, 1)


def test_flattened_parameters_are_refused_by_name():
    """Told by the class that torch gives the older wrapper; those that are analysed are in `test_sharded.py`."""
    from cases import domain_data, problem_of, small_mlp

    model = small_mlp()
    model.__class__ = type("FullyShardedDataParallel", (type(model),), {"__module__": "torch.distributed.fsdp"})
    with pytest.raises(UsageError, match=r"FullyShardedDataParallel keeps stretches.*shard it by .*fully_shard"):
        problem_of(model, domain_data())


def test_deepspeed_is_unwrapped_and_its_emptied_parameters_are_refused():
    """Told by the names that DeepSpeed gives, without it: stages 1 and 2 leave parameters whole, 3 empties them."""
    from cases import domain_data, problem_of, small_mlp

    engine = torch.nn.Module()
    engine.module = small_mlp()
    engine.__class__ = type("DeepSpeedEngine", (torch.nn.Module,), {})
    plain = problem_of(small_mlp(), domain_data())
    assert torch.equal(problem_of(engine, domain_data()).gradient(), plain.gradient())
    for parameter in engine.module.parameters():
        parameter.ds_id = 0
    with pytest.raises(UsageError, match=r"ZeRO-3 keeps a stretch of 0.weight.*zero_to_fp32.py"):
        problem_of(engine, domain_data())


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(distributed, "device_count", lambda kind: 2)
    monkeypatch.setattr(distributed, "collectives", {"cuda": "nccl"}.get)
    chosen: list[int] = []
    monkeypatch.setattr(distributed, "choose", chosen.append)
    assert distributed.own_device("cuda", None) is None
    assert distributed.own_device("cuda", 1) == 1
    monkeypatch.setattr(distributed, "local_processes", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.own_device("cuda", None) == 1
    assert chosen == [1]
    with pytest.raises(UsageError, match=r"cannot share one device.*use `device='cuda'`"):
        distributed.own_device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"2 cuda device\(s\) on this machine.*`device='cpu'`"):
        distributed.own_device("cuda", None)
    # A launcher may show each process its own; and where sums go over the host two may share one.
    monkeypatch.setattr(distributed, "device_count", lambda kind: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert distributed.own_device("cuda", None) == 0
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.own_device("xpu", None) == 0
    assert distributed.own_device("xpu", 0) == 0

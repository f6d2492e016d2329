"""Processes that hold pieces of one network find what one process finds, and none of them holds a whole vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from landscape.weights.checkpoint import read_weights

from .launch import answers
from .test_together import distance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return answers("sharded.py", folder)


@pytest.mark.parametrize("name", ["spectra", "measures", "surfaces", "paths", "tensor parallel", "ddp"])
def test_pieces_give_the_numbers_of_the_whole(found, name: str):
    """Eigenvalues, trace, density, GGN; measures; filter-normalised planes; paths: FSDP2, and the other wrappers."""
    assert distance(found[0]["whole"][name], found[0]["pieces"][name]) < 1e-8


def test_differences_of_pieces(found):
    """Equal to those of the whole network, and to its exact eigenvalues within their own bars."""
    exact = {"hessian": "eigenvalues", "ggn": "ggn"}
    for kind, (values, bars, trace, by) in found[0]["pieces"]["differences"].items():
        alone = found[0]["whole"]["differences"][kind]
        assert by == "difference"
        np.testing.assert_allclose(values, alone[0], rtol=1e-6)
        np.testing.assert_allclose(trace["estimate"], alone[2]["estimate"], rtol=1e-6)
        of_spectra = found[0]["whole"]["spectra"][exact[kind]]
        for value, bar, truth in zip(values, bars, of_spectra, strict=False):
            assert abs(value - truth) <= bar, kind


def test_what_has_no_second_derivative_falls_back_in_pieces(found):
    alone, pieces = found[0]["pieces"]["fallback"]
    assert pieces[1:] == alone[1:] == ["difference", alone[2]]
    assert "Cube" in alone[2]
    assert pieces[0] == pytest.approx(alone[0], rel=1e-6)


def test_bars_cover_the_truth_of_random_networks_in_pieces(found):
    assert sum(found[0]["pieces"]["covered"]) >= 5


def test_every_process_knows_the_same_and_the_network_is_untouched(found):
    assert found[0]["pieces"] == found[1]["pieces"]
    assert all(f["untouched"] for f in found)


def test_no_process_holds_a_whole_vector(found):
    """In any analysis: no tensor is as long as one, and all tensors together take about half of the bytes."""
    for process in found:
        n = process["bytes"]["n"]
        whole, pieces = process["bytes"]["whole"], process["bytes"]["pieces"]
        assert whole["top"]["last"][-1] == n
        for name in whole:
            assert pieces[name]["last"][-1] < 0.52 * n, f"{name}: a tensor as long as a vector"
            assert pieces[name]["peak"] < 0.55 * whole[name]["peak"], name


def test_eigenvectors_are_written_in_shards_with_an_index(found, folder: Path):
    index = json.loads((folder / "hessian-pieces.safetensors.index.json").read_text())
    whole = load_file(folder / "hessian-whole.safetensors")
    pieces: dict[str, torch.Tensor] = {}
    for name in sorted(set(index["weight_map"].values())):
        part = load_file(folder / name)
        assert {k for k, v in index["weight_map"].items() if v == name} == set(part)
        pieces |= part
    assert len(set(index["weight_map"].values())) == 2
    assert pieces.keys() == whole.keys()
    for k, expected in whole.items():
        if k[0] == "v":  # of the smallest pair the sign may be the other where entries tie
            assert torch.allclose(pieces[k], expected, atol=1e-6), k


def test_a_folder_of_two_processes_is_the_whole_network(found, folder: Path):
    """Of torch.distributed.checkpoint: tensors in uneven pieces, in a file of each process."""
    weights = read_weights(folder / "distributed")
    assert len(list((folder / "distributed").glob("*.distcp"))) == 2
    assert (weights.container, weights.format) == ("model", "distributed, 2 files")
    expected = load_file(folder / "network.safetensors")
    assert weights.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights.tensors[name], tensor), name


def test_optimizers_step_on_pieces_as_on_the_whole(found):
    for name, gap in found[0]["optimizers"].items():
        assert gap < 1e-10, name

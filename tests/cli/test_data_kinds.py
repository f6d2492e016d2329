"""Streams, triples and labels of any type through the command."""

from __future__ import annotations

from pathlib import Path

import pytest

PLUGIN = """
import itertools
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

torch.manual_seed(1)
X = torch.randn(60, 4)
Y = torch.arange(60) % 3

def net():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)

class Stream(IterableDataset):
    def __init__(self, first): self.first = first
    def __iter__(self):
        return ((X[i % 60], Y[i % 60]) for i in itertools.count(self.first))

def streams():
    return {"train": Stream(0), "test": Stream(30)}

def tensors():
    return {"train": (X[:24], Y[:24]), "test": (X[30:54], Y[30:54])}

class Triples(Dataset):
    def __len__(self): return 60
    def __getitem__(self, i): return X[i], Y[i].to(torch.uint8).reshape(1), {"hospital": i % 2}
    def pair(self, row): return row[:2]

def triples():
    return {"train": {f"hospital {h}": Subset(Triples(), range(h, 60, 2)) for h in (0, 1)}}

def plain():
    return {"train": {f"hospital {h}": (X[h::2], Y[h::2]) for h in (0, 1)}}
"""


@pytest.fixture
def here(tmp_path: Path, landscape) -> Path:
    (tmp_path / "m.py").write_text(PLUGIN)
    return tmp_path


def test_a_stream_is_analysed_as_far_as_asked_and_not_trained_on(here: Path, landscape) -> None:
    said = landscape("train", "--model", "m.py:net", "--data", "m.py:streams", "--epochs", 1, "--json")
    assert said.code == 2
    assert "a Stream has no fixed examples" in said.err
    assert "list(itertools.islice(dataset, N))" in said.err
    from landscape.results.result import Result

    assert landscape("train", "--model", "m.py:net", "--data", "m.py:tensors", "--epochs", 1).code == 0
    bare = next((here / "runs/sgd-seed0/checkpoints").glob("*.safetensors"))
    read = []
    for data in ("streams", "tensors"):
        words = ("surface", bare, "--model", "m.py:net", "--data", f"m.py:{data}", "--examples", 24, "--dim", 1)
        said = landscape(*words, "--points", 3, "--metrics", "loss", "test-loss", "--json")
        assert said.code == 0, said.err
        grid = Result.load(said.json["result"]).data
        read.append((said.json["plain_loss"], grid["loss"].values.tolist(), grid["test_loss"].values.tolist()))
    assert read[0] == read[1]
    said = landscape("domains", bare, "--model", "m.py:net", "--data", "m.py:streams")
    assert said.code == 2
    assert "--examples N" in said.err


def test_triples_train_as_their_pairs(here: Path, landscape) -> None:
    finals = []
    for data in ("triples", "plain"):
        words = ("--model", "m.py:net", "--data", f"m.py:{data}", "--epochs", 2, "--optimizer", "disam")
        said = landscape("train", *words, "--out", data, "--json")
        assert said.code == 0, said.err
        finals.append(said.json["runs"][0]["final"])
    assert finals[0] == finals[1]
    assert set(finals[0]["domains"]) == {"hospital 0", "hospital 1"}

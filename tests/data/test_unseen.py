"""A domain of which the training split has no example is unseen: in records, results, figures and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape.base.errors import DataError, UsageError
from landscape.data.changes import changed
from landscape.data.splits import Splits
from landscape.figures.course.training import domain_lines
from landscape.results.history import training_result
from landscape.results.run import Run
from landscape.specs import TrainSpec
from landscape.training.evaluation import Scorer
from landscape.training.setup import seen_positions

PLUGIN = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 2)

def data():
    torch.manual_seed(1)
    d = {}
    for i, name in enumerate(("photo", "art", "sketch")):
        x = torch.randn(60, 4) + i
        d[name] = (x, (x[:, 0] > i).long())
    return {
        "train": {k: d[k] for k in ("photo", "art")},
        "test": {k: (d[k][0][:20], d[k][1][:20]) for k in ("sketch", "art")},
    }
"""


def pair(n: int = 6, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g), torch.arange(n) % 2


def of(**splits: str) -> Splits:
    """Splits of domains by their letters; '-' is a split without domains."""
    return Splits({k: pair() if v == "-" else {d: pair(seed=ord(d)) for d in v} for k, v in splits.items()})


@pytest.mark.parametrize(
    ("splits", "holdout", "unseen"),
    [
        ({"train": "ab", "test": "c"}, (), ("c",)),
        ({"train": "ab", "test": "abc"}, (), ("c",)),
        ({"train": "ab", "test": "abc"}, ("a",), ("a", "c")),
        ({"train": "ab", "test": "abc"}, ("c",), ("c",)),
        ({"train": "ab", "test": "a", "val": "d"}, (), ("d",)),
        ({"train": "ab", "test": "ab"}, ("b",), ("b",)),
        ({"train": "ab", "test": "-"}, (), ()),  # nobody said where these examples come from
        ({"train": "-", "test": "ab"}, (), ("a", "b")),
        ({"train": "-", "test": "-"}, (), ()),
    ],
)
def test_unseen_is_what_training_has_no_example_of(splits: dict[str, str], holdout: tuple, unseen: tuple):
    assert of(**splits).unseen(holdout) == unseen


def test_changed_training_examples_leave_the_unseen_as_they_are():
    splits = Splits({"train": {"a": pair(), "b": pair(seed=1)}, "test": {"c": pair(seed=2)}, "val": pair(seed=3)})
    noisy = changed(splits, {"label_noise": "symmetric:0.5", "domain_label_noise": ("missing:0.5",)}, (), 0).splits
    assert "unknown" in noisy["train"].domain_names
    assert noisy.unseen(()) == splits.unseen(()) == ("c",)


def test_scores_are_pooled_apart():
    splits = of(train="ab", test="bc")
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    from landscape.data.losses import cross_entropy

    scorer = Scorer(splits, splits.unseen(()), cross_entropy, torch.device("cpu"), torch.float32)
    scores = scorer.score(model)
    with torch.no_grad():
        losses = {d: nn.functional.cross_entropy(model(pair(seed=ord(d))[0]), pair()[1]).item() for d in "abc"}
    assert scores["train_loss"] == pytest.approx((losses["a"] + losses["b"]) / 2, rel=1e-6)
    assert scores["test_loss"] == pytest.approx(losses["b"], rel=1e-6)
    assert scores["unseen_loss"] == pytest.approx(losses["c"], rel=1e-6)
    assert {n: d["seen"] for n, d in scores["domains"].items()} == {"a": True, "b": True, "c": False}
    assert scores["domain_loss_variance"] == pytest.approx(np.var([losses["a"], losses["b"]]), rel=1e-5)
    assert [len(seen_positions(splits, s, ())) for s in ("train", "test")] == [12, 6]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from landscape.training.trainer import train

    folder = tmp_path_factory.mktemp("unseen")
    (folder / "m.py").write_text(PLUGIN)
    spec = TrainSpec(model=f"{folder}/m.py:net", data=f"{folder}/m.py:data", epochs=2)
    return train(spec, folder / "runs")[0]


def test_a_run_records_it(run: Run):
    final = run.record["final"]
    assert {n: d["seen"] for n, d in final["domains"].items()} == {"photo": True, "art": True, "sketch": False}
    assert final["domains"]["sketch"]["train_loss"] is None
    assert final["unseen_loss"] == final["domains"]["sketch"]["test_loss"]
    assert final["test_loss"] == final["domains"]["art"]["test_loss"]


def test_a_figure_of_the_training_knows_it(run: Run):
    assert domain_lines(training_result(run)).seen == {"photo": True, "art": True, "sketch": False}


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_analysis_tells_them_apart(run: Run, split: str):
    import landscape
    from landscape.analyses.opening import opened
    from landscape.results.target import Target
    from landscape.specs import ProblemSpec

    problem, splits = opened(Target.find(str(run.path)), ProblemSpec(split=split), all_domains=True, trust=True)
    result = landscape.domains(problem, splits=splits)
    tables = [result.record["domains"], *(s["domains"] for s in result.record["splits"].values())]
    seen = {name: row["seen"] for table in tables for name, row in table.items()}
    assert seen == {"photo": True, "art": True, "sketch": False}
    assert result.record["loss_variance"] == pytest.approx(
        np.var([row["loss"] for row in result.record["domains"].values() if row["seen"]]), abs=1e-15
    )
    sketch = (result.record if split == "test" else result.record["splits"]["test"])["unseen_loss_mean"]
    assert sketch == pytest.approx(run.record["final"]["unseen_loss"], rel=1e-6)


def test_every_trained_domain_held_out_is_refused(run: Run, tmp_path: Path):
    from landscape.training.trainer import train

    spec = TrainSpec(model=run.spec["model"], data=run.spec["data"], epochs=1, holdout=("photo", "art"))
    with pytest.raises(UsageError, match="every domain is held out"):
        train(spec, tmp_path)
    spec = TrainSpec(model=run.spec["model"], data=run.spec["data"], epochs=1, leave_one_out=True)
    with pytest.raises(UsageError, match=r"train has no example of sketch: unseen beside every domain left out"):
        train(spec, tmp_path)


def test_splits_have_names_of_their_own():
    with pytest.raises(DataError, match="two splits are called '1'"):
        Splits({"train": pair(), 1: pair(), "1": pair()})

"""``--objective`` and ``--weight-decay`` through the command, each family beside its dense derivatives."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import flat_function
from objective_families import FAMILIES, Family
from torch import nn

PLUGIN = """
import copy
from objective_families import FAMILIES, Family

FAMILY = FAMILIES["{name}"]()
objective = FAMILY.objective if callable(FAMILY.objective) else type(FAMILY.objective)  # made when it is named

def net():
    return copy.deepcopy(FAMILY.network)

def data():
    return {{"train": FAMILY.batches, "test": FAMILY.batches[:1]}}

def domains():
    return {{"train": {{"a": FAMILY.batches[:1], "b": FAMILY.batches[1:]}}}}

def stream():
    return {{"train": (b for b in FAMILY.batches)}}
"""


def prepare(name: str, folder: Path) -> Family:
    family = FAMILIES[name]()
    (folder / "m.py").write_text(PLUGIN.format(name=name))
    state = dict(family.network.state_dict())
    if isinstance(family.objective, nn.Module):
        state |= {f"loss.{k}": v for k, v in family.objective.state_dict().items()}
    torch.save(state, folder / "w.pt")
    return family


WORDS = ("w.pt", "--model", "m.py:net", "--objective", "m.py:objective", "--dtype", "float64", "--json")


def dense(family: Family, decay: float = 0.0) -> tuple[float, Any]:
    own = isinstance(family.objective, nn.Module)
    both = nn.ModuleDict({"network": family.network, "loss": family.objective}) if own else family.network

    def total(model: Any) -> Any:
        network, objective = (model["network"], model["loss"]) if own else (model, family.objective)
        sums, counts = 0.0, 0.0
        for batch in family.batches:
            given = copy.deepcopy(batch)
            if callable(objective):
                made = objective(network, given)
            else:
                made = objective.loss(objective.output(network, given), given)
            made = made if isinstance(made, tuple) else (made.sum(), len(made))
            sums, counts = sums + made[0], counts + made[1]
        return sums / counts + decay / 2 * sum(p.square().sum() for p in model.parameters())

    function, weights = flat_function(both, total)
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(function, weights))
    return float(function(weights).detach()), values


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_command_gives_what_the_plain_total_gives(name: str, tmp_path: Path, landscape) -> None:
    family = prepare(name, tmp_path)
    said = landscape("hessian", *WORDS, "--data", "m.py:data", "--weight-decay", 0.2, "--tol", 1e-6)
    assert said.code == 0, said.err
    loss, values = dense(family, 0.2)
    assert said.json["loss"] == pytest.approx(loss, rel=1e-10)
    assert said.json["eigenvalues"][0] == pytest.approx(float(values[-1]), rel=1e-5)
    assert said.json["weight_decay"] == 0.2
    assert said.json["objective"].endswith("m.py:objective")


def test_every_analysis_and_domains(tmp_path: Path, landscape) -> None:
    family = prepare("prototypes", tmp_path)
    data = ("--data", "m.py:domains")
    loss, _ = dense(family)
    for command in (
        ("hessian", "--per-domain", "--trace", "--density", "--per-layer"),
        ("sharpness", "--m", "1", "--rho", "0.05", "--per-domain"),
        ("surface", "--points", "3", "--dim", "1"),
        ("domains", "--curvature", "--sharpness"),
    ):
        said = landscape(command[0], *WORDS, *data, *command[1:])
        assert said.code == 0, said.err
        assert said.json.get("loss", said.json.get("plain_loss")) == pytest.approx(loss, rel=1e-10)
    only = landscape("hessian", *WORDS, *data, "--domain", "b")
    assert only.json["loss"] == pytest.approx(dense(Family(family.network, family.batches[1:], family.objective))[0])
    state = torch.load(tmp_path / "w.pt", weights_only=True)
    torch.save({k: v + 0.1 for k, v in state.items()}, tmp_path / "v.pt")
    said = landscape("path", "w.pt", "v.pt", *WORDS[1:], *data, "--points", 3)
    assert said.code == 0, said.err
    assert said.json["loss"][0] == pytest.approx(loss, rel=1e-10)


def test_the_table_says_what_the_mean_is_over(tmp_path: Path, landscape) -> None:
    prepare("ragged", tmp_path)
    said = landscape("hessian", *WORDS[:-1], "--data", "m.py:data", "--weight-decay", 0.1)
    assert said.code == 0, said.err
    assert "on 2 ready-made batches that count 15 (train)" in " ".join(said.out.split())  # lines are wrapped
    assert "weight decay 0.1 in it" in said.out


def test_checkpoints_without_the_loss_s_parameters_are_refused(tmp_path: Path, landscape) -> None:
    family = prepare("prototypes", tmp_path)
    torch.save(family.network.state_dict(), tmp_path / "w.pt")
    said = landscape("hessian", *WORDS, "--data", "m.py:data")
    assert said.code == 3
    assert "2 missing key(s): loss.points, loss.temperature" in said.err
    nested = {f"model.{k}": v for k, v in family.network.state_dict().items()}
    nested |= {f"loss.{k}": v for k, v in family.objective.state_dict().items()}
    torch.save({"state_dict": nested}, tmp_path / "w.pt")  # as Lightning has it
    said = landscape("hessian", *WORDS, "--data", "m.py:data")
    assert said.code == 0, said.err
    assert said.json["loss"] == pytest.approx(dense(family)[0])


def test_another_objective_is_another_computation(tmp_path: Path, landscape) -> None:
    prepare("metadata", tmp_path)
    words = ("hessian", *WORDS, "--data", "m.py:data")
    first = landscape(*words)
    assert landscape(*words).json["result"] == first.json["result"]
    text = (tmp_path / "m.py").read_text()
    (tmp_path / "m.py").write_text(text + "\n\ndef twice(m, b):\n    return 2 * FAMILY.objective(m, b)\n")
    other = landscape(*[w.replace("m.py:objective", "m.py:twice") for w in words])
    assert other.json["loss"] == pytest.approx(2 * first.json["loss"])
    assert other.json["result"] != first.json["result"]
    decayed = landscape(*words, "--weight-decay", 0.1)
    assert decayed.json["result"] != first.json["result"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--loss", "mse"), 2, "the objective is the loss"),
        (("--batch-size", "2"), 2, "a ready-made batch is the unit"),
        (("--data", "m.py:stream"), 2, "can be gone through only once"),
        (("--examples", "9"), 2, "9 examples were asked for, there are 2"),
        (("--operator", "ggn"), 2, "use --operator hessian, or give the objective two halves"),
        (("--weight-decay", "nan"), 2, "--weight-decay"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    words: tuple[str, ...], code: int, told: str, tmp_path, landscape
) -> None:
    prepare("metadata", tmp_path)
    said = landscape("hessian", *WORDS, *(() if "--data" in words else ("--data", "m.py:data")), *words)
    assert said.code == code
    assert told in said.error if "{" not in said.err else told in json.loads(said.err)["error"]["what"]


def test_a_detector_is_looked_at_in_training(tmp_path: Path, landscape) -> None:
    family = prepare("detection", tmp_path)
    text = (
        (tmp_path / "m.py").read_text().replace("import FAMILIES, Family", "import FAMILIES, Family, InTrainingAlone")
    )
    text += "\n\ndef detector():\n    return InTrainingAlone().double()\n"
    (tmp_path / "m.py").write_text(text)
    words = ("hessian", *[w.replace("m.py:net", "m.py:detector") for w in WORDS], "--data", "m.py:data")
    said = landscape(*words)
    assert said.code == 3
    assert "--mode train" in said.error
    said = landscape(*words, "--mode", "train")
    assert said.code == 0, said.err
    assert said.json["loss"] == pytest.approx(dense(family)[0], rel=1e-10)


def test_some_batches_and_a_stream(tmp_path: Path, landscape) -> None:
    family = prepare("contrastive", tmp_path)
    some = landscape("hessian", *WORDS, "--data", "m.py:data", "--examples", 2)
    assert some.code == 0, some.err
    assert some.json["n_examples"] == 2
    read = landscape("hessian", *WORDS, "--data", "m.py:stream", "--examples", 2)
    assert read.code == 0, read.err
    expected = dense(Family(family.network, family.batches[:2], family.objective))[0]
    assert read.json["loss"] == pytest.approx(expected)

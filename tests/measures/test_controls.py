"""Networks that compute the same: what moves under rescaling and under the temperature of the logits."""

from __future__ import annotations

import json

import pytest
import torch
from cases import assert_untouched, problem_of, relu_study_net, small_mlp, snapshot
from torch import nn

from landscape.base.errors import UsageError
from landscape.measures.controls import controlled, normalized_logits, rescalable, with_output
from landscape.measures.sharpness import sharpness
from landscape.models.convnet import ConvNet
from landscape.models.resnet import resnet20
from landscape.problem.problem import Problem


def study(alpha: float = 1.0) -> Problem:
    model, x, y = relu_study_net(alpha)
    return problem_of(model, (x, y))


CONSTANT = ("fisher-rao", "relative-flatness", "average-case-adaptive", "worst-case-adaptive", "margin", "path-norm")
MOVING = (
    "asam-sharpness",
    "surrogate-gap",
    "average-case",
    "keskar",
    "local-flatness",
    "gradient-norm",
    "weight-norm",
)


def test_rescaling_moves_what_depends_on_the_parametrisation_only():
    """The published controls: plain and ASAM sharpness move, elementwise adaptive ones and the invariants do not."""
    problem = study()
    before = snapshot(problem.model)
    options = {"m": (16, 64), "rho": (0.05,), "draws": 40}
    path_free = tuple(n for n in CONSTANT if n != "path-norm")  # biases make a path norm depend on the scale
    found = sharpness(problem, measure=("m-sharpness", *path_free, *MOVING), control="rescale", **options)
    control = found["control"]
    assert control["layers"] == [{"scaled": "0", "undone_by": "2", "batchnorm": False}]
    assert [n["factor"] for n in control["networks"]] == [1, 2, 5, 10]
    assert max(n["output_change"] for n in control["networks"]) < 1e-12
    assert len({round(n["loss"], 12) for n in control["networks"]}) == 1
    moves = {(m["measure"], m["m"], m["layer"]): m for m in control["measures"]}
    for (name, *_), m in moves.items():
        assert m["moves"] == (name in ("m-sharpness", *MOVING)), m
        if name in CONSTANT:
            assert m["largest_change"] < 1e-6, m
    adaptive = sharpness(problem, m=(1, 64), rho=(0.5,), adaptive=True, inner_steps=3, control="rescale")["control"]
    assert [m["moves"] for m in adaptive["measures"]] == [False, False]
    assert_untouched(problem.model, before)
    json.dumps(found.to_json(), allow_nan=False)


def test_the_controls_values_are_those_of_the_rescaled_network():
    control = sharpness(study(), measure=("surrogate-gap",), control="rescale")["control"]
    for factor, value in zip((1, 2, 5, 10), control["measures"][0]["values"], strict=True):
        alone = sharpness(study(factor), measure=("surrogate-gap",))["measures"][0]["value"]
        assert value == pytest.approx(alone, rel=1e-9)


def test_published_relative_flatness_and_fisher_rao():
    """reference/studies.md, control C2: 7.36, 6.65 and 0.0263; the table's training is not exactly specified."""
    found = sharpness(study(), measure=("relative-flatness", "fisher-rao"))["measures"]
    values = {r.get("layer", "fisher-rao"): r["value"] for r in found}
    assert values["0.weight"] == pytest.approx(7.360211, rel=0.15)
    assert values["2.weight"] == pytest.approx(6.651016, rel=0.15)
    assert values["fisher-rao"] == pytest.approx(0.026284, rel=0.15)


def test_the_temperature_of_the_logits_moves_all_but_the_normalised_measures():
    problem = study()
    options = {"measure": ("m-sharpness", "fisher-rao", "gradient-norm", "margin"), "m": (16,), "control": "logits"}
    plain = sharpness(problem, **options)
    networks = plain["control"]["networks"]
    assert [n["factor"] for n in networks] == [1, 2, 4]
    assert len({n["accuracy"] for n in networks}) == 1
    assert networks[0]["loss"] == pytest.approx(0.01738, rel=0.1)
    assert networks[1]["loss"] == pytest.approx(0.00093, rel=0.15)
    assert networks[2]["loss"] == pytest.approx(0.00001, rel=0.6)
    assert all(m["moves"] for m in plain["control"]["measures"])
    normal = sharpness(problem, **options, normalize_logits=True)
    assert [m["moves"] for m in normal["control"]["measures"]] == [False] * 4
    assert max(m["largest_change"] for m in normal["control"]["measures"]) < 1e-9
    assert normal["loss"] == plain["loss"]  # the loss at the point is the network's own


def test_normalised_logits_by_hand():
    output = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]).double()
    assert normalized_logits(output)[0].tolist() == pytest.approx([-(0.5**0.5), 0, 0.5**0.5])
    assert normalized_logits(output)[1].tolist() == [0, 0, 0]
    with pytest.raises(UsageError, match="are no logits"):
        normalized_logits(output[:, :1])


def test_batchnorm_networks_are_rescaled_in_front_of_each_batchnorm():
    torch.manual_seed(0)
    model = ConvNet((1, 3, 4, 4), (8, 8), 3, True, "relu").double()
    model(torch.randn(60, 1, 8, 8).double())
    problem = problem_of(model, (torch.randn(20, 1, 8, 8).double(), torch.arange(20) % 3))
    pairs = rescalable(problem)
    assert [(p.first, p.second, p.norm) for p in pairs] == [(f"convs.{i}", f"norms.{i}", True) for i in range(3)]
    networks, _ = controlled(problem, "rescale")
    losses = [p.loss() for _, p in networks]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-10)
    found = sharpness(problem, m=(4,), control="rescale")["control"]
    assert found["measures"][0]["moves"]
    assert max(n["output_change"] for n in found["networks"]) < 1e-9


def test_a_residual_network_is_rescaled_where_it_can_be():
    torch.manual_seed(0)
    problem = problem_of(resnet20(), (torch.randn(4, 3, 32, 32), torch.arange(4)))
    pairs = rescalable(problem)
    assert len(pairs) == 19
    assert all(p.norm for p in pairs)


def test_what_cannot_be_rescaled_is_not():
    x = torch.randn(12, 5).double()
    tanh = problem_of(small_mlp(), (x, torch.arange(12) % 3))
    with pytest.raises(UsageError, match="no layer can be rescaled"):
        sharpness(tanh, control="rescale")

    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 5).double(), nn.Linear(5, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.c(h + torch.relu(self.b(h)))

    assert rescalable(problem_of(Skips(), (x, torch.arange(12) % 3))) == []


def test_output_functions_keep_parameter_names():
    problem = study()
    assert with_output(problem, torch.neg).space.names == problem.space.names
    assert with_output(problem, torch.neg).weights_hash == problem.weights_hash

"""Directions that are computed: ascent steps, eigenvectors, differences, stored files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import dense, domain_data, problem_of, small_mlp
from torch import nn

from landscape.base.errors import DataError, NumericalError, UsageError
from landscape.problem.problem import Problem
from landscape.specs import SurfaceSpec
from landscape.specs.surface import parse_direction
from landscape.surfaces.directions.direction import Direction, named_tensors, read_direction
from landscape.surfaces.directions.parse import directions_of
from landscape.surfaces.directions.random import draw, expected_cosine, filter_norm_error
from landscape.surfaces.surface import surface
from landscape.weights.weights import save_tensors, save_weights


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problem_of(small_mlp(), domain_data())


def one(problem: Problem, word: str) -> Direction:
    return directions_of(problem, SurfaceSpec(dim=1, direction=(word,)), 0)[0]


def flat(direction: Direction) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in direction.tensors])


def by_hand(problem: Problem, domain: str | None = None) -> torch.Tensor:
    p = problem.restrict_to_domain(domain) if domain else problem
    batch = next(iter(p.batches()))
    return dense(problem.model, batch.inputs, batch.targets)[1]


def test_the_gradient_and_sams_step(problem: Problem):
    gradient = by_hand(problem)
    assert torch.allclose(flat(one(problem, "grad")), gradient / gradient.norm(), atol=1e-12)
    step = one(problem, "sam:0.05")
    assert torch.allclose(flat(step), 0.05 * gradient / gradient.norm(), atol=1e-10)
    assert step.record()["gradient_norm"] == pytest.approx(float(gradient.norm()))
    # x = 1 on the slice is SAM's perturbed point.
    found = surface(problem, dim=1, points=3, range=1.0, direction=("sam:0.05",))
    problem.space.write(problem.weights + flat(step))
    perturbed = problem.loss()
    problem.space.write(problem.weights)
    assert float(found.data["loss"][2]) == pytest.approx(perturbed, rel=1e-12)
    assert perturbed > found["plain_loss"]


def test_asams_step_scales_weights_and_not_biases(problem: Problem):
    """ρ T²g / ‖Tg‖ with T = |w| + 0.01 where the name says weight (SamsungLabs/ASAM asam.py)."""
    gradient, weights = by_hand(problem), problem.weights
    t = torch.cat(
        [
            (w.abs() + 0.01 if "weight" in n else torch.ones_like(w)).reshape(-1)
            for n, w in problem.space.named(weights).items()
        ]
    )
    expected = 0.5 * t**2 * gradient / (t * gradient).norm()
    assert torch.allclose(flat(one(problem, "asam:0.5")), expected, atol=1e-10)


def test_gradients_of_domains_and_their_angle(problem: Problem):
    spec = SurfaceSpec(points=3, direction=("domain-grad:art", "domain-grad:photo"))
    a, b = (by_hand(problem, d) for d in ("art", "photo"))
    found = surface(problem, spec)
    assert found["cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-10)
    assert [x["direction"] for x in found["axes"]] == list(spec.direction)
    with pytest.raises(UsageError, match="did you mean 'art'"):
        one(problem, "domain-grad:arty")


def test_a_point_without_gradient_has_no_direction():
    with pytest.raises(NumericalError, match=r"the gradient's norm is 0\.0"):
        one(
            problem_of(nn.Linear(2, 1, bias=False).double(), (torch.zeros(3, 2).double(), torch.zeros(3)), "mse"),
            "grad",
        )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_curvature_along_an_eigenvector_is_its_eigenvalue(problem: Problem, rank: int):
    """Three points in float64 at step 1e-4 (the check users can do themselves)."""
    batch = next(iter(problem.batches()))
    values = torch.linalg.eigvalsh(dense(problem.model, batch.inputs, batch.targets)[2]).flip(0)
    found = surface(problem, dim=1, points=3, range=1e-4, direction=(f"eigvec:{rank}",))
    loss = found.data["loss"].values
    curvature = (loss[0] - 2 * loss[1] + loss[2]) / 1e-8
    assert curvature == pytest.approx(float(values[rank - 1]), rel=1e-2)
    assert found["axes"][0]["eigenvalue"] == pytest.approx(float(values[rank - 1]), rel=1e-5)
    assert found["axes"][0]["norm"] == pytest.approx(1)
    vector = flat(one(problem, f"eigvec:{rank}"))
    assert float(vector[vector.abs().argmax()]) > 0


def test_two_eigenvectors_are_orthogonal(problem: Problem):
    found = surface(problem, points=3, range=0.1, direction=("eigvec:2", "eigvec:1"))
    assert found["cosine"] == pytest.approx(0, abs=1e-6)
    assert found["axes"][0]["eigenvalue"] < found["axes"][1]["eigenvalue"]


def test_towards_another_checkpoint(problem: Problem, tmp_path):
    other = small_mlp(seed=5)
    save_weights(tmp_path / "b.safetensors", other)
    word = f"checkpoint:{tmp_path / 'b.safetensors'}"
    found = surface(problem, dim=1, points=3, range=1.0, direction=(word,))
    assert float(found.data["loss"][2]) == pytest.approx(problem_of(other, problem.examples).loss(), rel=1e-12)
    save_weights(tmp_path / "same.safetensors", problem.model)
    with pytest.raises(UsageError, match="the two checkpoints are equal"):
        one(problem, f"checkpoint:{tmp_path / 'same.safetensors'}")


def test_stored_directions_cut_another_network_along_the_same_line(problem: Problem, tmp_path):
    first = surface(problem, points=3, range=0.5, seed=4)
    first.save(tmp_path / "a.nc")
    file = first["directions"]
    other = problem_of(small_mlp(seed=9), problem.examples)
    again = surface(other, points=3, range=0.5, direction=(f"file:{file}",))
    for k, tensor in named_tensors(other, directions_of(other, SurfaceSpec(direction=(f"file:{file}",)), 0)).items():
        assert torch.equal(tensor, first.vectors[k])
    assert again["axes"][0]["norm"] == pytest.approx(first["axes"][0]["norm"], rel=1e-12)
    assert again["cosine"] == pytest.approx(first["cosine"], abs=1e-12)
    assert not np.allclose(again.data["loss"], first.data["loss"])


def test_a_file_says_what_its_directions_are(problem: Problem, tmp_path):
    from safetensors import safe_open

    found = surface(problem, points=3, direction=("layer",), seed=3)
    found.save(tmp_path / "a.nc")
    with safe_open(found["directions"], framework="pt") as handle:
        header = handle.metadata()["landscape"]
    assert '"direction": "layer"' in header
    assert problem.weights_hash in header


def test_a_file_that_does_not_fit_is_refused(problem: Problem, tmp_path):
    vectors = {f"d1.{n}": t for n, t in problem.space.named(problem.weights).items()}
    save_tensors(tmp_path / "one.safetensors", vectors)
    assert torch.equal(flat(read_direction(problem, tmp_path / "one.safetensors", 1)), problem.weights)
    with pytest.raises(DataError, match="no direction d2"):
        read_direction(problem, tmp_path / "one.safetensors", 2)
    plain = dict(problem.space.named(problem.weights))
    save_tensors(tmp_path / "plain.safetensors", plain)
    assert torch.equal(flat(read_direction(problem, tmp_path / "plain.safetensors", 2)), problem.weights)
    plain["0.weight"] = torch.zeros(2, 2)
    save_tensors(tmp_path / "wrong.safetensors", plain)
    with pytest.raises(DataError, match=r"for 0.weight \(6, 5\) it holds shape \(2, 2\)"):
        read_direction(problem, tmp_path / "wrong.safetensors", 1)
    save_tensors(tmp_path / "nan.safetensors", {k: v * torch.nan for k, v in vectors.items()})
    with pytest.raises(NumericalError, match="NaN or infinities"):
        read_direction(problem, tmp_path / "nan.safetensors", 1)


@pytest.mark.parametrize(
    ("word", "parsed"),
    [("filter", ("filter", None)), ("eigvec:3", ("eigvec", 3)), ("sam:0.05", ("sam", 0.05)),
     ("domain-grad:a:b", ("domain-grad", "a:b")), ("checkpoint:/x/y.pt", ("checkpoint", "/x/y.pt"))],
)  # fmt: skip
def test_words_are_understood(word: str, parsed: tuple):
    assert parse_direction(word) == parsed


@pytest.mark.parametrize(
    "word", ["eigvec", "eigvec:", "eigvec:0", "eigvec:x", "sam:-1", "sam:nan", "filter:2", "file:", "pca:1.5"]
)
def test_words_that_are_wrong_say_what_is_right(word: str):
    with pytest.raises(UsageError, match="direction"):
        parse_direction(word)


@pytest.mark.parametrize("options", [
    {"direction": ("grad",)}, {"direction": ("eigvec:1", "eigvec:1")},
    {"dim": 1, "repeats": 3, "direction": ("grad",)}, {"plane": True, "dim": 1},
    {"adaptive_grid": True, "points": 10}, {"plane": True, "direction": ("filter", "unit")},
])  # fmt: skip
def test_combinations_without_sense_are_refused(options: dict):
    with pytest.raises(UsageError):
        SurfaceSpec(**options)


# -- parameters of one dimension, and the reason for filters ---------------------------------------------------------


def test_parameters_of_one_dimension(problem: Problem):
    weights = problem.space.named(problem.weights)
    for policy in ("tensor", "element"):
        d = draw(problem, "filter", 3, 0, policy)
        found = dict(zip(problem.space.names, d.tensors, strict=True))
        if policy == "tensor":
            assert float(found["0.bias"].norm()) == pytest.approx(float(weights["0.bias"].norm()), rel=1e-6)
        else:
            ratio = found["0.bias"] / weights["0.bias"]
            assert float(ratio.std()) > 0.1
        assert torch.equal(found["0.weight"], draw(problem, "filter", 3, 0).tensors[0])
    assert surface(problem, points=3, one_dimensional="tensor")["zeroed_parameters"] == 0
    assert surface(problem, points=3)["zeroed_parameters"] == 9


def test_one_filter_times_ten_with_its_statistics_leaves_the_filter_normalised_surface_alone():
    """The network computes the same. Layer normalisation sees another network (Li et al., section 3)."""

    def net(factor: float) -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=1e-12), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        )
        model = model.double().eval()
        with torch.no_grad():
            model[1].running_mean.normal_()
            model[1].running_var.uniform_(0.5, 1)
            model[0].weight[1] *= factor
            model[0].bias[1] *= factor
            model[1].running_mean[1] *= factor
            model[1].running_var[1] *= factor**2
        return model

    torch.manual_seed(1)
    data = torch.randn(10, 1, 6, 6).double(), torch.arange(10) % 3
    found = {
        (kind, factor): surface(problem_of(net(factor), data), points=3, range=0.5, direction=(kind,))
        .data["loss"]
        .values
        for kind in ("filter", "layer")
        for factor in (1.0, 10.0)
    }
    assert found["filter", 10.0] == pytest.approx(found["filter", 1.0], rel=1e-8)
    assert not np.allclose(found["layer", 10.0], found["layer", 1.0], rtol=1e-2)


@pytest.mark.parametrize("kind", ["filter", "layer", "unit"])
def test_the_expected_cosine_is_that_of_many_pairs(kind: str):
    torch.manual_seed(0)
    model = nn.Linear(20, 15).double()
    with torch.no_grad():
        model.weight[:3] *= 10  # a few long filters carry most of the direction
    p = problem_of(model, (torch.zeros(3, 20).double(), torch.arange(3)))
    cosines = [draw(p, kind, s, 0).cosine(draw(p, kind, s, 1)) for s in range(150)]
    assert expected_cosine(p, kind) == pytest.approx(float(np.std(cosines)), rel=0.25)


def test_the_filter_norm_error_sees_other_norms(problem: Problem):
    assert filter_norm_error(problem, draw(problem, "filter", 0, 0)) < 1e-6
    assert filter_norm_error(problem, draw(problem, "layer", 0, 0)) > 0.05

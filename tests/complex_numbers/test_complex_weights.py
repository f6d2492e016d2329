"""A complex weight is two real ones: every analysis of a complex network equals that of its twin of real pairs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from complex_twins import (
    TWINS,
    Classifier,
    Convolution,
    RealWeights,
    Tied,
    assert_same,
    classifier_data,
    classifiers,
    complex_data,
    dense_of_pairs,
)
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.curvature.hessian import hessian
from landscape.domainwise.domains import domains
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.m_sharpness import block_sharpness
from landscape.measures.sharpness import sharpness
from landscape.problem.problem import Problem
from landscape.registry import MEASURES
from landscape.specs import SurfaceSpec
from landscape.specs.analysis import OPERATORS, TRACE_METHODS
from landscape.surfaces.directions.snapshots import Snapshot
from landscape.surfaces.path import path
from landscape.surfaces.planes import plane
from landscape.surfaces.surface import surface
from landscape.weights.weights import save_tensors, save_weights

REFUSED = {
    "path-norm",
    "distance-from-start",
}  # the one for complex weights; the other has a test with its checkpoint
OF_THE_MATRIX = {"log-spectral-norm"}  # a complex matrix has a norm of its own


def both(make: Any, data: Any, loss: Any, **options: Any) -> list[Problem]:
    return [Problem(make(pairs), data, loss, device="cpu", **options) for pairs in TWINS]


NETWORKS = {
    "classifier": (Classifier, classifier_data(), "cross_entropy", F.cross_entropy),
    "convolution": (
        Convolution,
        complex_data(2, 7, outputs=(3,)),
        "mse",
        lambda o, t: (o - t).abs().square().mean(),
    ),
    "complex buffers and inputs": (RealWeights, complex_data(4, real_targets=True), "mse", F.mse_loss),
    "tied": (Tied, complex_data(4, outputs=(4,), real_targets=True), "mse", F.mse_loss),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_gradient_and_products_are_those_of_the_real_numbers(name: str):
    make, data, loss, plain = NETWORKS[name]
    ours, twin = both(make, data, loss, batch_size=7)
    pairs = data.values() if isinstance(data, dict) else [data]
    inputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    gradient, matrix = dense_of_pairs(make(True), inputs, targets, plain)
    assert ours.n_parameters == twin.n_parameters == len(gradient)
    with torch.no_grad():
        assert ours.loss() == pytest.approx(float(plain(make(False)(inputs), targets)), rel=1e-12)
    assert ours.weights.dtype == torch.float64
    torch.testing.assert_close(ours.gradient(), gradient, rtol=1e-10, atol=1e-12)
    vector = torch.randn(ours.n_parameters, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for problem in (ours, twin):
        torch.testing.assert_close(problem.hvp(vector), matrix @ vector, rtol=1e-9, atol=1e-11)
    found = hessian(ours, top=3, bottom=1, tol=1e-7)
    values = torch.linalg.eigvalsh(matrix).flip(0)
    scale = float(values.abs().max())  # a pair is converged to a share of it
    np.testing.assert_allclose(found["eigenvalues"], values[:3], rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(found["smallest"], values[-1:], rtol=0, atol=1e-10 * scale)
    assert_same(found, hessian(twin, top=3, bottom=1, tol=1e-7))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["classifier", "convolution"])
def test_every_operator(name: str, operator: str):
    make, data, loss, _ = NETWORKS[name]
    options: dict[str, Any] = {"top": 2, "tol": 1e-8, "operator": operator, "label_samples": 2}
    found = [hessian(p, **options) for p in both(make, data, loss)]
    assert found[0]["eigenvalues"][0] > 1e-3
    assert assert_same(*found) > 20


def test_gauss_newton_of_complex_outputs_is_that_of_their_real_parts():
    make, (x, y), _, _ = NETWORKS["convolution"]
    twin = make(True)
    named = {k: p.detach() for k, p in twin.named_parameters()}

    def outputs(parts: dict[str, Tensor]) -> Tensor:
        return torch.view_as_real(torch.func.functional_call(twin, parts, (x,)))

    jacobian = torch.func.jacrev(outputs)(named)
    rows = torch.cat([jacobian[k].reshape(x.shape[0] * 6, -1) for k in named], 1)
    expected = torch.linalg.eigvalsh(rows.T @ rows * 2 / (3 * len(x)))[-2:].flip(0)  # mean of |o - t|² over 3 outputs
    (ours, _) = both(make, (x, y), "mse")
    for operator in ("ggn", "fisher"):
        np.testing.assert_allclose(
            hessian(ours, top=2, tol=1e-9, operator=operator)["eigenvalues"], expected, rtol=1e-9
        )
    drawn = hessian(ours, top=1, operator="fisher-mc", label_samples=400)["eigenvalues"]
    assert drawn[0] == pytest.approx(float(expected[0]), rel=0.1)


@pytest.mark.parametrize("method", TRACE_METHODS)
def test_every_estimator_of_the_trace(method: str):
    options: dict[str, Any] = {"top": 1, "trace": True, "trace_method": method, "max_products": 40}
    found = [hessian(p, allow_partial=True, **options) for p in classifiers()]
    assert_same(*found, rtol=1e-8)


def test_density_diagonal_layers_domains_and_subsets():
    options: dict[str, Any] = {"density": True, "diagonal": True, "per_layer": True, "subsamples": 2}
    options |= {"top": 1, "max_products": 20, "allow_partial": True}
    x, y = complex_data(4, outputs=(4,), real_targets=True)
    domains_of = {"a": (x[:8], y[:8]), "b": (x[8:], y[8:])}
    found = [hessian(p, per_domain=True, **options) for p in both(Tied, domains_of, "mse")]
    assert_same(*found, rtol=1e-8)
    assert found[0].vectors["diagonal.there.weight"].shape == (3, 4, 2)
    assert set(found[0]["layers"]) == {"there"}


def test_the_diagonal_is_that_of_the_dense_matrix():
    make, data, loss, plain = NETWORKS["tied"]
    (ours, _) = both(make, data, loss)
    _, matrix = dense_of_pairs(make(True), *data, plain)
    found = hessian(ours, top=1, diagonal=True, trace=True)
    named = ours.space.named(matrix.diagonal())
    for name, expected in named.items():
        error = found.vectors[f"diagonal_stderr.{name}"]
        assert float(((found.vectors[f"diagonal.{name}"] - expected).abs() / (error + 1e-9)).mean()) < 3
    low, high = found["trace"]["estimate"] - 4 * found["trace"]["stderr"], found["trace"]["estimate"]
    assert low <= float(matrix.trace()) <= high + 4 * found["trace"]["stderr"]


@pytest.mark.parametrize("measure", sorted(set(MEASURES) - REFUSED - OF_THE_MATRIX))
def test_every_measure(measure: str):
    uses = MEASURES[measure].options
    options: dict[str, Any] = {k: v for k, v in {"m": (1, 5), "draws": 6}.items() if k in uses}
    found = [sharpness(p, measure=(measure,), **options) for p in classifiers()]
    rtol = 1e-6 if "keskar" in measure else 1e-10  # L-BFGS-B stops by differences of losses
    assert assert_same(*found, rtol=rtol) >= 1


@pytest.mark.parametrize(
    "options",
    [
        {"p": "1"},
        {"p": "inf"},
        {"adaptive": True, "p": "inf"},
        {"adaptive": True, "inner_steps": 4},
        {"maximizer": "apgd", "inner_steps": 5},
    ],
    ids=str,
)
def test_m_sharpness_in_every_ball_and_both_ways(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    make, data, loss, _ = NETWORKS["convolution"]
    found = []
    for way in ("loop", "stack"):
        monkeypatch.setattr("landscape.measures.engine.blockwise.rule", lambda problem, parts, way=way: way)
        found.append([sharpness(p, m=(1, 6), rho=(0.1,), **options) for p in both(make, data, loss)])
        assert_same(*found[-1])
    assert_same(found[0][0], found[1][0], rtol=1e-9)


def test_what_torch_cannot_vectorise_is_taken_one_by_one():
    problem, twin = classifiers()  # takes the imaginary part of a conjugate: no batching rule in torch 2.13
    values = [block_sharpness(p, [NormBall(0.1)], m=3)[0].value for p in (problem, twin)]
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    assert values[0] > 0


def test_measures_that_differ_from_the_twins_by_definition(tmp_path: Path):
    ours, _ = classifiers()
    (found,) = sharpness(ours, measure=("log-spectral-norm",))["measures"]
    logs = []
    for layer in (ours.model.first, ours.model.second):
        w = layer.weight.detach()
        block = torch.cat([torch.cat([w.real, -w.imag], 1), torch.cat([w.imag, w.real], 1)])  # as a real linear map
        logs.append(math.log(float(torch.linalg.svdvals(block)[0])))
    logs.append(math.log(float(torch.linalg.svdvals(ours.model.head.weight.detach())[0])))
    assert found["value"] == pytest.approx(sum(logs), rel=1e-10)
    with pytest.raises(UsageError, match="not defined for complex weights"):
        sharpness(ours, measure=("path-norm",))
    start = []
    for pairs in TWINS:
        save_weights(tmp_path / "start.safetensors", Classifier(pairs, seed=9))
        (problem,) = [classifiers()[pairs]]
        start.append(sharpness(problem, measure=("distance-from-start",), start=str(tmp_path / "start.safetensors")))
    start[0].record["measures"][0].pop("start", None)
    assert start[0]["measures"][0]["value"] == pytest.approx(start[1]["measures"][0]["value"], rel=1e-12)


def test_other_tools_are_refused_by_name():
    ours, _ = classifiers()
    for tool in ("pyhessian", "curvlinops"):
        with pytest.raises(UsageError, match=f"{tool} takes no complex weights"):
            hessian(ours, top=1, cross_check=(tool,))


DIRECTIONS = (
    ("filter",), ("layer",), ("model",), ("unit",), ("gaussian",), ("grad",), ("sam:0.2",), ("asam:0.5",),
    ("domain-grad:a",), ("eigvec:1", "eigvec:2"), ("filter", "layer"),
)  # fmt: skip


@pytest.mark.parametrize("direction", DIRECTIONS, ids="+".join)
def test_surfaces_along_every_direction(direction: tuple[str, ...]):
    dim = len(direction)
    found = [surface(p, dim=dim, points=5, direction=direction, per_domain=True) for p in classifiers()]
    eigen = direction[0].startswith("eigvec")
    assert_same(*found, rtol=1e-6 if eigen else 1e-10)
    assert found[0].vectors["d1.first.weight"].shape == (4, 5, 2)
    assert found[0]["restored"]


@pytest.mark.parametrize("one_dimensional", ["zero", "tensor", "element"])
def test_complex_biases_are_biases_and_filters_have_the_norm_of_all_their_numbers(one_dimensional: str):
    ours, twin = classifiers()
    options: dict[str, Any] = {"dim": 1, "points": 3, "one_dimensional": one_dimensional}
    found = surface(ours, **options)
    assert_same(found, surface(twin, **options))
    weight, moved = ours.model.first.weight.detach(), found.vectors["d1.first.weight"]
    torch.testing.assert_close(torch.linalg.vector_norm(weight, dim=1), moved.flatten(1).norm(dim=1))
    bias = found.vectors["d1.first.bias"]
    assert bias.shape == (4, 2)
    assert bool(bias.any()) == (one_dimensional != "zero")
    if one_dimensional == "tensor":
        assert float(bias.norm()) == pytest.approx(float(ours.model.first.bias.detach().norm()), rel=1e-9)


def test_surface_equals_plain_evaluation_at_moved_complex_weights():
    ours, _ = classifiers()
    found = surface(ours, dim=1, points=3, range=0.5, direction=("layer",))
    model, data = Classifier(False), classifier_data()
    with torch.no_grad():
        for name, p in model.named_parameters():
            step = 0.5 * found.vectors[f"d1.{name}"]
            p.add_(torch.view_as_complex(step.contiguous()) if p.is_complex() else step)
        x, y = (torch.cat(parts) for parts in zip(*data.values(), strict=True))
        assert float(found.data["loss"][2]) == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-10)


def test_stored_directions_real_or_complex(tmp_path: Path):
    ours, _ = classifiers()
    found = surface(ours, dim=1, points=3)
    pairs = {k.removeprefix("d1."): v for k, v in found.vectors.items()}
    whole = {n: torch.view_as_complex(v.contiguous()) if v.shape != ours.model.get_parameter(n).shape else v
             for n, v in pairs.items()}  # fmt: skip
    assert any(v.is_complex() for v in whole.values())
    for name, tensors in {"numbered": found.vectors, "pairs": pairs, "complex": whole}.items():
        save_tensors(tmp_path / f"{name}.safetensors", tensors)
        again = surface(ours, dim=1, points=3, direction=(f"file:{tmp_path / name}.safetensors",))
        np.testing.assert_allclose(again.data["loss"], found.data["loss"], rtol=1e-14)


def others(tmp_path: Path) -> list[list[Snapshot]]:
    """Three other checkpoints of each twin, read from files."""
    found: list[list[Snapshot]] = []
    for pairs, problem in zip(TWINS, classifiers(), strict=True):
        row = []
        for seed in (1, 2, 3):
            model = Classifier(pairs, seed)
            model.scale.turn.copy_(problem.model.scale.turn)
            file = tmp_path / f"{pairs}-{seed}.safetensors"
            save_weights(file, model)
            row.append(Snapshot.read(file, problem, {"target": str(seed)}))
        found.append(row)
    return found


@pytest.mark.parametrize("options", [{}, {"kind": "bezier", "steps": 5}, {"kind": "polychain", "steps": 5}], ids=str)
def test_paths(options: dict[str, Any], tmp_path: Path):
    found = []
    for problem, row in zip(classifiers(), others(tmp_path), strict=True):
        found.append(path(problem, row[0], points=5, training=problem, **options))
    assert_same(*found)
    assert found[0]["restored"]
    end = Classifier(False, 1)
    with torch.no_grad():
        end.scale.turn.copy_(classifiers()[0].model.scale.turn)
        x, y = (torch.cat(parts) for parts in zip(*classifier_data().values(), strict=True))
        assert found[0]["ends"]["b"]["on_path"] == pytest.approx(float(F.cross_entropy(end(x), y)), rel=1e-12)


def test_planes_and_components(tmp_path: Path):
    for spec in (SurfaceSpec(plane=True, points=3), SurfaceSpec(direction=("pca:1", "pca:2"), points=3)):
        found = [plane(p, spec, [row]) for p, row in zip(classifiers(), others(tmp_path), strict=True)]
        assert_same(*found, rtol=1e-9)
    ours, _ = classifiers()
    file = tmp_path / "False-1.safetensors"
    along = surface(ours, dim=1, points=3, direction=(f"checkpoint:{file}",))
    assert float(along.data["loss"][2]) == pytest.approx(float(found[0].data["checkpoint_loss"][0]), rel=1e-10)


def test_domains():
    found = [domains(p, curvature=True, sharpness=True) for p in classifiers()]
    assert_same(*found, rtol=1e-8)


def test_permuted_units_of_complex_layers_are_matched():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, dtype=torch.complex128), nn.Tanh(), nn.Linear(6, 3, dtype=torch.complex128))
    turned = copy.deepcopy(net)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    with torch.no_grad():
        for tensor in (turned[0].weight, turned[0].bias):
            tensor.copy_(tensor[order])
        turned[2].weight.copy_(turned[2].weight[:, order])
        turned[2].bias.add_(0.01j)
    data = complex_data(4, outputs=(3,))
    ours, other = (Problem(m, data, "mse", device="cpu") for m in (net, turned))
    found = path(ours, Snapshot.of(other), points=3, align=True)
    assert found["aligned"]["moved_units"] == 6
    assert found["distance"] == pytest.approx(0.01 * 3**0.5, rel=1e-9)
    assert found["aligned"]["distance_before"] > 1

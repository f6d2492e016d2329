"""Each measure against a closed form, a dense computation, or scipy."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    Coordinates,
    assert_untouched,
    dense,
    domain_data,
    mean_cross_entropy,
    problem_of,
    small_mlp,
    snapshot,
)
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.measures.engine.noise import draws
from landscape.measures.engine.partition import partition
from landscape.measures.pac_bayes import noise_scale
from landscape.measures.sharpness import sharpness
from landscape.problem.problem import Problem
from landscape.registry import MEASURES
from landscape.specs import SharpnessSpec


def rows(problem: Problem, *names: str, **options) -> list[dict]:
    return sharpness(problem, measure=names, **options)["measures"]


def row(problem: Problem, name: str, **options) -> dict:
    (found,) = rows(problem, name, **options)
    return found


CURVATURE = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)
POINT = torch.tensor([[0.3, -1.0, 0.5, 0.2]], dtype=torch.float64)


def quadratic(n: int = 6) -> Problem:
    """0.5 Σ h_i w_i², whatever the example."""
    data = (torch.zeros(n, 1).double(), torch.zeros(n).double())
    return problem_of(Coordinates(POINT), data, lambda o, t: 0.5 * (o.square() * CURVATURE).sum(1))


def mlp(n: int = 30) -> tuple[nn.Module, Tensor, Tensor, Problem]:
    model = small_mlp()
    x, y = domain_data((n,))["art"]
    return model, x, y, problem_of(model, (x, y))


# -- random neighbourhoods ------------------------------------------------------------------------------------------


def test_average_case_on_a_quadratic_is_half_rho_squared_trace():
    """E 0.5 (w+d)'H(w+d) - 0.5 w'Hw = 0.5 rho² Σ h c²: c = 1, |w|, and a third of it for the uniform cube."""
    weights = POINT[0].abs()
    for name, p, factor, scale in (
        ("average-case", "2", 1.0, torch.ones(4)),
        ("average-case-adaptive", "2", 1.0, weights),
        ("average-case", "inf", 1 / 3, torch.ones(4)),
        ("average-case-adaptive", "inf", 1 / 3, weights),
    ):
        found = row(quadratic(1), name, rho=(0.3,), p=p, draws=1000)
        expected = 0.5 * 0.3**2 * factor * float((CURVATURE * scale.double().square()).sum())
        assert found["value"] == pytest.approx(expected, abs=4 * found["stderr"]), (name, p)
        assert 0 < found["stderr"] < 0.08 * expected + 0.008


def test_local_flatness_on_a_quadratic_is_half_gamma_squared_mean_eigenvalue():
    found = {r["rho"]: r for r in rows(quadratic(1), "local-flatness", rho=(0.1, 0.4), draws=1000)}
    for gamma, r in found.items():
        assert r["value"] == pytest.approx(0.5 * gamma**2 * float(CURVATURE.mean()), abs=4 * r["stderr"])
        assert r["relative_radius"] == pytest.approx(gamma / float(POINT.norm()), rel=1e-12)
        assert r["p05"] < r["value"] < r["p95"]


def test_local_flatness_by_hand():
    model, x, y, problem = mlp()
    found = row(problem, "local-flatness", rho=(0.7,), draws=5)
    before = F.cross_entropy(model(x), y).item()
    rises = []
    for z in draws(problem, 5, 0, "local flatness"):
        moved = copy.deepcopy(model)
        flat = nn.utils.parameters_to_vector(model.parameters()) + 0.7 * z / z.norm()
        nn.utils.vector_to_parameters(flat, moved.parameters())
        rises.append(F.cross_entropy(moved(x), y).item() - before)
    assert found["value"] == pytest.approx(np.mean(rises), rel=1e-10)
    assert found["stderr"] == pytest.approx(np.std(rises, ddof=1) / math.sqrt(5), rel=1e-8)


def test_draws_do_not_depend_on_how_many_there_are_nor_on_the_weights():
    a, b = quadratic(), quadratic(3)
    few, many = list(draws(a, 2, 7, "x")), list(draws(b, 5, 7, "x"))
    assert all(torch.equal(s, t) for s, t in zip(few, many, strict=False))
    assert not torch.equal(many[0], next(draws(a, 1, 8, "x")))
    assert not torch.equal(many[0], next(draws(a, 1, 7, "y")))


def test_pac_bayes_noise_has_standard_deviation_sigma():
    """The mean rise on a quadratic is ½ sigma² trace; released code passes sigma² for the deviation."""
    problem, sigma = quadratic(1), 0.3
    scale = noise_scale(problem, sigma, magnitude_aware=False)
    rises = []
    for z in draws(problem, 4000, 0, "test"):
        e = scale * z
        rises.append(float((CURVATURE * (POINT[0] * e + 0.5 * e.square())).sum()))
    expected = 0.5 * sigma**2 * float(CURVATURE.sum())
    assert np.mean(rises) == pytest.approx(expected, abs=4 * np.std(rises) / math.sqrt(4000))
    aware = noise_scale(problem, sigma, magnitude_aware=True)
    assert aware.tolist() == pytest.approx((sigma * POINT[0].abs() + 1e-3).tolist(), rel=1e-12)


@pytest.mark.parametrize("name", ["pac-bayes-sigma", "pac-bayes-sigma-magnitude"])
def test_pac_bayes_sigma_loses_a_tenth_of_the_accuracy(name: str):
    """Two separated clouds and a good linear classifier; the drop is found again with the same draws by hand."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(50, 2) + 1.5, torch.randn(50, 2) + 4.5]).double()
    y = torch.arange(2).repeat_interleave(50)
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        model.bias.copy_(torch.tensor([6.0, -6.0]))
    problem = problem_of(model, (x, y))
    found = row(problem, name, draws=20)
    sigma = found["value"]
    scale = noise_scale(problem, sigma, magnitude_aware=name.endswith("magnitude"))
    accuracies = []
    for z in draws(problem, 20, 0, "pac-bayes"):
        w = problem.weights + scale * z
        accuracies.append(((x @ w[:4].view(2, 2).T + w[4:]).argmax(1) == y).double().mean().item())
    before = (model(x).argmax(1) == y).double().mean().item()
    assert found["accuracy_drop"] == pytest.approx(before - np.mean(accuracies), abs=1e-12)
    assert abs(found["accuracy_drop"] - 0.1) < 0.01
    assert found["flatness"] == pytest.approx(1 / sigma / 10, rel=1e-12)
    assert found["bound"] == pytest.approx(
        math.sqrt((float(problem.weights @ problem.weights) / (4 * sigma**2) + math.log(100 / sigma) + 10) / 100)
    )


def test_pac_bayes_sigma_that_is_not_reached_is_null_and_says_why():
    x = torch.ones(8, 1).double()
    always_right = nn.Linear(1, 2).double()
    with torch.no_grad():
        always_right.weight.zero_()
        always_right.bias.copy_(torch.tensor([1000.0, 0.0]))
    found = row(problem_of(always_right, (x, torch.zeros(8).long())), "pac-bayes-sigma")
    assert found["value"] is None
    assert "sigma = 2" in found["note"]
    json.dumps(found, allow_nan=False)


# -- worst cases in closed form -------------------------------------------------------------------------------------


def test_surrogate_gap_and_the_rayleigh_quotient_along_the_gradient():
    model, x, y, problem = mlp()
    loss, gradient, matrix = dense(model, x, y)
    quotient = float(gradient @ matrix @ gradient / gradient.square().sum())
    errors = []
    for rho in (0.1, 0.01, 0.001):
        found = row(problem, "surrogate-gap", rho=(rho,))
        assert found["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-12)
        moved = copy.deepcopy(model)
        flat = nn.utils.parameters_to_vector(model.parameters()) + rho * gradient / gradient.norm()
        nn.utils.vector_to_parameters(flat, moved.parameters())
        assert found["value"] == pytest.approx(F.cross_entropy(moved(x), y).item() - loss, rel=1e-9)
        assert found["curvature"] == pytest.approx(2 * found["value"] / rho**2, rel=1e-12)
        errors.append(abs(found["rayleigh"] - quotient))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3 * abs(quotient)
    whole = row(problem, "m-sharpness", m=(30,), rho=(0.1,))
    assert whole["value"] == pytest.approx(row(problem, "surrogate-gap", rho=(0.1,))["value"], rel=1e-10)


def test_surrogate_gap_is_exact_on_a_quadratic():
    found = row(quadratic(), "surrogate-gap", rho=(0.2,))
    g = CURVATURE * POINT[0]
    assert found["rayleigh"] == pytest.approx(float((g * CURVATURE * g).sum() / g.square().sum()), rel=1e-9)


def test_keskar_on_a_quadratic_is_the_corner_of_the_box():
    """Convex and separable: the maximum over the box is where every |w_i| grows."""
    problem, eps = quadratic(), 0.01
    size = POINT[0].abs()
    corner = size + eps * (size + 1)
    before, best = (0.5 * float((CURVATURE * v.square()).sum()) for v in (size, corner))
    found = row(problem, "keskar", rho=(eps,))
    assert found["value"] == pytest.approx(100 * (best - before) / (1 + before), rel=1e-6)
    assert found["loss_maximum"] == pytest.approx(best, rel=1e-8)


def test_keskar_in_a_subspace_against_all_corners():
    problem, eps = quadratic(), 0.01
    found = row(problem, "keskar-subspace", rho=(eps,))
    basis = torch.stack(list(draws(problem, 4, 0, "keskar")), 1).numpy()
    w, h = POINT[0].numpy(), CURVATURE.numpy()
    reach = eps * (np.abs(np.linalg.pinv(basis) @ w) + 1)
    corners = np.array(np.meshgrid(*[[-r, r] for r in reach])).reshape(4, -1)  # a convex maximum is at a corner
    values = 0.5 * (h[:, None] * (w[:, None] + basis @ corners) ** 2).sum(0)
    before = 0.5 * (h * w**2).sum()
    best = 100 * (values.max() - before) / (1 + before)
    assert found["subspace"] == 4
    assert found["value"] <= best * (1 + 1e-9)
    assert found["value"] >= 0.8 * best  # L-BFGS-B climbs to a corner, the nearest uphill one


# -- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", mean_cross_entropy])
def test_fisher_rao_from_the_gradient_of_each_example(loss):
    model, x, y, _ = mlp()
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    squares = [float(flat @ dense(model, x[i : i + 1], y[i : i + 1])[1]) ** 2 for i in range(30)]
    found = row(problem_of(model, (x, y), loss, batch_size=7), "fisher-rao")
    assert found["value"] == pytest.approx(np.mean(squares), rel=1e-10)
    assert found["stderr"] == pytest.approx(np.std(squares, ddof=1) / math.sqrt(30), rel=1e-8)
    assert found["labels"] == "empirical"


def test_fisher_rao_of_a_homogeneous_network_is_depth_squared_times_the_output_term():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)).double()
    x, y = domain_data((20,))["art"]
    output = model(x)
    slope = torch.autograd.grad(F.cross_entropy(output, y, reduction="sum"), output)[0]
    expected = 4 * (slope * output).sum(1).square().mean()
    assert row(problem_of(model, (x, y)), "fisher-rao")["value"] == pytest.approx(expected.item(), rel=1e-10)


def test_relative_flatness_from_the_dense_hessian():
    model, x, y, problem = mlp()
    matrix = dense(model, x, y)[2]
    starts = {"0.weight": (0, 6, 5), "2.weight": (36, 3, 6)}
    found = {r["layer"]: r for r in rows(problem, "relative-flatness")}
    for name, (start, outputs, inputs) in starts.items():
        weight = dict(model.named_parameters())[name].detach()
        block = matrix[start : start + outputs * inputs, start : start + outputs * inputs]
        traces = block.view(outputs, inputs, outputs, inputs).diagonal(dim1=1, dim2=3).sum(-1)
        expected = float((weight @ weight.T * traces).sum())
        assert found[name]["value"] == pytest.approx(expected, rel=1e-9)
        assert (found[name]["estimator"], found[name]["stderr"]) == ("exact", None)
    estimated = {r["layer"]: r for r in rows(problem, "relative-flatness", draws=17)}
    for name, exact in found.items():
        assert estimated[name]["estimator"] == "Hutchinson"
        assert abs(estimated[name]["value"] - exact["value"]) < 4 * estimated[name]["stderr"]


def test_gradient_norm_and_variance_by_hand():
    model, x, y, problem = mlp()
    assert row(problem, "gradient-norm")["value"] == pytest.approx(float(dense(model, x, y)[1].norm()), rel=1e-12)
    for m in (1, 7):
        parts = [p for p in partition(problem, m, 3) if len(p) == m]
        each = torch.stack([dense(model, x[p], y[p])[1] for p in parts])
        found = row_with_seed(problem, 3, "gradient-variance", m=(m,))
        assert found["value"] == pytest.approx(float(each.var(0, unbiased=True).sum()), rel=1e-10)
        assert found["n_blocks"] == len(parts)
        assert found["stderr"] > 0
    with pytest.raises(UsageError, match="m=20 leaves one block"):
        rows(problem, "gradient-variance", m=(20,))


def row_with_seed(problem: Problem, seed: int, name: str, **options) -> dict:
    (found,) = sharpness(problem, measure=(name,), seed=seed, **options)["measures"]
    return found


# -- inputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_input_sharpness_of_a_linear_loss_is_the_dual_norm(p: str):
    """Loss a·x: the rise is rho ‖x‖_p ‖a‖_q for one step and for many."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor([0.5, -2.0, 1.0]).double())

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.a)[:, None]

    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double()
    problem = problem_of(Slope(), (x, torch.zeros(9).double()), lambda o, t: o[:, 0])
    dual = {"1": math.inf, "2": 2.0, "inf": 1.0}[p]
    a = Slope().a.detach()
    expected = 0.3 * x.norm(dim=1, p=float(p)).mean() * a.norm(p=dual)
    for steps in (1, 4):
        found = row(problem, "input-sharpness", rho=(0.3,), p=p, inner_steps=steps)
        assert found["value"] == pytest.approx(expected.item(), rel=1e-9)


def test_input_sharpness_by_hand_and_of_a_mean_only_loss():
    model, x, y, problem = mlp()
    inputs = x.clone().requires_grad_()
    g = torch.autograd.grad(F.cross_entropy(model(inputs), y, reduction="sum"), inputs)[0]
    moved = x + 0.2 * x.norm(dim=1, keepdim=True) * g / g.norm(dim=1, keepdim=True)
    rises = F.cross_entropy(model(moved), y, reduction="none") - F.cross_entropy(model(x), y, reduction="none")
    for some in (problem, problem_of(model, (x, y), mean_cross_entropy, batch_size=4)):
        assert row(some, "input-sharpness", rho=(0.2,))["value"] == pytest.approx(rises.mean().item(), rel=1e-9)
    words = problem_of(
        nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)),
        (torch.randint(0, 9, (6, 2)), torch.arange(6) % 3),
    )
    with pytest.raises(UsageError, match="no single floating tensor"):
        rows(words, "input-sharpness")


# -- baselines ----------------------------------------------------------------------------------------------------


def test_norms_margin_and_count_by_hand():
    model, x, y, problem = mlp()
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert row(problem, "weight-norm")["value"] == pytest.approx(float(flat.norm()), rel=1e-12)
    assert row(problem, "parameter-count")["value"] == 57
    spectral = sum(math.log(np.linalg.norm(model[i].weight.detach().numpy(), 2)) for i in (0, 2))
    assert row(problem, "log-spectral-norm")["value"] == pytest.approx(spectral, rel=1e-10)
    logits = model(x).detach().numpy()
    margins = [logits[i, c] - max(np.delete(logits[i], c)) for i, c in enumerate(y.tolist())]
    found = row(problem, "margin")
    assert found["value"] == pytest.approx(np.percentile(margins, 10), rel=1e-10)
    assert found["mean"] == pytest.approx(np.mean(margins), rel=1e-10)


def test_path_norm_by_summing_over_paths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    a, b = model[0].weight.detach().numpy(), model[2].weight.detach().numpy()
    total = sum(a[j, i] ** 2 * b[k, j] ** 2 for i in range(3) for j in range(4) for k in range(2))
    data = (torch.randn(5, 3).double(), torch.arange(5) % 2)
    assert row(problem_of(model, data), "path-norm")["value"] == pytest.approx(math.sqrt(total), rel=1e-10)
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    with pytest.raises(UsageError, match="normalising layer, there is 1"):
        rows(problem_of(normed, data), "path-norm")


class Curved(nn.Module):
    """A curved activation that no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.Sigmoid(), None], ids=str)
def test_path_norm_is_refused_where_paths_have_no_weight(activation: nn.Module | None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)) if activation else Curved()
    data = (torch.randn(5, 3).double(), torch.arange(5) % 2)
    with pytest.raises(UsageError, match="does not double where its input does"):
        rows(problem_of(model.double(), data), "path-norm")


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.Identity()], ids=str)
def test_path_norm_of_layers_with_biases(activation: nn.Module):
    model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)).double()
    data = (torch.randn(5, 3).double(), torch.arange(5) % 2)
    assert row(problem_of(model, data), "path-norm")["value"] > 0


def test_distance_from_start(tmp_path):
    model, *_, problem = mlp()
    start = small_mlp(seed=1)
    torch.save(start.state_dict(), tmp_path / "start.pt")
    flats = [nn.utils.parameters_to_vector(m.parameters()).detach() for m in (model, start)]
    found = row(problem, "distance-from-start", start=str(tmp_path / "start.pt"))
    assert found["value"] == pytest.approx(float((flats[0] - flats[1]).norm()), rel=1e-12)
    with pytest.raises(UsageError, match=r"not known.*`start=`"):
        rows(problem, "distance-from-start")


# -- all of them --------------------------------------------------------------------------------------------------

ALL = tuple(n for n in MEASURES if n != "distance-from-start")


def test_every_measure_leaves_the_model_alone_and_gives_strict_rows():
    model = small_mlp()
    model[1] = nn.ReLU()  # the path norm is defined for no tanh
    model(torch.randn(9, 5).double()).sum().backward()
    before = snapshot(model)
    problem = problem_of(model, domain_data())
    found = sharpness(problem, measure=ALL, draws=3, inner_steps=2, m=(4,), rho=(0.05,))
    assert_untouched(model, before)
    assert torch.equal(problem.space.current(), problem.weights)
    assert {r["measure"] for r in found["measures"]} == set(ALL)
    json.dumps(found.to_json(), allow_nan=False)
    assert list(found.data["measure"].values) == [r["measure"] for r in found["measures"]]
    frame = found.to_pandas()
    assert len(frame) == len(found["measures"])
    for r in found["measures"]:
        assert {"measure", "m", "rho", "p", "adaptive", "value", "stderr", "n_blocks"} <= set(r)


def test_disjoint_subsets_give_mean_and_standard_error():
    problem = mlp()[-1]
    found = sharpness(problem, measure=("surrogate-gap", "gradient-norm", "margin"), subsets=4)
    order = problem.examples.stratified_order(0)
    alone = []
    for k in range(4):
        rows_k = np.sort(order[7 * k : 7 * k + 7])
        alone.append(row(problem.restrict_to_examples(rows_k), "surrogate-gap")["value"])
    first = found["measures"][0]
    assert first["subset_values"] == pytest.approx(alone, rel=1e-12)
    assert first["value"] == pytest.approx(np.mean(alone), rel=1e-12)
    assert first["stderr"] == pytest.approx(np.std(alone, ddof=1) / 2, rel=1e-9)
    margin = found["measures"][-1]
    assert margin["n_blocks"] == 7  # the same in every subset
    assert len(set(margin["mean"])) == 4  # not the same
    assert (found["subsets"]["count"], found["subsets"]["size"]) == (4, 7)
    assert len(set(found["subsets"]["data_hashes"])) == 4
    with pytest.raises(UsageError, match="31 subsets of 30 examples"):
        sharpness(problem, subsets=31)


def test_a_flag_that_no_measure_uses_is_refused():
    for options, flag in (
        ({"measure": ("fisher-rao",), "rho": (0.1,)}, "`rho=`"),
        ({"measure": ("gradient-norm",), "p": "inf"}, "`p=`"),
        ({"measure": ("keskar",), "adaptive": True}, "`adaptive=`"),
        ({"eta": 0.1}, "`eta=`"),
        ({"measure": ("gradient-norm",), "blocks": "stratified"}, "`blocks=`"),
    ):
        with pytest.raises(UsageError, match=f"{flag} is used by none of the chosen measures"):
            SharpnessSpec(**options)
    for measure in MEASURES:
        assert set(MEASURES[measure].details) == {"formula", "cost", "paper"}


# -- ignored targets: every measure must give what the other examples alone give ------------------------------------

OF_EXAMPLES = ("m-sharpness", "asam-sharpness", "fisher-rao", "margin", "input-sharpness", "gradient-variance")


@pytest.mark.parametrize("first_counts", [False, True])
@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_ignored_examples_are_as_if_they_were_not_there(name: str, first_counts: bool):
    model, x, y, _ = mlp()
    kept = torch.arange(len(y)) % 3 != int(first_counts)
    ignored = y.where(kept, -100)
    options = {"m": (1,)} if name in ("m-sharpness", "asam-sharpness", "gradient-variance") else {}
    found, alone = (
        row(problem_of(model, data, nn.CrossEntropyLoss(), batch_size=7), name, **options)
        for data in ((x, ignored), (x[kept], y[kept]))
    )
    assert found["value"] == pytest.approx(alone["value"], rel=1e-8)
    if alone.get("stderr") is not None:
        assert found["stderr"] == pytest.approx(alone["stderr"], rel=1e-8)


def test_a_margin_of_examples_that_ignore_a_class_number_of_their_own():
    model, x, y, _ = mlp()
    kept = torch.arange(len(y)) % 4 != 0
    loss = nn.CrossEntropyLoss(ignore_index=255)
    found = row(problem_of(model, (x, y.where(kept, 255)), loss), "margin")
    assert found["n_blocks"] == int(kept.sum())
    assert found["value"] == row(problem_of(model, (x[kept], y[kept])), "margin")["value"]


def test_fisher_rao_weighs_examples_as_the_loss_does():
    model, x, y, _ = mlp()
    weight = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64)
    squares = []
    for i in range(len(y)):
        gradients = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        squares.append(sum((g * p).sum() for g, p in zip(gradients, model.parameters(), strict=True)).item() ** 2)
    expected = np.average(squares, weights=weight[y].numpy())
    found = row(problem_of(model, (x, y), nn.CrossEntropyLoss(weight=weight)), "fisher-rao")["value"]
    assert found == pytest.approx(expected, rel=1e-8)


def test_input_sharpness_of_a_forward_that_detaches_its_inputs_is_refused():
    class Detaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.detach())

    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2] * 2)
    with pytest.raises(UsageError, match="no gradient reaches the inputs"):
        row(Problem(Detaches(), (x, y)), "input-sharpness")

"""Objectives over ready-made batches: every family beside the dense float64 derivatives of its plain total."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import assert_untouched, flat_function, snapshot
from objective_families import (
    F64,
    FAMILIES,
    Family,
    InTrainingAlone,
    TwoTasks,
    contrastive,
    detection,
    labels,
    prototypes,
    randn,
    two_tasks,
)
from torch import Tensor, nn

import landscape
from landscape.base.errors import DataError, NumericalError, ResourceError, UsageError
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def problem_of(family: Family, **options: Any) -> Problem:
    return Problem(family.network, family.batches, objective=family.objective, device="cpu", **options)


def called(objective: Any, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Sum and count, as the words of the contract have it."""
    given = copy.deepcopy(batch)
    made = objective(model, given) if callable(objective) else objective.loss(objective.output(model, given), given)
    total, count = made if isinstance(made, tuple) else (made.sum(), len(made))
    return total, torch.as_tensor(count, dtype=F64)


def plain_total(family: Family, decay: float = 0.0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Sum of sums over sum of counts (and a penalty) as a function of all weights in one vector."""
    own = isinstance(family.objective, nn.Module)
    both = nn.ModuleDict({"network": family.network, "loss": family.objective}) if own else family.network

    def total(model: Any) -> Tensor:
        network, objective = (model["network"], model["loss"]) if own else (model, family.objective)
        parts = [called(objective, network, batch) for batch in family.batches]
        squares = sum(p.square().sum() for p in model.parameters())
        return sum(p[0] for p in parts) / sum(p[1] for p in parts) + decay / 2 * squares

    return flat_function(both, total)


def value(function: Callable[[Tensor], Tensor], weights: Tensor) -> float:
    return float(function(weights).detach())


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]()


def test_loss_gradient_and_hessian_are_those_of_the_plain_total(family: Family):
    before = snapshot(family.network)
    problem = problem_of(family)
    function, weights = plain_total(family)
    assert torch.equal(problem.weights, weights)
    loss, gradient = problem.loss_and_gradient()
    expected = torch.autograd.functional.hessian(function, weights)
    variable = weights.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(variable), variable)
    assert problem.loss() == pytest.approx(value(function, weights), rel=1e-12)
    assert float(loss) == pytest.approx(problem.loss(), rel=1e-12)
    torch.testing.assert_close(gradient, slope, **CLOSE)
    torch.testing.assert_close(operator_of(problem).dense(), expected, **CLOSE)
    assert_untouched(family.network, before)


def test_the_hessian_command_finds_its_spectrum(family: Family):
    problem = problem_of(family)
    found = landscape.hessian(problem, top=2, bottom=1, tol=1e-8, trace=True, diagonal=True)
    function, weights = plain_total(family)
    matrix = torch.autograd.functional.hessian(function, weights)
    values = torch.linalg.eigvalsh(matrix)
    assert found["eigenvalues"] == pytest.approx(values.flip(0)[:2].tolist(), rel=1e-6, abs=1e-9)
    assert found["smallest"] == pytest.approx(values[:1].tolist(), rel=1e-6, abs=1e-9)
    assert found["trace"]["estimate"] == pytest.approx(float(matrix.trace()), abs=6 * found["trace"]["stderr"] + 1e-9)
    assert found["n_examples"] == len(family.batches)
    assert found["n_counted"] == sum(float(called(family.objective, family.network, b)[1]) for b in family.batches)
    assert found["derivatives"]["note"] is None


def test_weight_decay_is_a_part_of_loss_gradient_and_hessian(family: Family):
    problem = problem_of(family, weight_decay=0.3)
    function, weights = plain_total(family, 0.3)
    assert problem.loss() == pytest.approx(value(function, weights), rel=1e-12)
    without = operator_of(problem_of(family)).dense()
    with_it = operator_of(problem).dense()
    torch.testing.assert_close(with_it, without + 0.3 * torch.eye(len(weights), dtype=F64), **CLOSE)
    torch.testing.assert_close(problem.gradient(), problem_of(family).gradient() + 0.3 * weights, **CLOSE)
    assert problem.describe()["weight_decay"] == 0.3


def test_surfaces_and_sharpness_are_of_the_plain_total(family: Family):
    problem = problem_of(family, weight_decay=0.1)
    function, weights = plain_total(family, 0.1)
    surface = landscape.surface(problem, dim=1, points=5, range=0.5, direction=("gaussian",))
    along = torch.cat([t.reshape(-1) for t in (surface.vectors[f"d1.{n}"] for n in problem.space.names)]).to(F64)
    expected = [value(function, weights + x * along) for x in surface.data["x"].values.tolist()]
    assert surface.data["loss"].values.tolist() == pytest.approx(expected, rel=1e-6)
    found = landscape.sharpness(problem, m=tuple({1, len(family.batches)}), rho=(0.05,))["measures"]
    variable = weights.clone().requires_grad_()
    (g,) = torch.autograd.grad(function(variable), variable)
    rise = value(function, weights + 0.05 * g / g.norm()) - value(function, weights)
    assert found[-1]["value"] == pytest.approx(rise, rel=1e-8)
    if len(family.batches) > 1:
        each = [plain_total(Family(family.network, [b], family.objective), 0.1) for b in family.batches]
        counts = [float(called(family.objective, family.network, b)[1]) for b in family.batches]
        mean_rise = 0.0
        for (one, w), count in zip(each, counts, strict=True):
            v = w.clone().requires_grad_()
            (g,) = torch.autograd.grad(one(v), v)
            mean_rise += count * (value(one, w + 0.05 * g / g.norm()) - value(one, w)) / sum(counts)
        assert found[0]["value"] == pytest.approx(mean_rise, rel=1e-8)


def test_domains_have_their_own_means_and_add_up(family: Family):
    if len(family.batches) < 2:
        pytest.skip("one batch")
    parts = {"a": family.batches[:1], "b": family.batches[1:]}
    problem = Problem(family.network, parts, objective=family.objective, device="cpu")
    whole = landscape.hessian(problem, top=1, per_domain=True, tol=1e-8)
    for name, batches in parts.items():
        function, weights = plain_total(Family(family.network, batches, family.objective))
        top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(function, weights))[-1]
        assert whole["domains"][name]["loss"] == pytest.approx(value(function, weights), rel=1e-10)
        assert whole["domains"][name]["eigenvalues"][0] == pytest.approx(float(top), rel=1e-6, abs=1e-9)
    found = landscape.domains(problem)
    assert found["domains"]["b"]["n"] == len(family.batches) - 1


def test_a_line_to_other_weights_and_a_plane_are_of_the_plain_total(family: Family, tmp_path: Path):
    problem = problem_of(family, weight_decay=0.1)
    function, weights = plain_total(family, 0.1)
    there = weights + 0.1 * randn(len(weights))
    problem.space.write(there)
    torch.save(problem.model.state_dict(), tmp_path / "b.pt")
    problem.space.write(weights)
    found = landscape.path(problem, tmp_path / "b.pt", points=3).data["loss"].values.tolist()
    assert found == pytest.approx([value(function, weights + t * (there - weights)) for t in (0, 0.5, 1)], rel=1e-8)
    plane = landscape.surface(problem, points=3, range=0.2, direction=("unit", "grad"))
    axes = [torch.cat([plane.vectors[f"d{i}.{n}"].reshape(-1) for n in problem.space.names]).to(F64) for i in (1, 2)]
    x, y = (float(plane.data[name].values[2]) for name in ("x", "y"))
    corner = value(function, weights + x * axes[0] + y * axes[1])
    assert float(plane.data["loss"].values[2, 2]) == pytest.approx(corner, rel=1e-6)


# -- Gauss-Newton ----------------------------------------------------------------------------------------------------


def test_gauss_newton_of_an_objective_in_two_halves():
    family = two_tasks()
    problem = problem_of(family, weight_decay=0.2)
    found = operator_of(problem, "ggn").dense()
    function, weights = flat_function(family.network, lambda m: torch.cat([_flat(m(b["x"])) for b in family.batches]))
    jacobian = torch.autograd.functional.jacobian(function, weights)

    def outer(z: Tensor) -> Tensor:
        total, at = torch.zeros((), dtype=F64), 0
        for b in family.batches:
            n = len(b["x"])
            kind, size = z[at : at + 3 * n].view(n, 3), z[at + 3 * n : at + 5 * n].view(n, 2)
            total, at = total + TwoTasks().loss({"kind": kind, "size": size}, b).sum(), at + 5 * n
        return total / 6

    inner = torch.autograd.functional.hessian(outer, function(weights))
    expected = jacobian.T @ inner @ jacobian + 0.2 * torch.eye(len(weights), dtype=F64)
    torch.testing.assert_close(found, expected, **CLOSE)


def _flat(output: dict[str, Tensor]) -> Tensor:
    return torch.cat([output["kind"].reshape(-1), output["size"].reshape(-1)])


def test_gauss_newton_of_an_objective_in_one_piece_is_refused():
    with pytest.raises(
        UsageError, match=r"cannot be had apart.*`operator='hessian'`, or give the objective two halves"
    ):
        operator_of(problem_of(contrastive()), "ggn")
    with pytest.raises(UsageError, match="made of single examples"):
        operator_of(problem_of(two_tasks()), "empirical-fisher")


def test_halves_that_are_another_loss_are_found():
    class Wrong(TwoTasks):
        def __call__(self, model: nn.Module, batch: Any) -> Tensor:
            return 2 * self.loss(self.output(model, batch), batch)

    family = two_tasks()
    with pytest.raises(NumericalError, match="let both be the same loss"):
        operator_of(Problem(family.network, family.batches, objective=Wrong(), device="cpu"), "ggn")


def test_losses_that_a_network_gives_in_training_alone():
    family = detection()
    network = InTrainingAlone().double()
    network.load_state_dict(family.network.state_dict())
    before = snapshot(network)
    with pytest.raises(DataError, match=r"(?s)in training alone: `mode='train'`"):
        Problem(network, family.batches, objective=family.objective, device="cpu")
    problem = Problem(network, family.batches, objective=family.objective, device="cpu", mode="train")
    plain = problem_of(family)
    torch.testing.assert_close(operator_of(problem).dense(), operator_of(plain).dense(), **CLOSE)
    assert landscape.sharpness(problem, m=(1,), rho=(0.05,))["loss"] == pytest.approx(plain.loss(), rel=1e-12)
    assert_untouched(network, before)
    NETWORKS[:] = [Elsewhere().double().train()]
    with pytest.raises(UsageError, match="a copy of the network is not the network"):
        Problem(NETWORKS[0], family.batches, objective=family.objective, device="cpu", mode="train")


NETWORKS: list[nn.Module] = []


class Elsewhere(InTrainingAlone):
    """Computes in training with the weights of a network that a global name reaches, itself: no copy follows that."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        return super(Elsewhere, NETWORKS[0] if self.training else self).forward(images, targets)


# -- losses with parameters ------------------------------------------------------------------------------------------


def test_parameters_of_a_loss_are_part_of_the_point():
    family = prototypes()
    problem = problem_of(family)
    assert problem.space.names[-2:] == ("loss.points", "loss.temperature")
    assert problem.space.names[0] == "0.weight"
    found = landscape.hessian(problem, top=1)
    assert "v1.loss.points" in found.vectors
    fixed = problem_of(family, params="^(?!loss[.])", weight_decay=1.0)
    assert fixed.n_parameters == problem.n_parameters - 7
    assert fixed.loss() == pytest.approx(problem_of(family, weight_decay=1.0).loss())
    with pytest.raises(UsageError, match="parameters of the loss are behind them"):
        operator_of(problem, "ggn")
    other = copy.deepcopy(family.objective)
    with torch.no_grad():
        other.points += 1
    assert Problem(family.network, family.batches, objective=other).weights_hash != problem.weights_hash
    assert Problem(family.network, family.batches, objective=other).loss_hash == problem.loss_hash


class Scaled(nn.Module):
    """An ordinary loss of outputs and targets, with a scale that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.4, dtype=F64))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output * self.scale.exp(), target, reduction="none") + self.scale.square()


@pytest.mark.parametrize("over", ["example", "batch"])
def test_parameters_of_an_ordinary_loss(over: str, tmp_path: Path):
    net, loss = nn.Linear(3, 3).double(), Scaled()
    x, y = randn(12, 3), labels(12, 3)
    problem = Problem(net, (x, y), loss, device="cpu", loss_over=over, batch_size=6)
    both = nn.ModuleDict({"network": net, "loss": loss})
    function, weights = flat_function(both, lambda m: m["loss"](m["network"](x), y).mean())
    torch.testing.assert_close(
        operator_of(problem).dense(), torch.autograd.functional.hessian(function, weights), **CLOSE
    )
    there = weights + 0.1
    named = {k: v.view(p.shape) for (k, p), v in zip(both.named_parameters(), _cut(there, both), strict=True)}
    torch.save({k.removeprefix("network."): v for k, v in named.items()}, tmp_path / "b.pt")
    path = landscape.path(problem, tmp_path / "b.pt", points=3)
    expected = [value(function, weights + t * (there - weights)) for t in (0, 0.5, 1)]
    assert path.data["loss"].values.tolist() == pytest.approx(expected, rel=1e-9)


def _cut(vector: Tensor, model: nn.Module) -> list[Tensor]:
    return list(vector.split([p.numel() for p in model.parameters()]))


# -- what is refused, each by name -----------------------------------------------------------------------------------


NET = nn.Linear(3, 3)
BATCHES = [{"x": randn(n, 3).float(), "y": labels(n, 3)} for n in (4, 6, 5)]


def summed(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="sum"), len(batch["y"])


def mean(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    return F.cross_entropy(model(batch["x"]), batch["y"]), len(batch["y"])


def alone(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def number(model: nn.Module, batch: dict[str, Tensor]) -> tuple[float, int]:
    return alone(model, batch).item(), 1


def noisy(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    return summed(model, {**batch, "x": batch["x"] + 0.1 * torch.randn(3)})


def in_place(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    batch["x"].div_(2)
    return summed(model, batch)


def training(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    model.train()
    return summed(model, batch)


def by_weights(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    values = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
    hard = values > values.detach().median()
    return values[hard].sum(), int(hard.sum()) + int(model.weight[0, 0] > 5)


def nothing(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    return alone(model, batch) * 0, 0


def uncounted(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    return alone(model, batch), 0


def broken(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    return summed(model, {"x": batch["images"], "y": batch["y"]})


def vector(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none"), 4


REFUSED: dict[Any, tuple[type[Exception], str]] = {
    mean: (UsageError, r"the same for these examples twice: no sum \(objective mean\): return \(loss \* n, n\)"),
    alone: (DataError, r"returned one number, and not how many"),
    number: (DataError, r"sum of losses is a float, which has no derivatives"),
    noisy: (NumericalError, r"two passes over the same examples differ.*objective noisy"),
    in_place: (NumericalError, r"two passes .* differ|writes into its inputs"),
    training: (UsageError, r"changes the mode of the network \(training\)"),
    nothing: (DataError, r"its count is 0 in every batch"),
    uncounted: (DataError, r"with a count of 0"),
    broken: (DataError, r"the objective raised KeyError: 'images'"),
    vector: (DataError, r"sum of losses is a tensor of shape \(4,\)"),
}


@pytest.mark.parametrize("objective", list(REFUSED), ids=lambda f: f.__name__)
def test_what_is_no_objective_is_refused(objective: Any):
    kind, words = REFUSED[objective]
    with pytest.raises(kind, match=words):
        Problem(copy.deepcopy(NET), BATCHES, objective=objective, device="cpu")


def test_a_mean_per_batch_is_a_sum_of_one():
    found = Problem(NET, BATCHES, objective=lambda m, b: (alone(m, b), 1), device="cpu", dtype="float64")
    expected = [float(alone(copy.deepcopy(NET).double(), {**b, "x": b["x"].double()}).detach()) for b in BATCHES]
    assert found.loss() == pytest.approx(sum(expected) / 3, rel=1e-12)


def test_a_count_that_moves_with_the_weights_is_found_where_it_moves():
    problem = Problem(NET, BATCHES, objective=by_weights, device="cpu")
    with problem.temporary_weights() as tensors:
        tensors[0][0, 0] = 6
        with pytest.raises(UsageError, match=r"count for one batch was 2 and is 3"):
            problem.loss()


def test_a_batch_that_counts_nothing_weighs_nothing():
    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        values = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        counted = torch.arange(len(values)) > 3
        return values[counted].sum(), int(counted.sum())

    some, all_of_them = (Problem(NET, b, objective=objective, device="cpu") for b in (BATCHES[1:], BATCHES))
    assert all_of_them.loss() == pytest.approx(some.loss())
    torch.testing.assert_close(all_of_them.hvp(some.weights), some.hvp(some.weights))


def test_a_loss_that_is_no_number_names_its_batch():
    bad = [BATCHES[0], {**BATCHES[1], "x": BATCHES[1]["x"] * float("nan")}]
    problem = Problem(NET, bad, objective=summed, device="cpu")
    with pytest.raises(NumericalError, match=r"loss at the weights is nan \(first in batch 1\)"):
        landscape.hessian(problem, top=1)


def test_running_statistics_that_move_are_found():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def objective(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        model[1].running_mean.add_(1)
        return summed(model, batch)

    with pytest.raises((UsageError, NumericalError), match=r"another state behind|two passes"):
        Problem(net, BATCHES, objective=objective, device="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "mse"}, "the objective is the loss"),
        ({"batch_size": 3}, "ready-made batch is the unit"),
        ({"loss_over": "batch"}, r"\(mean, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_what_an_objective_decides_is_not_said_twice(options: dict[str, Any], words: str):
    with pytest.raises(UsageError, match=words):
        Problem(NET, BATCHES, objective=summed, device="cpu", **options)


@pytest.mark.parametrize("measure", ["fisher-rao", "input-sharpness", "margin", "pac-bayes-sigma", "path-norm"])
def test_measures_of_single_examples_are_refused_by_name(measure: str):
    problem = Problem(NET, BATCHES, objective=summed, device="cpu")
    with pytest.raises(UsageError, match=r"single examples|floating tensor|needs classes|hides its inputs"):
        landscape.sharpness(problem, measure=(measure,))


def test_fisher_matrices_are_refused_beside_a_penalty():
    problem = Problem(NET, (randn(9, 3).float(), labels(9, 3)), device="cpu", weight_decay=0.1)
    for kind in ("fisher", "empirical-fisher", "gradient-covariance"):
        with pytest.raises(UsageError, match=r"a penalty is none.*use ggn or hessian"):
            operator_of(problem, kind)


def test_memory_that_runs_out_is_not_found_by_dividing_a_batch():
    from cases import OUT_OF_MEMORY

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        if len(batch["y"]) > 5:
            raise RuntimeError(OUT_OF_MEMORY)
        return summed(model, batch)

    with pytest.raises(ResourceError, match="one ready-made batch, which is never divided"):
        Problem(NET, BATCHES, objective=objective, device="cpu")

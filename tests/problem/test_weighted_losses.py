"""Weighted sums of losses of several outputs, beside the dense float64 Hessian of the sum as it is written down."""

from __future__ import annotations

import copy
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import flat_function
from objective_families import F64, TwoHeads, labels, randn, seeded
from torch import Tensor, nn

import landscape
from landscape.base.errors import DataError, UsageError
from landscape.base.terms import Term, terms, text_of
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem

X, Y = randn(14, 3), {"kind": labels(14, 3), "size": randn(14, 2, seed=1)}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def written_down(model: Any) -> Tensor:
    output = model(X)
    return F.cross_entropy(output["kind"], Y["kind"]) + 0.3 * F.mse_loss(output["size"], Y["size"])


def dense(network: nn.Module, total: Any = written_down) -> tuple[float, Tensor]:
    function, weights = flat_function(network, total)
    return float(function(weights).detach()), torch.autograd.functional.hessian(function, weights)


def huber(output: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(output, target, reduction="none").sum(1)


SAME = [
    {"kind": "cross_entropy", "size": (0.3, "mse")},
    {"size": (0.3, nn.MSELoss()), "kind": F.cross_entropy},
    {"kind": (1, nn.CrossEntropyLoss()), "size": [0.3, lambda o, t: (o - t).square().mean(1)]},
    {"kind": F.cross_entropy, "size": (0.3, lambda o, t: (o - t).square().mean())},  # one gives only its mean
    "kind=cross_entropy,size=0.3*mse",
]


@pytest.mark.parametrize("loss", SAME)
def test_the_hessian_is_that_of_the_sum(loss: Any) -> None:
    network = seeded(TwoHeads)
    problem = Problem(network, (X, Y), loss, device="cpu", batch_size=5)
    value, hessian = dense(network)
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(operator_of(problem).dense(), hessian, **CLOSE)
    decayed = Problem(network, (X, Y), loss, device="cpu", weight_decay=0.1)
    torch.testing.assert_close(operator_of(decayed).dense(), hessian + 0.1 * torch.eye(41, dtype=F64), **CLOSE)


class Itself(nn.Module):
    """A network that returns its losses, one per example, as many multi-task codes do."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.heads, self.mean = seeded(TwoHeads), mean

    def forward(self, x: Tensor, kind: Tensor, size: Tensor) -> dict[str, Tensor]:
        found = self.heads(x)
        each = {
            "ce": F.cross_entropy(found["kind"], kind, reduction="none"),
            "aux": (found["size"] - size).square().mean(1),
        }
        return {k: v.mean() for k, v in each.items()} if self.mean else each


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("loss", [{"ce": 1.0, "aux": 0.3}, "ce=1,aux=0.3"])
def test_outputs_that_are_losses(mean: bool, loss: Any) -> None:
    network = Itself(mean)
    problem = Problem(network, ({"x": X, **Y}, Y["kind"]), loss, device="cpu", batch_size=5)
    value, hessian = dense(network.heads)
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(operator_of(problem).dense(), hessian, **CLOSE)
    with pytest.raises(UsageError, match=r"returns losses \(ce, aux\).*`operator='hessian'`"):
        operator_of(problem, "ggn").dense()


def test_several_losses_of_one_output() -> None:
    network, y = seeded(lambda: nn.Linear(3, 2)), randn(14, 2, seed=1)
    problem = Problem(network, (X, y), {"mse": 1.0, "huber": 0.3}, device="cpu", batch_size=5)
    value, hessian = dense(network, lambda m: F.mse_loss(m(X), y) + 0.3 * F.huber_loss(m(X), y))
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(operator_of(problem).dense(), hessian, **CLOSE)


Pair = namedtuple("Pair", "logits aux_logits")


@pytest.mark.parametrize(("kind", "names"), [(Pair, ("logits", "aux_logits")), (tuple, (0, 1))])
def test_one_target_for_outputs_in_a_tuple(kind: Any, names: Any) -> None:
    """As networks with an auxiliary head have it."""

    class Net(TwoHeads):
        def forward(self, x: Tensor) -> Any:
            found = super().forward(x)
            both = found["kind"], found["size"].tanh() @ torch.ones(2, 3, dtype=F64)
            return Pair(*both) if kind is Pair else both

    network = seeded(Net)
    loss = {names[0]: "cross_entropy", names[1]: (0.4, "cross_entropy")}
    problem = Problem(network, (X, Y["kind"]), loss, device="cpu", batch_size=5)

    def total(model: Any) -> Tensor:
        main, aux = model(X)
        return F.cross_entropy(main, Y["kind"]) + 0.4 * F.cross_entropy(aux, Y["kind"])

    torch.testing.assert_close(operator_of(problem).dense(), dense(network, total)[1], **CLOSE)


class Learned(nn.Module):
    """A part with a parameter of its own: the task's log-variance (arXiv 1705.07115)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor(0.2, dtype=F64))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean(1) * (-self.log_variance).exp() + self.log_variance


def test_parts_with_parameters_of_their_own(tmp_path: Path) -> None:
    network, part = seeded(TwoHeads), Learned()
    problem = Problem(network, (X, Y), {"kind": "cross_entropy", "size": (0.3, part)}, device="cpu", batch_size=5)
    both = nn.ModuleDict({"network": network, "loss": part})

    def total(model: Any) -> Tensor:
        found = model["network"](X)
        return F.cross_entropy(found["kind"], Y["kind"]) + 0.3 * model["loss"](found["size"], Y["size"]).mean()

    assert problem.space.names[-1] == "loss.size.log_variance"
    torch.testing.assert_close(operator_of(problem).dense(), dense(both, total)[1], **CLOSE)
    moved = {**network.state_dict(), "loss.size.log_variance": torch.tensor(0.5, dtype=F64)}
    torch.save(moved, tmp_path / "b.pt")
    found = landscape.path(problem, tmp_path / "b.pt", points=3).data["loss"].values
    with torch.no_grad():
        part.log_variance.fill_(0.5)
    assert found[-1] == pytest.approx(float(total(both).detach()), rel=1e-9)


def test_tokens_are_weighed_as_by_one_loss() -> None:
    """Both parts are means over the tokens that count."""
    network = seeded(lambda: nn.Embedding(5, 4))
    tokens = torch.tensor([[0, 1, 2], [3, 4, 0], [1, 1, 2]])
    target = torch.tensor([[0, -100, -100], [1, 2, 3], [-100, 3, 0]])
    problem = Problem(network, (tokens, target), {"token_cross_entropy": 1.5}, device="cpu", batch_size=2)

    def total(model: Any) -> Tensor:
        return 1.5 * F.cross_entropy(model(tokens).transpose(1, 2), target)

    assert problem.loss() == pytest.approx(dense(network, total)[0], rel=1e-12)
    torch.testing.assert_close(operator_of(problem).dense(), dense(network, total)[1], **CLOSE)


def test_gauss_newton_and_fisher_of_the_sum() -> None:
    network = seeded(TwoHeads)
    problem = Problem(network, (X, Y), SAME[0], device="cpu", batch_size=5)
    plain = Problem(network, (X, Y), _each, device="cpu")
    for kind in ("ggn", "empirical-fisher"):
        torch.testing.assert_close(operator_of(problem, kind).dense(), operator_of(plain, kind).dense(), **CLOSE)
    # Labels drawn from softmax(kind) and from Gaussians of the variance that 0.3/2 (size - y)^2 is the energy of.
    fisher, n = torch.zeros(41, 41, dtype=F64), len(X)
    function, weights = flat_function(network, lambda m: torch.cat([m(X)["kind"], m(X)["size"]], 1).reshape(-1))
    jacobian = torch.autograd.functional.jacobian(function, weights).view(n, 5, 41)
    p = function(weights).detach().view(n, 5)[:, :3].softmax(1)
    for i in range(n):
        inner = torch.zeros(5, 5, dtype=F64)
        for k in range(3):  # in expectation over labels
            score = torch.eye(3, dtype=F64)[k] - p[i]
            inner[:3, :3] += p[i, k] * torch.outer(score, score)
        inner[3:, 3:] = 0.3 * torch.eye(2, dtype=F64)  # E[s s^T] with s = 0.3 (z - y), y of variance 1/0.3
        fisher += jacobian[i].T @ inner @ jacobian[i] / n
    torch.testing.assert_close(operator_of(problem, "fisher").dense(), fisher, **CLOSE)
    other = Problem(network, (X, Y), {"kind": (0.5, "cross_entropy"), "size": "mse"}, device="cpu")
    with pytest.raises(UsageError, match=r"kind=0.5\*cross_entropy is no likelihood.*ggn or empirical-fisher"):
        operator_of(other, "fisher")
    with pytest.raises(UsageError, match="is no likelihood known here"):
        operator_of(problem, "fisher-mc").dense()


def _each(output: Any, target: Any) -> Tensor:
    kind = F.cross_entropy(output["kind"], target["kind"], reduction="none")
    return kind + 0.3 * (output["size"] - target["size"]).square().mean(1)


def test_every_analysis_takes_it() -> None:
    network = seeded(TwoHeads)
    data = {"a": (X[:6], {k: v[:6] for k, v in Y.items()}), "b": (X[6:], {k: v[6:] for k, v in Y.items()})}
    problem = Problem(network, data, SAME[0], device="cpu")
    value = dense(network)[0]
    assert landscape.surface(problem, dim=1, points=3)["center_loss"] == pytest.approx(value)
    assert landscape.sharpness(problem, m=(4,), rho=(0.05,))["loss"] == pytest.approx(value)
    found = landscape.domains(problem)["domains"]
    assert (6 * found["a"]["loss"] + 8 * found["b"]["loss"]) / 14 == pytest.approx(value)
    assert problem.describe()["loss_function"] == "kind=cross_entropy,size=0.3*mse"
    other = Problem(network, data, {"kind": "cross_entropy", "size": (0.4, "mse")}, device="cpu")
    assert other.loss_hash != problem.loss_hash == Problem(copy.deepcopy(network), data, SAME[0]).loss_hash


@pytest.mark.parametrize(
    ("loss", "kind", "words"),
    [
        ({}, UsageError, "there is no part"),
        ({"kind": ("mse", 0.3)}, UsageError, "no loss, and no weight and a loss.*'kind'"),
        ({"kind": (float("nan"), "mse")}, UsageError, "no loss, and no weight"),
        ({"kind": "cross_entopy"}, UsageError, "did you mean 'cross_entropy'"),
        ({"class": "cross_entropy"}, DataError, "returns no 'class': there is kind, size"),
        ({"kind": "cross_entropy", "size": (0.3, "mse"), "boxes": 1}, DataError, "returns no 'boxes'"),
    ],
)
def test_what_cannot_be_is_said(loss: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Problem(seeded(TwoHeads), (X, Y), loss, device="cpu")


def test_missing_targets_are_named() -> None:
    with pytest.raises(DataError, match="there is no target 'size': there is kind"):
        Problem(seeded(TwoHeads), (X, {"kind": Y["kind"]}), SAME[0], device="cpu")


def test_means_over_different_numbers_are_refused() -> None:
    class Net(TwoHeads):
        def forward(self, x: Tensor) -> Any:
            found = super().forward(x)
            return {"kind": found["kind"][:, :, None].expand(-1, -1, 2), "size": found["size"]}

    target = {"kind": torch.tensor([[0, -100]] * 7 + [[1, 2]] * 7), "size": Y["size"]}
    with pytest.raises(UsageError, match=r"means over different numbers of predictions: kind=.*objective"):
        Problem(seeded(Net), (X, target), SAME[0], device="cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cross_entropy", None),
        ("mine.py:loss", None),
        ("a=mse", [Term("a", 1.0, "mse")]),
        (" a = 0.3 * mine.py:loss , b=-2e-3", [Term("a", 0.3, "mine.py:loss"), Term("b", -2e-3, None)]),
    ],
)
def test_a_line_of_text(text: str, expected: Any) -> None:
    assert terms(text) == expected
    if expected:
        assert terms(text_of(expected)) == expected


@pytest.mark.parametrize("text", ["a=", "a=1,", "a=x*mse", "a=nan", "a=1,a=2", "a=mse;b=mse,c"])
def test_lines_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="`loss="):
        terms(text)

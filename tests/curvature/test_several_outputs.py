"""Curvature of networks with several outputs, targets in dictionaries and weighted losses, beside dense matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.autograd.functional as dense
import torch.nn.functional as F
from objective_families import F64, TwoHeads, labels, randn, seeded
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem

X, Y = randn(20, 3), {"kind": labels(20, 3), "size": randn(20, 2, seed=1)}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def loss(output: Any, target: Any) -> Tensor:
    kind = F.cross_entropy(output["kind"], target["kind"], reduction="none")
    return kind + 0.5 * (output["size"] - target["size"]).square().mean(1)


def over_kinds(output: Any, target: Any) -> Tensor:
    """The mean over the predictions that count."""
    return loss(output, target)


over_kinds.weights = lambda target: (target["kind"] > 0).double() * 2  # type: ignore[attr-defined]


def parts(network: nn.Module, loss: Any, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hessian, Gauss-Newton and empirical Fisher, example by example."""
    named = {k: p.detach() for k, p in network.named_parameters()}
    flat = torch.cat([p.reshape(-1) for p in named.values()])

    def at(vector: Tensor, x: Tensor) -> Any:
        cut = vector.split([p.numel() for p in named.values()])
        own = {k: v.view(p.shape) for v, (k, p) in zip(cut, named.items(), strict=True)}
        return torch.func.functional_call(network, own, (x[None],))

    n = len(flat)
    total = [torch.zeros(n, n, dtype=F64) for _ in range(3)]
    for i, x in enumerate(X):
        target = {k: v[i : i + 1] for k, v in Y.items()}

        def whole(vector: Tensor, x: Tensor = x, target: Any = target) -> Tensor:
            return loss(at(vector, x), target)[0]

        def outputs(vector: Tensor, x: Tensor = x) -> Tensor:
            found = at(vector, x)
            return torch.cat([found["kind"][0], found["size"][0]])

        def of_outputs(z: Tensor, target: Any = target) -> Tensor:
            return loss({"kind": z[None, :3], "size": z[None, 3:]}, target)[0]

        jacobian, gradient = dense.jacobian(outputs, flat), dense.jacobian(whole, flat)
        inner = dense.hessian(of_outputs, outputs(flat))
        for place, matrix in enumerate(
            (dense.hessian(whole, flat), jacobian.T @ inner @ jacobian, torch.outer(gradient, gradient))
        ):
            total[place] += weights[i] * matrix / weights.sum()
    return total[0], total[1], total[2]


@pytest.mark.parametrize("by", [loss, over_kinds], ids=["examples", "predictions"])
def test_matrices_of_several_outputs(by: Any) -> None:
    network = seeded(TwoHeads)
    weights = over_kinds.weights(Y) if by is over_kinds else torch.ones(20, dtype=F64)  # type: ignore[attr-defined]
    hessian, ggn, fisher = parts(network, loss, weights)
    problem = Problem(network, (X, Y), by, device="cpu", batch_size=7)
    torch.testing.assert_close(operator_of(problem).dense(), hessian, **CLOSE)
    torch.testing.assert_close(operator_of(problem, "ggn").dense(), ggn, **CLOSE)
    torch.testing.assert_close(operator_of(problem, "empirical-fisher").dense(), fisher, **CLOSE)
    covariance = fisher - torch.outer(problem.gradient(), problem.gradient())
    torch.testing.assert_close(operator_of(problem, "gradient-covariance").dense(), covariance, **CLOSE)


def test_a_penalty_adds_to_hessian_and_gauss_newton() -> None:
    network, eye = seeded(TwoHeads), 0.3 * torch.eye(41, dtype=F64)
    plain, decayed = (Problem(network, (X, Y), loss, device="cpu", weight_decay=d) for d in (0, 0.3))
    for kind in ("hessian", "ggn"):
        torch.testing.assert_close(
            operator_of(decayed, kind).dense(), operator_of(plain, kind).dense() + eye, **CLOSE
        )
    half = Problem(network, (X, Y), loss, device="cpu", weight_decay=0.3, params="body")
    assert half.loss() == pytest.approx(decayed.loss(), rel=1e-12)  # what does not move is penalised all the same
    assert half.to_float64(5).penalty == decayed.penalty


def test_what_needs_one_output_is_refused() -> None:
    problem = Problem(seeded(TwoHeads), (X, Y), loss, device="cpu")
    with pytest.raises(UsageError, match=r"2 outputs.*`unit='example'`"):
        operator_of(problem, "empirical-fisher", unit="prediction").dense()
    with pytest.raises(UsageError, match="is no likelihood known here"):
        operator_of(problem, "fisher")


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layer(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_no_silent_zero_where_a_network_gives_its_loss() -> None:
    y = Y["kind"]
    problem = Problem(seeded(OwnLoss), ({"x": X, "labels": y}, y), lambda o, t: o["loss"], device="cpu")
    with pytest.raises(UsageError, match=r"no row per example.*`operator='hessian'`"):
        operator_of(problem, "ggn").dense()

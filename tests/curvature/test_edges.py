"""Steps of the real optimizers on a quadratic diverge just above their edge and converge just below it."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch

from landscape.curvature.edges import edges_of_stability
from landscape.optim import ERM, SAGM, SAM, USAM, WSAM

ETA, NORM = 0.05, 0.7
METHODS: dict[str, tuple[type[ERM], dict[str, float]]] = {
    "sgd": (ERM, {}),
    "sam": (SAM, {"rho": 0.05}),
    "usam": (USAM, {"rho": 0.05}),
    "sagm": (SAGM, {"rho": 0.05, "alpha": 0.01}),
    "sagm, pulled towards w": (SAGM, {"rho": 0.002, "alpha": 0.005}),
    "wsam": (WSAM, {"rho": 0.05, "gamma": 0.9}),
}


def grows(name: str, curvature: float, beta: float, decay: float) -> bool:
    """Whether x grows under L = curvature·x²/2 + NORM·y, whose gradient has the norm NORM as long as x is tiny."""
    method, options = METHODS[name]
    x = torch.tensor([1e-30, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = method(torch.optim.SGD([x], lr=ETA, momentum=beta, weight_decay=decay), **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = curvature * x[0] ** 2 / 2 + NORM * x[1]
        loss.backward()
        return loss

    for _ in range(3000):
        optimizer.step(closure)
        if not 1e-36 < x[0].abs() < 1e-15:
            break
    return bool(x[0].abs() > 1e-30)


def facts(name: str, **more: Any) -> dict[str, Any]:
    return {"optimizer": name.partition(",")[0], "lr": ETA, **METHODS[name][1], **more}


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", METHODS)
def test_the_edge_of_the_very_optimizer(name: str, beta: float, decay: float):
    found = edges_of_stability(facts(name, momentum=beta, weight_decay=decay), NORM)
    assert not grows(name, 0.98 * found["own"], beta, decay)
    assert grows(name, 1.02 * found["own"], beta, decay)
    assert found["gd"] == 2 / ETA
    assert found.get("momentum") == ((2 + 2 * beta) / ETA if beta else None)


def test_published_numbers():
    """SAM with momentum: a simulation of heavy ball gave 8.2711; USAM: 12.36, where plain descent has 2/eta."""
    own = edges_of_stability({"optimizer": "sam", "lr": 0.1, "momentum": 0.9, "rho": 0.05}, 0.1)["own"]
    assert own == pytest.approx(0.1 / 0.1 * (sqrt(1 + 8 * 0.05 * 1.9 / (0.1 * 0.1)) - 1))
    rho = 0.05
    usam = edges_of_stability({"optimizer": "usam", "lr": 0.1, "rho": rho}, 0.3)["own"]
    assert 0.1 * usam * (1 + rho * usam) == pytest.approx(2)


@pytest.mark.parametrize("name", ["sam", "usam", "sagm", "wsam"])
def test_without_a_radius_it_is_the_base_s(name: str):
    tiny = {"rho": 1e-12, "alpha": 0.0, "gamma": 0.9}
    found = edges_of_stability({"optimizer": name, "lr": ETA, "momentum": 0.9, **tiny}, NORM)
    assert found["own"] == pytest.approx(found["momentum"], rel=1e-6)


def test_the_rate_at_the_checkpoint_counts():
    known = {"optimizer": "sgd", "lr": 0.1, "lr_at_step": 0.01, "momentum": None}
    assert edges_of_stability(known, NORM) == {"gd": 200, "own": 200}


@pytest.mark.parametrize(
    "known",
    [
        *(None, {}, {"optimizer": "adam", "lr": 0.1}, {"optimizer": "adam-2x", "lr": 0.1}),
        {"optimizer": "sam", "base": "adamw", "lr": 1},
    ],
)
def test_no_edge_where_none_is_known(known: dict[str, Any] | None):
    assert edges_of_stability(known, NORM) is None


@pytest.mark.parametrize(
    "more",
    [
        *({"optimizer": k} for k in ("asam", "gsam", "fsam", "looksam", "disam", "vrex", "entropy-sgd", "own")),
        *({"adaptive": True}, {"p": "inf"}, {"m": 16}, {"ascent_steps": 3}, {"order": 2}, {"average": "swa"}),
        *({"weight_decay_in_perturbation": True}, {"optimizer": "sagm"}, {"optimizer": "wsam"}, {"rho": None}),
        {"optimizer": "wsam", "gamma": 1.0},
        {"optimizer": "wsam", "gamma": float("nan")},
        *({"rho": r} for r in (float("inf"), float("nan"), -0.05)),
        {"optimizer": "sagm", "rho": 1e-3, "alpha": 1.0},  # matching pulls too hard: no root
    ],
    ids=str,
)
def test_other_methods_and_settings_have_an_edge_of_their_own_that_is_not_known(more: dict[str, Any]):
    found = edges_of_stability({"optimizer": "sam", "lr": ETA, "rho": 0.05, **more}, NORM)
    assert found == {"gd": 2 / ETA}


def test_twice_the_epochs_is_the_same_method():
    assert edges_of_stability({"optimizer": "sgd-2x", "lr": ETA}, NORM) == {"gd": 2 / ETA, "own": 2 / ETA}

"""Iterates on a quadratic diverge just above the edge and converge just below it."""

from __future__ import annotations

import pytest

from landscape.curvature.edges import edges_of_stability

ETA, NORM = 0.05, 0.7


def multiplier(kind: str, curvature: float, rho: float, alpha: float) -> float:
    """What one step multiplies the error by, along a direction of this curvature."""
    if kind == "sam":
        return 1 - ETA * curvature * (1 + rho * curvature / NORM)
    return 1 - ETA * curvature * (1 + (rho / NORM - alpha) * curvature / 2)


@pytest.mark.parametrize(("kind", "rho", "alpha"), [("sam", 0.05, 0), ("sagm", 0.05, 0.01), ("sagm", 0.01, 0.02)])
def test_sharpness_aware_edges(kind: str, rho: float, alpha: float):
    edge = edges_of_stability({"optimizer": kind, "lr": ETA, "rho": rho, "alpha": alpha}, NORM)[kind]
    assert abs(multiplier(kind, 0.999 * edge, rho, alpha)) < 1 < abs(multiplier(kind, 1.001 * edge, rho, alpha))
    tiny = edges_of_stability({"optimizer": kind, "lr": ETA, "rho": 1e-9, "alpha": 0}, NORM)[kind]
    assert tiny == pytest.approx(2 / ETA, rel=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_heavy_ball(beta: float):
    edges = edges_of_stability({"optimizer": "sgd", "lr": ETA, "momentum": beta}, NORM)
    edge = edges.get("momentum", edges["gd"])
    for factor, grows in ((0.99, False), (1.01, True)):
        w, velocity = 1.0, 0.0
        for _ in range(4000):
            velocity = beta * velocity + factor * edge * w
            w -= ETA * velocity
            if abs(w) > 1e6:
                break
        assert (abs(w) > 1e6) is grows


def test_the_rate_at_the_checkpoint_counts():
    facts = {"optimizer": "sgd", "lr": 0.1, "lr_at_step": 0.01, "momentum": None}
    assert edges_of_stability(facts, NORM) == {"gd": 200}


@pytest.mark.parametrize(
    "facts", [None, {}, {"optimizer": "adam", "lr": 0.1}, {"optimizer": "sam", "base": "adamw", "lr": 1}]
)
def test_no_edge_where_none_is_known(facts: dict | None):
    assert edges_of_stability(facts, NORM) is None


def test_no_sagm_edge_where_matching_pulls_too_hard():
    assert "sagm" not in edges_of_stability({"optimizer": "sagm", "lr": ETA, "rho": 1e-3, "alpha": 1}, NORM)

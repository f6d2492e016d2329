"""The edge of stability: the largest curvature at which an optimizer's steps on a quadratic do not diverge.

With gradient g, step size eta and curvature lambda along one direction, a step multiplies the error by 1 − eta·lambda
for gradient descent (Cohen et al. 2021, arXiv 2103.00065), by 1 − eta·lambda·(1 + rho·lambda/‖g‖) for SAM (Long and
Bartlett 2023, arXiv 2309.12488), and by 1 − eta·lambda·(1 + c·lambda/2), c = rho/‖g‖ − alpha, for SAGM, whose step
is the mean of two gradients. The edge is where the factor is −1.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any


def edges_of_stability(facts: Mapping[str, Any] | None, gradient_norm: float) -> dict[str, float] | None:
    """Edges for what a run says about its optimizer; None where it says too little.

    Args:
        facts: ``lr_at_step`` or ``lr``, ``momentum``, ``base``, ``optimizer``, ``rho`` and ``alpha`` of the run,
            where known.
        gradient_norm: ‖g‖ of the mean loss at the checkpoint; SAM's and SAGM's edges move with it.

    Returns:
        ``gd`` (2/eta), ``momentum`` ((2+2beta)/eta, heavy ball), ``sam`` and ``sagm`` (for the base step without
        momentum), those that apply. Adaptive bases have their edge in another metric: None.
    """
    rate = (facts or {}).get("lr_at_step") or (facts or {}).get("lr")
    if not facts or not rate:
        return None
    optimizer, base = str(facts.get("optimizer")), facts.get("base")
    if {optimizer, base} & {"adam", "adamw"}:
        return None
    eta = float(rate)
    edges = {"gd": 2 / eta}
    if facts.get("momentum"):
        edges["momentum"] = (2 + 2 * float(facts["momentum"])) / eta
    rho = facts.get("rho")
    if rho and gradient_norm > 0:
        if optimizer == "sagm":
            c = float(rho) / gradient_norm - float(facts.get("alpha") or 0)
            if c >= -eta / 4 and c != 0:
                edges["sagm"] = (sqrt(1 + 4 * c / eta) - 1) / c
        else:
            edges["sam"] = gradient_norm / (2 * float(rho)) * (sqrt(1 + 8 * float(rho) / (eta * gradient_norm)) - 1)
    return edges

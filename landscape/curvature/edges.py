"""The edge of stability: the largest curvature at which an optimizer's steps on a quadratic do not diverge.

Along one eigenvector of the Hessian, of curvature lambda, let x be the distance from the minimum. A method that
steps along a multiple of the gradient, lambda·m(lambda)·x instead of lambda·x, is gradient descent on a quadratic of
curvature lambda·m(lambda). With momentum beta (torch's, no dampening: v ← beta·v + g, x ← x − eta·v) and weight decay
wd, x obeys x₊ = (1 + beta − eta·(lambda·m + wd))·x − beta·x₋, whose roots lie within the unit circle as long as

    lambda·m(lambda) + wd  <  E = (2 + 2·beta) / eta                                        (the base's own edge)

(Cohen et al. 2021, arXiv 2103.00065, section 2 for beta = 0). With ‖g‖ the norm of the whole gradient:

- plain SGD: m = 1;
- SAM: the gradient at w + rho·g/‖g‖ is lambda·x·(1 + rho·lambda/‖g‖), so lambda + (rho/‖g‖)·lambda² = E (Long and
  Bartlett 2023, arXiv 2309.12488, for beta = 0): lambda = ‖g‖/(2·rho)·(√(1 + 8·rho·(1 + beta)/(eta·‖g‖)) − 1);
- USAM climbs rho·g, not normalised: lambda + rho·lambda² = E;
- SAGM is the mean of the gradients at w and at w + c·g with c = rho/‖g‖ − alpha: lambda + (c/2)·lambda² = E, and no
  edge where c pulls so hard towards w that the equation has no root;
- WSAM, a = gamma/(1 − gamma), steps along (a·rho/‖g‖)·lambda²·x beside the base step and past its momentum:
  x₊ = (1 − eta·s + beta − eta·lambda)·x − beta·(1 − eta·s)·x₋ with s = (a·rho/‖g‖)·lambda², whose root −1 is at
  lambda + (1 + beta)·(a·rho/‖g‖)·lambda² = E.

All hold for full batches and one step at a time: ‖g‖ moves, and with it SAM's edge. ASAM's and F-SAM's steps are not
along an eigenvector; GSAM's, DISAM's, LookSAM's and V-REx's depend on more than lambda and ‖g‖; second order, several
ascent steps, other balls than p = 2, micro-batches and a decay inside the climb change SAM's. They have no edge here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite, sqrt
from typing import Any

_Facts = Mapping[str, Any]


def edges_of_stability(facts: _Facts | None, gradient_norm: float) -> dict[str, float] | None:
    """Edges for what a run says about its optimizer; None where it says too little.

    Args:
        facts: ``optimizer``, ``base``, ``lr_at_step`` or ``lr``, ``momentum``, ``weight_decay`` and the settings of
            the method (``rho``, ``alpha``, ``gamma``, ...), where known.
        gradient_norm: ‖g‖ of the mean loss at the checkpoint; SAM's, SAGM's and WSAM's edges move with it.

    Returns:
        ``gd`` (2/eta) and with momentum ``momentum`` ((2 + 2·beta)/eta), both without weight decay; and ``own``: the
        edge of this very optimizer, as derived above, where it is known. Adaptive bases have theirs in another
        metric: None.
    """
    rate = (facts or {}).get("lr_at_step") or (facts or {}).get("lr")
    if not facts or not rate:
        return None
    method = str(facts.get("optimizer")).removesuffix("-2x")
    if {method, facts.get("base")} & {"adam", "adamw"}:
        return None
    eta, beta = float(rate), float(facts.get("momentum") or 0)
    edges = {"gd": 2 / eta}
    if beta:
        edges["momentum"] = (2 + 2 * beta) / eta
    own = _own(method, facts, (2 + 2 * beta) / eta - float(facts.get("weight_decay") or 0), gradient_norm)
    return edges if own is None else {**edges, "own": own}


def _own(method: str, facts: _Facts, base: float, norm: float) -> float | None:
    """The root lambda of lambda·m(lambda) = ``base`` for a method, or None."""
    if method not in _BENDS or facts.get("average") not in (None, "none"):
        return None  # an average of weights was never where a step was made
    if method != "sgd" and not ((facts.get("rho") or 0) > 0 and norm > 0 and _plain(facts)):
        return None
    bend = _BENDS[method](facts, norm)
    if bend is None or base <= 0:
        return None
    inside = 1 + 4 * bend * base
    if inside < 0:
        return None
    edge = 2 * base / (1 + sqrt(inside))  # the smaller root, also where the bend is next to nothing
    return edge if isfinite(edge) and edge > 0 else None


def _plain(facts: _Facts) -> bool:
    """Whether the climb is one step along the gradient of the whole batch, of length rho in the 2-norm."""
    return (
        not facts.get("adaptive")
        and facts.get("p") in (None, "2", 2, 2.0)
        and facts.get("ascent_steps") in (None, 1)
        and facts.get("order") in (None, 1)
        and not facts.get("m")
        and not facts.get("weight_decay_in_perturbation")
    )


def _sagm(facts: _Facts, norm: float) -> float | None:
    alpha = facts.get("alpha")
    return None if alpha is None else (float(facts["rho"]) / norm - float(alpha)) / 2


def _wsam(facts: _Facts, norm: float) -> float | None:
    gamma = facts.get("gamma")
    if gamma is None or not 0 <= gamma < 1:
        return None
    a = float(gamma) / (1 - float(gamma))
    return (1 + float(facts.get("momentum") or 0)) * a * float(facts["rho"]) / norm


# Of lambda + bend·lambda² = base.
_BENDS: Mapping[str, Callable[[_Facts, float], float | None]] = {
    "sgd": lambda _facts, _norm: 0.0,
    "sam": lambda facts, norm: float(facts["rho"]) / norm,
    "usam": lambda facts, _norm: float(facts["rho"]),
    "sagm": _sagm,
    "wsam": _wsam,
}

"""The granulated Kendall coefficient: one hyper-parameter at a time (Jiang et al. 2020, arXiv 1912.02178, Eq. 5).

A global tau can come from a common cause, a learning rate that moves measure and gap together. Among models that
differ in one hyper-parameter only, it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..factors import Factors, groups, nested, varying
from .ranks import kendall


@dataclass(frozen=True)
class Granule:
    """The coefficient of one hyper-parameter.

    Attributes:
        factor: Its name.
        inner: Hyper-parameters that vary with it, since they exist under some of its values only.
        psi: Mean over groups of tau among models that differ in this hyper-parameter only; None without groups.
        stderr: Standard error of that mean over groups (ddof 1).
        groups: How many groups.
        positive: How many of them have tau > 0.
    """

    factor: str
    inner: tuple[str, ...]
    psi: float | None
    stderr: float | None
    groups: int
    positive: int


def granulated(measure: object, gap: object, factors: Factors) -> tuple[list[Granule], float | None]:
    """The psi of every hyper-parameter that varies, and their mean Psi.

    Args:
        measure: A value per model.
        gap: A value per model.
        factors: The hyper-parameters and the seed; a group shares all others.

    Returns:
        A granule per factor, and the mean of the psi of those that have one (``seed`` is shown, not counted).
    """
    measure, gap = np.asarray(measure, dtype=float), np.asarray(gap, dtype=float)
    factors = varying(factors)
    inner = nested(factors)
    found = []
    for name in factors:
        taus = [kendall(measure[g], gap[g]) for g in groups(factors, name).values()]
        known = [t for t in taus if t is not None]
        spread = float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
        found.append(
            Granule(
                name,
                tuple(sorted(inner[name])),
                float(np.mean(known)) if known else None,
                spread,
                len(known),
                sum(t > 0 for t in known),
            )
        )
    counted = [g.psi for g in found if g.psi is not None and g.factor != "seed"]
    return found, float(np.mean(counted)) if counted else None

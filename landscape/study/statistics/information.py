"""Conditional mutual information between a measure and the gap (Jiang et al. 2020, arXiv 1912.02178, section 3.2).

Over ordered pairs of models, V_mu = sgn(mu_1 - mu_2) and V_g = sgn(g_1 - g_2), given the values that both models have
of some hyper-parameters S. The smallest over S says whether any two hyper-parameters explain the relation away.
An estimate from few pairs is too large, by chance alone; so permuted gaps stand beside it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..factors import Factors, varying
from .ranks import pair_signs


class Conditioned:
    """Pairs of models sorted into cells by the hyper-parameters of both, for every set S of at most two.

    Args:
        factors: A value per model of each hyper-parameter.
        n: How many models.
        most: Largest size of S.
    """

    def __init__(self, factors: Factors, n: int, most: int = 2) -> None:
        names = list(varying(factors))
        codes = {k: np.unique([str(v) for v in factors[k]], return_inverse=True)[1] for k in names}
        self._pairs = ~np.eye(n, dtype=bool)
        self.sets: list[tuple[str, ...]] = [s for size in range(most + 1) for s in combinations(names, size)]
        self._cells: list[NDArray[np.int64]] = []
        for chosen in self.sets:
            one = np.zeros(n, dtype=np.int64)
            for name in chosen:
                one = one * (int(codes[name].max()) + 1) + codes[name]
            both = one[:, None] * (int(one.max()) + 1) + one[None, :]
            self._cells.append(np.unique(both[self._pairs], return_inverse=True)[1])

    def information(self, measure: object, gap: object) -> list[float | None]:
        """I(V_mu; V_g | U_S) / H(V_g | U_S) for every S of `sets`; None where the gap has no entropy left."""
        mu = (pair_signs(measure)[self._pairs] + 1).astype(np.int64)
        g = (pair_signs(gap)[self._pairs] + 1).astype(np.int64)
        return [_normalised(cell, mu, g) for cell in self._cells]

    def smallest(self, measure: object, gap: object) -> tuple[float | None, tuple[str, ...]]:
        """K(mu), the smallest over S, and that S."""
        found = [(v, s) for v, s in zip(self.information(measure, gap), self.sets, strict=True) if v is not None]
        return min(found, key=lambda pair: pair[0]) if found else (None, ())


def _normalised(cell: NDArray[np.int64], mu: NDArray[np.int64], g: NDArray[np.int64]) -> float | None:
    counts = np.bincount(cell * 9 + mu * 3 + g, minlength=(int(cell.max()) + 1) * 9 if len(cell) else 9)
    table = counts.reshape(-1, 3, 3) / max(len(cell), 1)
    whole = table.sum((1, 2))
    given_g = _entropy(table.sum(1)) - _entropy(whole)
    if given_g < 1e-12:
        return None
    given_mu = _entropy(table.sum(2)) - _entropy(whole)
    given_both = _entropy(table) - _entropy(whole)
    return max(0.0, given_mu + given_g - given_both) / given_g


def _entropy(shares: Any) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())

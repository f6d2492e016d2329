from __future__ import annotations

import math
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest

from landscape.study.statistics.information import Conditioned


def by_enumeration(measure, gap, given) -> float | None:
    """I(V_mu; V_g | U) / H(V_g | U) from the definition, over ordered pairs."""
    rows = [
        (tuple((u[i], u[j]) for u in given), np.sign(measure[i] - measure[j]), np.sign(gap[i] - gap[j]))
        for i, j in permutations(range(len(gap)), 2)
    ]
    total = len(rows)
    triple, cell = Counter(rows), Counter(r[0] for r in rows)
    with_mu, with_g = Counter((r[0], r[1]) for r in rows), Counter((r[0], r[2]) for r in rows)
    shared = sum(
        c / total * math.log(c * cell[u] / (with_mu[u, m] * with_g[u, v])) for (u, m, v), c in triple.items()
    )
    entropy = -sum(c / total * math.log(c / cell[u]) for (u, v), c in with_g.items())
    return shared / entropy if entropy > 1e-12 else None


def test_information_is_that_of_the_definition():
    g = np.random.default_rng(0)
    rows = list(product([1, 2, 3], ["a", "b"], [0, 1]))
    factors = {"lr": [r[0] for r in rows], "batch": [r[1] for r in rows]}
    measure, gap = g.integers(0, 5, len(rows)).astype(float), g.normal(size=len(rows))
    conditioned = Conditioned(factors, len(rows))
    assert conditioned.sets == [(), ("lr",), ("batch",), ("lr", "batch")]
    found = conditioned.information(measure, gap)
    for names, value in zip(conditioned.sets, found, strict=True):
        assert value == pytest.approx(by_enumeration(measure, gap, [factors[n] for n in names]), abs=1e-12)
    smallest, where = conditioned.smallest(measure, gap)
    assert smallest == min(v for v in found if v is not None)
    assert found[conditioned.sets.index(where)] == smallest


def test_the_gap_itself_says_everything_and_what_a_hyper_parameter_explains_says_nothing():
    lr = np.repeat([1.0, 2.0, 3.0], 6)
    gap = lr + np.tile(np.linspace(0, 0.5, 6), 3)
    conditioned = Conditioned({"lr": lr.tolist()}, 18)
    assert conditioned.information(gap, gap) == pytest.approx([1.0, 1.0])
    by_cause = conditioned.information(lr, gap)
    assert by_cause[0] > 0.3
    assert by_cause[1] == pytest.approx(0, abs=1e-12)
    assert conditioned.smallest(lr, gap) == (pytest.approx(0, abs=1e-12), ("lr",))


def test_where_nothing_is_left_to_know_there_is_no_value():
    conditioned = Conditioned({}, 3)
    assert conditioned.information([1, 2, 3], [5, 5, 5]) == [None]
    assert conditioned.smallest([1, 2, 3], [5, 5, 5]) == (None, ())

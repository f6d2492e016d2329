from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from landscape.study.factors import groups, nested, varying
from landscape.study.statistics.granulated import granulated
from landscape.study.statistics.ranks import kendall


def simpson() -> tuple[np.ndarray, np.ndarray, dict[str, list]]:
    """Four learning rates, eight seeds: the learning rate moves both; within one, the relation is reversed."""
    g = np.random.default_rng(0)
    lr = np.repeat([1.0, 2.0, 3.0, 4.0], 8)
    measure = lr + g.normal(0, 0.2, 32)
    gap = lr - 3 * (measure - lr) + g.normal(0, 0.05, 32)
    return measure, gap, {"lr": lr.tolist(), "seed": list(range(8)) * 4}


def test_simpsons_paradox_is_exposed():
    measure, gap, factors = simpson()
    found, psi = granulated(measure, gap, factors)
    by = {g.factor: g for g in found}
    assert kendall(measure, gap) == pytest.approx(0.54, abs=0.1)
    assert by["seed"].psi == pytest.approx(-0.98, abs=0.05)
    assert by["seed"].groups == 4
    assert by["seed"].positive == 0
    assert by["lr"].psi > 0.4
    assert psi == by["lr"].psi  # the seed is shown, not counted


def test_granulated_is_the_mean_of_taus_within_groups():
    g = np.random.default_rng(1)
    rows = list(product([0.1, 0.2, 0.4], [16, 64], [0, 1]))
    measure, gap = g.normal(size=len(rows)), g.normal(size=len(rows))
    factors = {"lr": [r[0] for r in rows], "batch_size": [r[1] for r in rows], "seed": [r[2] for r in rows]}
    found, psi = granulated(measure, gap, factors)
    by_hand = []
    for batch, seed in product([16, 64], [0, 1]):
        chosen = [i for i, r in enumerate(rows) if r[1:] == (batch, seed)]
        by_hand.append(stats.kendalltau(measure[chosen], gap[chosen]).statistic)
    lr = found[0]
    assert (lr.factor, lr.groups) == ("lr", 4)
    assert lr.psi == pytest.approx(np.mean(by_hand))
    assert lr.stderr == pytest.approx(np.std(by_hand, ddof=1) / 2)
    assert psi == pytest.approx((lr.psi + found[1].psi) / 2)


def test_a_radius_is_nested_in_its_optimizer():
    factors = {"optimizer": ["sgd", "sam", "sam"], "rho": [None, 0.05, 0.1], "lr": [0.1, 0.1, 0.1]}
    assert nested(factors) == {"optimizer": {"rho"}, "rho": set(), "lr": set()}
    assert groups(factors, "optimizer") == {(0.1,): [0, 1, 2]}
    assert groups(factors, "rho") == {("sam", 0.1): [1, 2]}
    assert list(varying(factors)) == ["optimizer", "rho"]


def test_a_factor_without_groups_has_no_coefficient():
    found, psi = granulated([1, 2, 3], [1, 2, 3], {"lr": [1, 2, 3], "batch_size": [4, 5, 6]})
    assert [(g.psi, g.groups) for g in found] == [(None, 0), (None, 0)]
    assert psi is None

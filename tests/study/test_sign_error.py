from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from landscape.study.statistics.sign_error import detectable_gap, environments, hoeffding_weight, summary


@pytest.mark.parametrize(("n", "points"), [(1000, 6.2), (2000, 4.4), (10000, 2.0)])
def test_the_detectable_gap_is_where_the_weight_passes_one_half(n: int, points: float):
    assert 100 * detectable_gap(n) == pytest.approx(points, abs=0.05)
    assert hoeffding_weight(detectable_gap(n), n) == pytest.approx(0.5)


def test_the_weight_is_that_of_the_definition():
    assert hoeffding_weight(0.1, 10_000) == pytest.approx(max(0, 1 - 2 * math.exp(-2 * 10_000 * 0.05**2)) ** 2)
    assert hoeffding_weight(0.0, 10_000) == 0


def study(seeds: int):
    rows = list(product([0.1, 0.2], [16, 64], range(seeds)))
    factors = {"lr": [r[0] for r in rows], "batch_size": [r[1] for r in rows]}
    g = np.random.default_rng(0)
    gap = np.array([0.1 + (0.2 if lr == 0.2 else 0) + 0.005 * g.normal() for lr, _, _ in rows])
    return factors, gap, rows


def test_environments_by_direct_enumeration():
    factors, gap, rows = study(4)
    g = np.random.default_rng(1)
    measure = g.normal(size=len(rows))
    n = 10_000
    kept, there = environments(measure, gap, factors, n)
    assert there == 4  # two that differ in lr, two that differ in batch size
    assert {e.factor for e in kept} == {"lr"}  # differences between batch sizes drown in the test set's noise
    for e in kept:
        (batch,) = e.rest.values()
        one = [i for i, r in enumerate(rows) if r[:2] == (0.1, batch)]
        other = [i for i, r in enumerate(rows) if r[:2] == (0.2, batch)]
        weights, errors = [], []
        for i, j in product(one, other):
            weight = max(0, 1 - 2 * math.exp(-2 * n * ((gap[i] - gap[j]) / 2) ** 2)) ** 2
            weights.append(max(weight - 0.5, 0))
            errors.append((1 - np.sign(measure[i] - measure[j]) * np.sign(gap[i] - gap[j])) / 2)
        assert e.loss == pytest.approx(np.average(errors, weights=weights))
        assert e.effective_pairs == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    told = summary(kept)
    assert told["max"] == max(e.loss for e in kept)
    assert told["worst"]["factor"] == "lr"


def test_a_measure_that_is_the_gap_never_errs_and_its_negative_always():
    factors, gap, _ = study(4)
    assert summary(environments(gap, gap, factors, 10_000)[0])["max"] == 0
    assert summary(environments(-gap, gap, factors, 10_000)[0])["mean"] == 1


def test_three_seeds_leave_no_environment():
    """3 x 3 pairs have at most 9 effective ones."""
    factors, gap, _ = study(3)
    kept, there = environments(gap, gap, factors, 10_000)
    assert (kept, there) == ([], 4)
    assert summary(kept) == {"max": None, "percentile_90": None, "mean": None, "worst": None}


def test_a_small_test_set_leaves_none_either():
    factors, gap, _ = study(4)
    assert environments(gap, gap, factors, 50)[0] == []


def test_methods_that_differ_in_their_own_settings_are_one_environment():
    factors = {"optimizer": ["sgd"] * 4 + ["sam"] * 8, "rho": [None] * 4 + [0.05] * 4 + [0.1] * 4}
    gap = np.array([0.1] * 4 + [0.5] * 4 + [0.9] * 4) + 0.001 * np.arange(12)
    kept, there = environments(gap, gap, factors, 10_000)
    assert there == 3
    assert sorted((e.factor, e.values) for e in kept) == [
        ("optimizer", ("sgd", "sam")),
        ("optimizer", ("sgd", "sam")),
        ("rho", (0.05, 0.1)),
    ]

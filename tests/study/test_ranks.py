from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from landscape.study.statistics.design import design_of
from landscape.study.statistics.ranks import (
    interval,
    kendall,
    null_band,
    pair_signs,
    partial_kendall,
    partial_rank,
    taus,
)


@pytest.mark.parametrize("seed", range(8))
def test_kendall_is_scipys_tau_b(seed: int):
    g = np.random.default_rng(seed)
    x, y = g.integers(0, 6, 25).astype(float), g.integers(0, 4, 25).astype(float)  # with many ties in both
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert kendall(x, x) == pytest.approx(1)
    assert kendall(x, -x) == pytest.approx(-1)


def test_kendall_of_what_does_not_vary_is_nothing():
    assert kendall([1, 1, 1], [1, 2, 3]) is None
    assert kendall([1], [1]) is None


def test_a_weighted_tau_is_the_tau_of_the_resample():
    g = np.random.default_rng(3)
    x, y = g.normal(size=12), g.normal(size=12).round(1)
    counts = g.multinomial(12, np.full(12, 1 / 12), size=5).astype(float)
    found = taus(pair_signs(x), pair_signs(y), counts)
    for row, tau in zip(counts, found, strict=True):
        drawn = np.repeat(np.arange(12), row.astype(int))
        assert tau == pytest.approx(stats.kendalltau(x[drawn], y[drawn]).statistic, abs=1e-12)


@pytest.mark.parametrize(("n", "band"), [(5, 0.80), (10, 0.49), (20, 0.32), (50, 0.19), (100, 0.13)])
def test_the_null_band_is_the_published_one(n: int, band: float):
    assert null_band(n) == pytest.approx(band, abs=0.006)


def test_the_null_band_holds_95_percent_of_independent_rankings():
    g = np.random.default_rng(0)
    n = 20
    draws = [kendall(g.permutation(n), np.arange(n)) for _ in range(1500)]
    assert np.mean(np.abs(draws) <= null_band(n)) == pytest.approx(0.95, abs=0.015)


def test_the_interval_is_scipys_bca():
    g = np.random.default_rng(5)
    x = g.normal(size=30)
    y = x + g.normal(size=30)
    counts, left_out = design_of({}, range(30)).resamples(4000, 0)
    signs = pair_signs(x), pair_signs(y)
    mine = interval(kendall(x, y), taus(*signs, counts), taus(*signs, left_out))
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.kendalltau(a, b).statistic, paired=True, vectorized=False, n_resamples=4000,
        method="BCa", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert mine.method == "bca"
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_partial_kendall_removes_a_common_cause():
    assert partial_kendall(0.5, 0.5, 0.5) == pytest.approx((0.5 - 0.25) / 0.75)
    assert partial_kendall(0.36, 0.6, 0.6) == pytest.approx(0)
    assert partial_kendall(1.0, 1.0, 1.0) is None


def test_partial_rank_is_the_correlation_of_residuals():
    g = np.random.default_rng(2)
    n = 40
    lr, batch = g.normal(size=n), g.integers(0, 3, n).astype(float)
    x = lr + g.normal(size=n)
    y = lr - batch + g.normal(size=n)
    counts = np.vstack([np.ones(n), g.multinomial(n, np.full(n, 1 / n))]).astype(float)
    found = partial_rank(x, y, [lr, batch, np.ones(n)], counts)
    ranks = [stats.rankdata(v) for v in (x, y, lr, batch)]
    for row, value in zip(counts, found, strict=True):
        drawn = np.repeat(np.arange(n), row.astype(int))
        a, b, *held = (r[drawn] for r in ranks)
        design = np.column_stack([np.ones(len(drawn)), *held])
        residuals = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (a, b)]
        assert value == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-9)


def test_partial_rank_of_what_the_controls_determine_is_nothing():
    lr = np.arange(10.0)
    assert math.isnan(partial_rank(2 * lr, np.random.default_rng(0).normal(size=10), [lr], np.ones((1, 10)))[0])
    plain = partial_rank(lr, lr**3, [], np.ones((1, 10)))[0]
    assert plain == pytest.approx(1)

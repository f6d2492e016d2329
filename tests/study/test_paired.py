from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from landscape.study.repeatability import icc
from landscape.study.statistics.paired import crossed_effect, effect, holm, independent, sign_flip_p, size_interval


@pytest.mark.parametrize("n", [3, 5, 6, 9])
def test_sign_flips_are_enumerated(n: int):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    sums = [abs(np.dot(s, d)) for s in product([-1, 1], repeat=n)]
    assert sign_flip_p(d) == np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert sign_flip_p(np.arange(1.0, n + 1)) == 2.0 ** (1 - n)  # all of one sign: the smallest there is


def test_sign_flips_agree_with_scipys_permutation_test():
    d = np.random.default_rng(0).normal(0.4, 1, 12)
    theirs = stats.permutation_test(
        (d, np.zeros(12)), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert sign_flip_p(d) == pytest.approx(theirs, rel=1e-12)


def test_many_pairs_are_sampled_and_near_the_t_test():
    d = np.random.default_rng(1).normal(0.3, 1, 60)
    assert sign_flip_p(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.005)


def test_exact_up_to_twenty_pairs():
    assert sign_flip_p(np.ones(20)) == 2.0**-19


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.001], [1.0, 1.0], []])
def test_holm_is_the_step_down_of_the_definition(p: list[float]):
    order = sorted(range(len(p)), key=lambda i: p[i])
    expected = [0.0] * len(p)
    for rank, i in enumerate(order):
        expected[i] = max(min(1.0, (len(p) - j) * p[order[j]]) for j in range(rank + 1))
    assert holm(p) == pytest.approx(expected)


def test_an_effect_has_students_interval_and_a_size():
    d = np.random.default_rng(2).normal(0.5, 1, 15)
    found = effect(d)
    low, high = stats.t.interval(0.95, 14, d.mean(), stats.sem(d))
    assert (found.mean, found.low, found.high) == pytest.approx((d.mean(), low, high))
    assert found.size == pytest.approx(d.mean() / d.std(ddof=1))
    t = found.size * np.sqrt(15)
    assert stats.nct.cdf(t, 14, found.size_low * np.sqrt(15)) == pytest.approx(0.975, abs=1e-6)
    assert stats.nct.cdf(t, 14, found.size_high * np.sqrt(15)) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("size", [-6.0, 0.0, 12.0])
def test_sizes_far_from_zero_have_intervals(size: float):
    low, high = size_interval(size, 8)
    assert low < size < high


def test_one_pair_and_no_spread_have_no_size():
    assert (effect([0.2]).low, effect([0.2]).size) == (None, None)
    assert (effect([0.0, 0.0]).size, effect([0.0, 0.0]).p) == (None, 1.0)


def test_icc_is_that_of_the_anova():
    g = np.random.default_rng(0)
    models, k = 9, 4
    values = g.normal(size=(models, 1)) + 0.5 * g.normal(size=(models, k))
    anova = stats.f_oneway(*values)
    between_over_within = anova.statistic
    assert icc(values) == pytest.approx((between_over_within - 1) / (between_over_within + k - 1))


def test_icc_of_unequal_groups_is_the_share_that_was_planted():
    draw = np.random.default_rng(3)
    groups = [
        m + draw.normal(size=k) for m, k in zip(2 * draw.normal(size=400), draw.integers(1, 6, 400), strict=True)
    ]
    assert icc(groups) == pytest.approx(4 / 5, abs=0.04)
    even = draw.normal(size=(5, 3))
    assert icc([*even]) == pytest.approx(icc(even))


def test_icc_of_pure_noise_and_of_exact_repetitions():
    g = np.random.default_rng(0)
    assert icc(np.repeat(g.normal(size=(5, 1)), 3, axis=1)) == 1
    assert abs(icc(g.normal(size=(300, 3)))) < 0.15
    assert icc(np.ones((4, 3))) is None
    assert icc(np.ones((4, 1))) is None


# Nothing is there on average, but effects vary: over settings, over seeds that settings share, over both.
PLANTED = {
    "domains": (6, 3, 1.0, 0.0, 0.0),
    "two settings": (2, 6, 1.0, 0.0, 0.0),
    "shared seeds": (8, 6, 0.0, 1.0, 0.0),
    "both": (8, 8, 1.0, 1.0, 0.0),
    "domains, a fifth missing": (8, 3, 1.0, 0.0, 0.2),
    "noise alone": (6, 3, 0.0, 0.0, 0.0),
}


def study(g: np.random.Generator, planted: tuple[int, int, float, float, float], mean: float = 0.0):
    """Differences of one study, with their settings and seeds."""
    settings, seeds, over_settings, over_seeds, missing = planted
    d = mean + over_settings * g.normal(size=(settings, 1)) + over_seeds * g.normal(size=(1, seeds))
    d = d + g.normal(size=(settings, seeds))
    there = np.argwhere(g.random(d.shape) >= missing)
    return [d[i, j] for i, j in there], [i for i, _ in there], [j for _, j in there]


def rates(name: str, repetitions: int) -> tuple[float, float, float]:
    """How often p <= 0.05 and the interval excludes 0 where nothing is there; and p of single pairs."""
    g = np.random.default_rng(7)
    p = excluded = pooled = 0
    for _ in range(repetitions):
        differences, settings, seeds = study(g, PLANTED[name])
        found = crossed_effect(differences, settings, seeds)
        p += found.p <= 0.05
        excluded += not found.low <= 0 <= found.high
        pooled += effect(differences).p <= 0.05
    return p / repetitions, excluded / repetitions, pooled / repetitions


@pytest.mark.parametrize("name", PLANTED)
def test_nothing_is_found_where_nothing_is(name: str):
    """At most 5 % of studies, within what 60 can show (7 with probability 0.99); single pairs find 16 to 33."""
    p, excluded, pooled = rates(name, 60)
    assert p <= 7 / 60
    assert excluded <= 7 / 60
    assert pooled >= (0 if name == "noise alone" else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_nothing_is_found_where_nothing_is_in_two_hundred_studies(name: str):
    p, excluded, _ = rates(name, 200)
    assert p <= 0.085  # 17 of 200, with probability 0.99
    assert excluded <= 0.085


def test_what_is_there_is_found():
    g = np.random.default_rng(1)
    found = [crossed_effect(*study(g, PLANTED["both"], mean=2.0)) for _ in range(40)]
    assert np.mean([f.p <= 0.05 for f in found]) >= 0.9
    assert np.mean([f.low <= 2 <= f.high for f in found]) >= 0.88


def test_pairs_of_one_setting_or_one_seed_are_independent():
    d = np.random.default_rng(2).normal(0.4, 1, 9)
    assert crossed_effect(d, ["a"] * 9, range(9)) == effect(d)
    assert crossed_effect(d, range(9), [0] * 9) == effect(d)
    assert independent(["a"] * 9, range(9)) == (9, "pair")
    assert independent([0, 0, 1, 1], [0, 1, 0, 1]) == (2, "setting")
    assert independent([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]) == (2, "seed")


def test_the_more_careful_of_settings_and_seeds_counts():
    g = np.random.default_rng(3)
    d, settings, seeds = study(g, (8, 6, 2.0, 0.0, 0.0), mean=1.0)
    by_setting = effect([np.mean([v for v, s in zip(d, settings, strict=True) if s == k]) for k in range(8)])
    found = crossed_effect(d, settings, seeds)
    assert (found.by, found.n) == ("setting", 8)
    assert (found.p, found.mean) == pytest.approx((by_setting.p, by_setting.mean))
    assert found.low <= by_setting.low
    assert found.high >= by_setting.high

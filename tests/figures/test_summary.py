from __future__ import annotations

import itertools

import numpy as np
import pytest

from figures import made
from landscape.figures.comparison import sign_flip_p
from landscape.figures.summary import comparison, summarize, summary_csv, summary_latex, verdict
from landscape.results.result import Result


def told(results: list[Result]) -> str:
    return "\n".join(comparison(summarize(results), results))


def pairs(ours: list[float], theirs: list[float]) -> list[Result]:
    """One training result per seed and method, with these unseen-domain accuracies."""
    both = [*((k, "sam") for k in enumerate(ours)), *((k, "sgd") for k in enumerate(theirs))]
    return [made.training(label, seed, unseen=value) for (seed, value), label in both]


def test_means_and_deviations_are_those_of_numpy() -> None:
    tops, sharp, unseen = [2.0, 3.0, 7.0], [0.1, 0.2, 0.4], [0.5, 0.6, 0.65]
    results = [made.hessian("sam", s, v, 10.0 ** -(5 - s)) for s, v in enumerate(tops)]
    results += [made.sharpness("sam", s, v, (0.05, 0.1)) for s, v in enumerate(sharp)]
    results += [made.training("sam", s, unseen=v) for s, v in enumerate(unseen)]
    results += [made.domains("sam", s, variance=v) for s, v in enumerate([1e-3, 2e-3, 4e-3])]
    (row,) = summarize(results)
    assert (row["label"], row["name"], row["n_seeds"]) == ("sam", "SAM", 3)
    for field, values in {"lambda_max": tops, "m_sharpness": sharp, "unseen_accuracy": unseen}.items():
        assert row[f"{field}_mean"] == pytest.approx(np.mean(values))
        assert row[f"{field}_std"] == pytest.approx(np.std(values, ddof=1))
        assert row[f"{field}_n"] == 3
    assert row["lambda_max_residual"] == pytest.approx(1e-3)
    assert (row["m_sharpness_m"], row["m_sharpness_rho"]) == (1, 0.05)
    assert row["domain_loss_variance_mean"] == pytest.approx(7e-3 / 3)
    assert row["test_accuracy_std"] == 0.0


def test_what_was_not_measured_is_none_and_one_seed_has_no_deviation() -> None:
    (row,) = summarize([made.hessian("sgd", 0)])
    assert row["lambda_max_mean"] == 2.0
    assert row["lambda_max_std"] is None
    assert row["unseen_accuracy_mean"] is None
    assert row["m_sharpness_m"] is None
    (broken,) = summarize([made.hessian("sgd", 0), made.hessian("sgd", 1, np.nan)])
    assert broken["lambda_max_mean"] is None


def test_a_run_counts_once() -> None:
    (row,) = summarize([made.hessian("sgd", 0, 9.0, n_examples=8), made.hessian("sgd", 0, 2.0)])
    assert (row["lambda_max_mean"], row["lambda_max_n"]) == (2.0, 1)


def test_domain_variance_falls_back_on_training_and_ignores_other_splits() -> None:
    other = made.domains("sgd", 0, variance=5.0)
    other.record["split"] = "test"
    (row,) = summarize([other, made.training("sgd", 0)])
    assert row["domain_loss_variance_mean"] == 2e-3


def test_a_lower_eigenvalue_is_told_with_the_number_of_seeds() -> None:
    results = [made.hessian("sgd", s, 4.0) for s in range(3)] + [made.hessian("sam", s, 1.8) for s in range(3)]
    text = told(results)
    assert "SAM's λ_max is 0.45 times SGD's (3 of 3 seeds lower)." in text
    assert "no significance can be claimed" in text
    assert "2^(1-3) = 0.25" in text


def test_seeds_that_disagree_are_told() -> None:
    results = [made.hessian("sgd", s, 4.0) for s in range(2)] + [
        made.hessian("sam", s, 1.0 + 6 * s) for s in range(2)
    ]
    assert "(1 of 2 seeds lower); the seeds disagree: cannot tell which is lower." in told(results)


def test_differences_no_larger_than_the_residual_are_told() -> None:
    results = [made.hessian("sgd", 0, 4.0, 0.05), made.hessian("sam", 0, 3.9, 0.05)]
    assert "no larger than the eigenvalues' residuals" in told(results)


def test_accuracy_within_and_beyond_the_spread() -> None:
    text = told(pairs([0.52, 0.50, 0.57], [0.50, 0.53, 0.50]))
    expected = np.array([2.0, -3.0, 7.0])
    assert f"by {expected.mean():+.1f} ± {expected.std(ddof=1):.1f} percentage points (2 of 3 seeds higher)" in text
    assert "within the spread over seeds: cannot tell" in text
    assert "± is the standard deviation (ddof = 1) of the paired differences" in text
    assert "larger than the spread over seeds" in told(pairs([0.60, 0.61], [0.50, 0.50]))


def test_one_seed_cannot_tell() -> None:
    assert "in the one shared seed: there is no spread, cannot tell." in told(pairs([0.6], [0.5]))


def test_what_does_not_compare_is_not_compared() -> None:
    elsewhere = [made.hessian("sgd", 0), made.hessian("sam", 0, data_hash="other")]
    assert "cannot tell, they were measured on different examples or by different definitions" in told(elsewhere)
    assert "cannot tell, they share no training seed" in told([made.hessian("sgd", 0), made.hessian("sam", 1)])
    assert "cannot tell, a value is not finite" in told([made.hessian("sgd", 0), made.hessian("sam", 0, np.inf)])
    assert "no ERM baseline" in told([made.hessian("sam", 0), made.hessian("disam", 0)])
    assert "nothing to compare" in told([made.hessian("sgd", 0)])


def test_a_method_is_compared_with_the_optimizer_it_steps_with() -> None:
    mine = made.hessian("sam", 0)
    mine.record["run"]["base"] = "adamw"
    text = told([made.hessian("sgd", 0), made.hessian("adamw", 0), mine])
    assert "AdamW's" in text
    assert "SGD's" not in text


def test_the_flattest_method_is_held_against_the_best_one() -> None:
    def judged(*accuracies: float) -> str:
        trained = [made.training(k, 0, unseen=a) for k, a in zip(("sgd", "sam"), accuracies, strict=False)]
        return verdict(summarize([made.hessian("sgd", 0, 4.0), made.hessian("sam", 0, 1.0), *trained]))

    worse = "lowest mean λ_max (SAM) does not go with the highest mean unseen-domain accuracy (SGD)"
    assert worse in judged(0.7, 0.6)
    assert "SAM has both" in judged(0.5, 0.6)
    assert "too few to say" in judged(0.5, 0.6)
    assert "cannot tell" in judged(0.5)


def test_more_than_five_seeds_get_an_exact_p_value() -> None:
    text = told(pairs([0.6] * 6, [0.5, 0.51, 0.52, 0.5, 0.5, 0.5]))
    assert "sign-flip p = 0.031" in text
    assert "not corrected" in text
    assert "no significance" not in text


def test_the_p_value_is_that_of_all_sign_patterns() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product([-1, 1], repeat=4)]
    assert sign_flip_p(differences) == np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_p([1.0, 1.0, 1.0]) == 2 ** (1 - 3)
    many = sign_flip_p(np.ones(20))
    assert 0 < many < 1e-3


def test_latex_and_csv() -> None:
    results = [made.training("a_b & 50%", s, unseen=0.5 + 0.1 * s) for s in range(2)] + [made.hessian("sgd", 0)]
    latex = summary_latex(summarize(results))
    assert r"\toprule" in latex
    assert r"a\_b \& 50\%" in latex
    assert r"55.0 $\pm$ 7.1" in latex
    assert "ddof = 1" in latex
    assert "n = 1 to 2" in latex
    assert "m-sharpness" not in latex
    header, *lines = summary_csv(summarize(results)).splitlines()
    assert header.startswith("label,name,n_seeds,train_loss_mean")
    assert len(lines) == 2


def test_a_name_that_ends_in_s_has_the_possessive_of_one():
    results = [made.hessian(label, seed, top) for label, top in (("sgd", 4.0), ("sgd-2x", 2.0)) for seed in (0, 1)]
    [told, *_] = comparison(summarize(results), results)
    assert told.startswith("SGD, 2× epochs' λ_max is 0.50 times SGD's ")

"""Planted cases: what is there is found, what is not there is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from study.planted import column, grid, table

from landscape.base.errors import UsageError
from landscape.specs.study import StudyReportSpec
from landscape.study.findings import about, compared_sentence, findings
from landscape.study.statistics.comparison import compared, undecidable
from landscape.study.statistics.correlation import correlations, radii
from landscape.study.verdicts import CANNOT_TELL, sentence

QUICK = StudyReportSpec(outcomes=("gap_loss",), bootstrap=600, permutations=400)
ROWS = grid([0.02, 0.05, 0.1], [16, 64], 8)  # 48 models


def judged(measures: dict[str, Any], gap: Any, rows=ROWS, spec=QUICK, **more: Any) -> dict[str, dict[str, Any]]:
    found, _ = correlations(table(rows, {"gap_loss": gap}, measures, **more), spec)
    return {r["measure"]: r for r in found}


@pytest.fixture(scope="module")
def planted() -> dict[str, dict[str, Any]]:
    g = np.random.default_rng(0)
    n = len(ROWS)
    gap = g.normal(size=n)
    measures = {
        "the gap plus noise": gap + 0.3 * g.normal(size=n),
        "random": g.normal(size=n),
        "margin": -gap + 0.3 * g.normal(size=n),  # larger is flatter
        "upside down": -gap + 0.3 * g.normal(size=n),
        "constant": np.ones(n),
    }
    return judged(measures, gap)


def test_a_measure_that_is_the_gap_plus_noise_is_found(planted):
    found = planted["the gap plus noise"]
    assert found["verdict"] == "predicts"
    assert found["tau"] > 0.6
    assert found["tau_low"] > 0.4
    assert found["p_holm"] < 0.05
    assert found["psi"] > 0.4
    assert found["partial_rank"] > 0.7
    assert found["information"] > found["information_permuted"]
    assert found["beats_learning_rate"] is True
    assert found["warnings"] == []


def test_a_random_measure_is_not(planted):
    found = planted["random"]
    assert found["tau_low"] < 0 < found["tau_high"]
    assert found["verdict"] in (CANNOT_TELL, "does not predict")
    assert abs(found["tau"]) < found["permuted_band"]
    assert found["information"] < 0.05
    assert found["beats_learning_rate"] is False


def test_signs_follow_what_flatness_means(planted):
    assert planted["margin"]["verdict"] == "predicts"
    assert planted["upside down"]["verdict"] == "predicts the opposite"
    assert "the other way round" in sentence(planted["upside down"])


def test_what_does_not_vary_cannot_tell(planted):
    assert planted["constant"]["verdict"] == CANNOT_TELL
    assert "same value for all models" in planted["constant"]["because"]


def test_the_permuted_band_is_near_the_normal_one_and_p_is_that_of_scipy(planted):
    found = planted["random"]
    assert found["permuted_band"] == pytest.approx(found["null_band"], abs=0.06)


def test_p_values_agree_with_scipy_where_models_are_independent():
    g = np.random.default_rng(3)
    rows = grid(list(np.linspace(0.01, 1, 14)), [16], 1)
    x = g.normal(size=14)
    gap = x + 2 * g.normal(size=14)
    found = judged({"x": x}, gap, rows, QUICK.with_(permutations=4000))["x"]
    assert found["tau"] == pytest.approx(stats.kendalltau(x, gap).statistic)
    assert found["p_permutation"] == pytest.approx(stats.kendalltau(x, gap, method="exact").pvalue, abs=0.02)


def test_what_comes_from_the_learning_rate_is_marked():
    g = np.random.default_rng(1)
    lr = column(ROWS, "lr")
    gap = np.log(lr) + 0.2 * g.normal(size=len(ROWS))
    found = judged({"follows lr": np.log(lr) + 0.2 * g.normal(size=len(ROWS))}, gap)
    row = found["follows lr"]
    assert row["tau"] > 0.5
    assert row["verdict"] == CANNOT_TELL  # three learning rates are in one order by chance in a third of studies
    assert row["beats_learning_rate"] is False
    assert "no better than the learning rate" in row["warnings"]
    assert any("nothing is left" in w for w in row["warnings"])
    assert row["partial_rank_low"] < 0 < row["partial_rank_high"]
    assert abs(row["partial_kendall"]["learning rate"]) < 0.25
    assert found["learning rate"]["tau"] > 0.6
    assert found["batch size"]["verdict"] != "predicts"


def test_simpsons_paradox_is_said():
    g = np.random.default_rng(0)
    rows = grid([1.0, 2.0, 3.0, 4.0], [32], 8)
    lr = column(rows, "lr")
    measure = lr + g.normal(0, 0.2, 32)
    gap = lr - 3 * (measure - lr) + g.normal(0, 0.05, 32)
    row = judged({"simpson": measure}, gap, rows)["simpson"]
    assert row["tau"] == pytest.approx(0.54, abs=0.12)
    seed = next(granule for granule in row["granulated"] if granule["factor"] == "seed")
    assert seed["psi"] == pytest.approx(-0.98, abs=0.08)
    assert row["verdict"] == CANNOT_TELL  # four configurations
    rows = grid([1.0, 2.0, 3.0, 4.0], [16, 64], 4)
    lr = column(rows, "lr")
    measure = lr + g.normal(0, 0.2, 32)
    row = judged({"simpson": measure}, lr - 3 * (measure - lr) + g.normal(0, 0.05, 32), rows)["simpson"]
    assert any("the sign turns among models that differ only in seeds" in w for w in row["warnings"])


@pytest.mark.parametrize(
    ("rows", "because"),
    [
        (grid([0.1, 0.2, 0.3], [16], 3), "9 models are too few"),
        (grid([0.1, 0.2], [16], 6), "2 configurations are too few"),
        (grid([0.1, 0.2, 0.3], [16, 64], 2), "2 seed.* too few"),
    ],
)
def test_too_few_models_or_seeds_cannot_tell(rows, because: str):
    gap = np.arange(float(len(rows)))
    row = judged({"x": gap}, gap, rows)["x"]
    assert row["tau"] == 1
    assert row["verdict"] == CANNOT_TELL
    assert __import__("re").search(because, row["because"])
    assert "cannot tell" in sentence(row)


def test_a_measure_that_does_not_repeat_ranks_nothing():
    g = np.random.default_rng(0)
    gap = g.normal(size=len(ROWS))
    repeats = {"noisy": gap[:, None] + 3 * g.normal(size=(len(ROWS), 3))}
    row = judged({"noisy": gap}, gap, repeats=repeats)["noisy"]
    assert row["icc"] < 0.5
    assert row["verdict"] == CANNOT_TELL
    assert "repeated measurements disagree" in row["because"]


def test_an_outcome_that_the_data_do_not_have_is_said():
    found, asked = correlations(
        table(ROWS, {"gap_loss": np.arange(48.0)}, {"x": np.arange(48.0)}),
        QUICK.with_(outcomes=("gap_loss", "unseen_gap_loss")),
    )
    assert {r["outcome"] for r in found} == {"gap_loss"}
    assert asked[1]["note"] == "the data does not have it"


def test_intervals_of_permuted_gaps_rarely_exclude_zero(planted):
    g = np.random.default_rng(5)
    gap = g.normal(size=48)
    _, asked = correlations(table(ROWS, {"gap_loss": gap}, {f"x{i}": g.normal(size=48) for i in range(5)}), QUICK)
    assert asked[0]["alarm_trials"] == 100
    assert asked[0]["alarms"] <= 18  # 5 % are meant to; intervals of 8 seeds of 6 configurations are a little narrow


def test_sign_errors_are_of_error_gaps_alone_and_name_the_worst_environment():
    rows = grid([0.1, 0.2], [16, 64], 4)
    lr = column(rows, "lr")
    gap = np.where(lr == 0.2, 0.4, 0.1) + 0.001 * np.arange(len(rows))
    spec = QUICK.with_(outcomes=("gap_loss", "gap_error"))
    found, asked = correlations(table(rows, {"gap_loss": gap, "gap_error": gap}, {"x": -gap}), spec)
    by = {(r["measure"], r["outcome"]): r for r in found}
    assert by["x", "gap_loss"]["sign_error"] is None
    assert by["x", "gap_error"]["sign_error"]["max"] == 1
    assert by["x", "gap_error"]["sign_error"]["worst"]["factor"] == "lr"
    assert asked[1]["detectable_gap"] == pytest.approx(0.0196, abs=1e-3)


def test_radii_must_span_a_decade_and_rank_alike():
    g = np.random.default_rng(0)
    base = g.normal(size=48)
    same = {f"m-sharpness m=1 rho={r:g}": base + 0.001 * g.normal(size=48) for r in (0.01, 0.02, 0.05, 0.1)}
    other = {"average-case rho=0.1": base, "average-case rho=0.2": g.normal(size=48)}
    found = {r["measure"]: r for r in radii(table(ROWS, {"gap_loss": base}, {**same, **other}))}
    assert found["m-sharpness m=1"]["decade"]
    assert found["m-sharpness m=1"]["lowest_tau"] > 0.9
    assert not found["average-case"]["decade"]
    assert found["average-case"]["lowest_tau"] < 0.3


# -- methods ---------------------------------------------------------------------------------------------------------


def methods(seeds: int, effect: float, lrs: tuple[float, ...] = (0.1, 0.2)) -> Any:
    rows = [
        ({"optimizer": o, "lr": lr, "rho": rho}, s)
        for s in range(seeds)
        for o, rho in (("sgd", None), ("sam", 0.05), ("sam", 0.1))
        for lr in lrs
    ]
    g = np.random.default_rng(0)
    shared = {(a["lr"], s): g.normal() for a, s in rows}  # what both methods have in common hides nothing from pairs
    accuracy = [0.5 + 0.1 * shared[a["lr"], s] + effect * (a["rho"] == 0.1) + 0.01 * g.normal() for a, s in rows]
    return table(rows, {"test_accuracy": accuracy}, {"x": accuracy}, evaluations={"sgd": 100.0, "sam": 200.0})


def test_methods_are_compared_pair_by_pair():
    spec = StudyReportSpec(compare_by=("test_accuracy",))
    two = {p["name"]: p for p in compared(methods(5, 0.03), spec)["pairs"]}["sam rho=0.1"]
    assert (two["n"], two["independent"], two["by"], two["verdict"]) == (10, 2, "setting", CANNOT_TELL)
    assert "10 pairs, but 2 settings are too few" in two["because"]
    found = compared(methods(10, 0.03, (0.1,)), spec)
    assert found["axes"] == ["optimizer", "rho"]
    assert found["baseline"] == "sgd"
    by = {p["name"]: p for p in found["pairs"]}
    assert set(by) == {"sam rho=0.05", "sam rho=0.1"}
    assert by["sam rho=0.1"]["n"] == 10
    assert by["sam rho=0.1"]["verdict"] == "higher"
    assert by["sam rho=0.1"]["effect"]["low"] > 0
    assert by["sam rho=0.1"]["p_holm"] == pytest.approx(2 * 2.0**-9)
    assert by["sam rho=0.05"]["verdict"] == CANNOT_TELL
    rows = {c["name"]: c for c in found["competitors"]}
    assert rows["sgd"]["n"] == 10
    assert rows["sgd"]["values"]["test_accuracy"]["std"] > 0
    assert any("spent 2.0 times the gradient evaluations" in note for note in found["notes"])


def test_fewer_than_six_pairs_cannot_tell():
    found = compared(methods(2, 0.3), StudyReportSpec(compare_by=("test_accuracy",)))
    assert all(p["verdict"] == CANNOT_TELL and p["effect"] is None for p in found["pairs"])
    assert "4 pairs, but 2 settings are too few" in found["pairs"][0]["because"]
    found = compared(methods(4, 0.3, (0.1,)), StudyReportSpec(compare_by=("test_accuracy",)))
    assert "4 pairs are too few" in found["pairs"][0]["because"]


def test_any_axis_can_be_compared():
    found = compared(methods(5, 0.0), StudyReportSpec(compare=("lr",), compare_by=("x",), baseline="lr=0.1"))
    assert [p["name"] for p in found["pairs"]] == ["lr=0.2"]
    assert found["pairs"][0]["n"] == 15
    with pytest.raises(UsageError, match="there is no 'adam' to compare with"):
        compared(methods(2, 0.0), StudyReportSpec(baseline="adam"))
    with pytest.raises(UsageError, match=r"unknown quantity 'tset_accuracy' \(report.compare_by\)"):
        compared(methods(2, 0.0), StudyReportSpec(compare_by=("tset_accuracy",)))


def test_methods_are_compared_at_each_setting_apart():
    # An effect of opposite signs at two radii, which cancels over both; plain training stands beside each.
    rows = [
        ({"optimizer": o, "lr": lr, "rho": rho}, s)
        for s in range(8)
        for lr in (0.1, 0.2)
        for o, rho in (("sgd", None), ("sam", 0.05), ("sam", 0.1), ("disam", 0.05), ("disam", 0.1))
    ]
    g = np.random.default_rng(0)
    accuracy = [
        0.5 + (0.1 if a["rho"] == 0.1 else -0.1) * (a["optimizer"] == "disam") + 0.001 * g.normal() for a, _ in rows
    ]
    models = table(rows, {"test_accuracy": accuracy}, {})
    together = StudyReportSpec(compare=("optimizer",), baseline="sam", compare_by=("test_accuracy",))
    pooled = {p["name"]: p for p in compared(models, together)["pairs"]}
    assert (pooled["disam"]["n"], pooled["disam"]["verdict"]) == (32, CANNOT_TELL)
    by_rho = compared(models, together.with_(within=("rho",)))["pairs"]
    assert {p["verdict"] for p in by_rho} == {CANNOT_TELL}  # of two learning rates
    own = [i for i, (axes, _) in enumerate(rows) if axes["lr"] == 0.1]
    models = table([rows[i] for i in own], {"test_accuracy": [accuracy[i] for i in own]}, {})
    found = compared(models, together.with_(within=("rho",)))
    pairs = {p["name"]: p for p in found["pairs"]}
    assert list(pairs) == ["sgd (rho=0.05)", "disam (rho=0.05)", "sgd (rho=0.1)", "disam (rho=0.1)"]
    assert {p["n"] for p in pairs.values()} == {8}
    assert [pairs[f"disam (rho={r})"]["verdict"] for r in (0.05, 0.1)] == ["lower", "higher"]
    assert [c["n"] for c in found["competitors"]] == [8] * 6
    by_both = compared(models, together.with_(within=("rho", "lr")))
    assert "disam (rho=0.1, lr=0.1)" in {p["name"] for p in by_both["pairs"]}
    for axis in ("optimizer", "rhoo"):
        with pytest.raises(UsageError, match=f"unknown axis '{axis}' .report.within"):
            compared(models, together.with_(within=(axis,)))


@pytest.mark.parametrize("seeds", [3, 6, 7, 8, 12])
def test_a_comparison_that_can_never_tell_is_said_before_and_after(seeds: int):
    rows = [({"optimizer": o}, s) for s in range(seeds) for o in ("sgd", "sam", "sagm")]
    best = {"sgd": 0.0, "sam": 1.0, "sagm": -1.0}
    # The clearest outcome there can be: every pair of every comparison has the same sign.
    values = {k: [best[a["optimizer"]] for a, _ in rows] for k in ("test_accuracy", "x")}
    models = table(rows, values, {})
    spec = StudyReportSpec(compare_by=("test_accuracy", "x"))
    found = compared(models, spec)
    tells = {p["verdict"] for p in found["pairs"]} == {"higher", "lower"}
    assert tells == (seeds >= 8)  # 4 tests: 4 * 2^(1-7) = 0.0625
    notes = undecidable(models.models, spec)
    assert bool(notes) == (not tells)
    if seeds < 6:
        assert notes[0].startswith("3 pairs are too few")
        assert "3 pairs are too few" in found["pairs"][0]["because"]
    else:
        assert set(notes) <= set(found["notes"])


def test_methods_that_are_one_to_the_last_bit_are_equal():
    rows = [({"optimizer": o}, s) for s in range(6) for o in ("sgd", "sam")]
    models = table(rows, {"test_accuracy": [s / 7 for _, s in rows]}, {})
    (alike,) = compared(models, StudyReportSpec(compare_by=("test_accuracy",)))["pairs"]
    assert (alike["verdict"], set(alike["differences"])) == (CANNOT_TELL, {0.0})  # a coarse number is no proof
    for model in models.models:
        model.record["training"]["weights_hash"] = f"w{model.repetition}"
    (pair,) = compared(models, StudyReportSpec(compare_by=("test_accuracy",)))["pairs"]
    assert pair["verdict"] == "equal"
    assert compared_sentence(pair) == (
        "sam against sgd, test accuracy: equal (the same weights to the last bit in all 6 pairs)."
    )


@pytest.mark.parametrize(("count", "words"), [(1, "1 predicts the opposite"), (6, "6 predict the opposite")])
def test_several_measures_predict_and_one_predicts(planted, count: int, words: str):
    outcome = {"outcome": "gap_loss", "note": None}
    row = {**next(iter(planted.values())), "kind": "measure", "verdict": "predicts the opposite"}
    told = about(outcome, [row] * count + [{**row, "verdict": "does not predict"}] * 2)
    assert told[0] == f"Of {count + 2} measures against the in-domain loss gap: {words}, 2 do not predict."


def test_every_sentence_is_one(planted):
    record = {
        "models": [0] * 48, "planned": 50, "configurations": 6, "repetitions": 8, "stop_at": 0.01,
        "dropped": [{"reason": "not finished yet", "arm": "sgd", "count": 2, "models": []}],
        "outcomes": [{"outcome": "gap_loss", "note": None, "alarm_trials": 100, "alarms": 4}],
        "correlations": list(planted.values()),
        "comparison": compared(methods(5, 0.03), StudyReportSpec()),
        "radii": [{"measure": "m-sharpness m=1", "radii": [0.1], "decade": False, "lowest_tau": None}],
        "controls": [{"kind": "rescale", "measure": "lambda_1", "moves": True, "models": 1, "largest_change": 9.0}],
        "uniform": [{"analysis": "hessian", "label": "", "seed": 0, "differs": ["mode"]}],
        "failed_analyses": [], "selection": ["last", "oracle"],
    }  # fmt: skip
    told = findings(record)
    assert told[0].startswith("48 of 50 models are compared: 6 configurations with up to 8 seed(s) each")
    assert "Left out (not finished yet): 2 of sgd." in told
    assert all(s.endswith(".") and "\n" not in s for s in told)
    assert any("Not invariant under rescaling" in s for s in told)
    assert any("mode differ" in s for s in told)
    assert any("which looks at the unseen domains" in s for s in told)

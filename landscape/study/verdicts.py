"""What the statistics allow to say, in words; where they do not: "cannot tell"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .repeatability import LEAST

FEWEST_MODELS = 10  # below, 95 % of unrelated rankings reach a tau of 0.5
FEWEST_CONFIGURATIONS = 5  # below, resampling them means little
FEWEST_SEEDS = 3
MANY_CONFIGURATIONS = 30  # so many carry the noise of the seeds in themselves
NEGLIGIBLE = 0.2  # |tau| below this predicts nothing of use: 60 % of pairs in order, where 50 % is chance
CANNOT_TELL = "cannot tell"
LEVEL = 0.05  # of every test, after the correction for all of them
EQUAL = "equal"  # of two methods: weights, bit for bit
VERDICTS = ("predicts", "predicts the opposite", "does not predict", CANNOT_TELL)


def judge(row: Mapping[str, Any], *, repetitions: int, configurations: int) -> dict[str, Any]:
    """The verdict on one measure and one outcome.

    Args:
        row: Its statistics.
        repetitions: Seeds per configuration.
        configurations: How many configurations.

    Returns:
        ``verdict`` (``predicts``, ``predicts the opposite``, ``does not predict`` or ``cannot tell``), ``because``
        in words, and ``warnings``. "Predicts" means: a sharper model has the larger gap.
    """
    reason = _too_little(row, repetitions, configurations)
    if reason:
        return {"verdict": CANNOT_TELL, "because": reason, "warnings": []}
    warnings = _warnings(row)
    tau, low, high = row["tau"], row["tau_low"], row["tau_high"]
    told = f"tau = {tau:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}"
    if low <= 0 <= high:
        if low > -NEGLIGIBLE and high < NEGLIGIBLE:
            return {"verdict": "does not predict", "because": f"{told}, all of it negligible", "warnings": warnings}
        return {"verdict": CANNOT_TELL, "because": f"{told}, which covers 0", "warnings": warnings}
    if row["p_holm"] is None or row["p_holm"] >= LEVEL:
        corrected = "1" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        because = f"{told}, but p = {corrected} after correction for {row['tests']} tests"
        return {"verdict": CANNOT_TELL, "because": because, "warnings": warnings}
    sharper_is_worse = (tau > 0) != row["flatter_is_larger"]
    verdict = "predicts" if sharper_is_worse or row["kind"] != "measure" else "predicts the opposite"
    return {"verdict": verdict, "because": told, "warnings": warnings}


def _too_little(row: Mapping[str, Any], repetitions: int, configurations: int) -> str | None:
    if row["note"]:
        return str(row["note"])
    if row["n"] < FEWEST_MODELS:
        return f"{row['n']} models are too few (at least {FEWEST_MODELS})"
    if configurations < FEWEST_CONFIGURATIONS:
        return f"{configurations} configurations are too few (at least {FEWEST_CONFIGURATIONS})"
    if repetitions < FEWEST_SEEDS and configurations < MANY_CONFIGURATIONS:
        return f"{repetitions} seed(s) are too few (at least {FEWEST_SEEDS})"
    if row["icc"] is not None and row["icc"] < LEAST:
        return f"repeated measurements disagree (ICC {row['icc']:.2f} < {LEAST}), so it ranks nothing"
    if row["tau_low"] is None:
        return "there is no interval"
    return None


def _warnings(row: Mapping[str, Any]) -> list[str]:
    found = []
    if row["beats_learning_rate"] is False and row["kind"] != "baseline":
        found.append("no better than the learning rate")
    if "@start" in str(row["measure"]) or "@step=0" in str(row["measure"]):
        found.append("a control: measured on untrained weights, so whatever it predicts it has from the settings")
    tau = row["tau"]
    for held in row.get("held") or ():
        if held["tau"] is None:
            found.append(f"with {held['held']} held it does not vary")
        elif held["low"] is None or held["low"] <= 0 <= held["high"] or held["tau"] * tau < 0:
            found.append(f"with {held['held']} held it cannot be told (tau {held['tau']:+.2f})")
    for granule in row["granulated"]:
        psi, stderr = granule["psi"], granule["stderr"]
        against = tau is not None and psi is not None and psi * tau < 0
        if against and stderr is not None and granule["groups"] >= 3 and abs(psi) > 2 * stderr:
            others = "seeds" if granule["factor"] == "seed" else f"values of {granule['factor']}"
            found.append(f"the sign turns among models that differ only in {others} (tau {psi:+.2f})")
    if row["information"] is not None and row["information_permuted"] is not None:
        given = " and ".join(row["information_given"])
        if row["information"] <= row["information_permuted"] and given:
            found.append(f"given {given} nothing is left of it beyond chance")
    return found


def plural(verdict: str, count: int) -> str:
    """A verdict as the verb of so many measures: "1 predicts", "6 predict", "2 do not predict"."""
    if count == 1:
        return verdict
    return verdict.replace("predicts", "predict").replace("does", "do")


def sentence(row: Mapping[str, Any]) -> str:
    """The verdict on one measure and outcome as a sentence."""
    outcome = OUTCOME_WORDS.get(row["outcome"], row["outcome"])
    told = {
        CANNOT_TELL: f"{row['measure']}: cannot tell whether it predicts {outcome}",
        "predicts": f"{row['measure']} predicts {outcome}: sharper is worse",
        "predicts the opposite": f"{row['measure']} predicts {outcome} the other way round: sharper is better",
        "does not predict": f"{row['measure']} does not predict {outcome}",
    }[row["verdict"]]
    if row["verdict"] == "predicts" and row["kind"] != "measure":
        told = f"{row['measure']} goes with {outcome}"
    more = f". But: {'; '.join(row['warnings'])}" if row["warnings"] else ""
    return f"{told} ({row['because']}){more}."


def quantity_words(quantity: str) -> str:
    """A quantity of a comparison in words; measures keep their names."""
    return re.sub("(?<!lambda)_", " ", quantity)


OUTCOME_WORDS = {
    "gap_loss": "the in-domain loss gap",
    "gap_error": "the in-domain error gap",
    "unseen_gap_loss": "the loss gap on unseen domains",
    "unseen_gap_error": "the error gap on unseen domains",
    "test_accuracy": "the in-domain test accuracy",
    "unseen_accuracy": "the accuracy on unseen domains",
}

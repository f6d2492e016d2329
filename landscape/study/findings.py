"""A whole study in sentences: who was compared, what predicts what, which method differs, what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .verdicts import CANNOT_TELL, EQUAL, OUTCOME_WORDS, VERDICTS, plural, quantity_words, sentence

STABLE = 0.8  # rank correlation between two radii of one measure

Row = Mapping[str, Any]


def findings(record: Row) -> list[str]:
    """What a study found, and what a reader has to know before believing it.

    Args:
        record: Of a study result.
    """
    told = who_is_in(record)
    for outcome in record["outcomes"]:
        told += about(outcome, [r for r in record["correlations"] if r["outcome"] == outcome["outcome"]])
    told += [compared_sentence(p) for p in record["comparison"]["pairs"]]
    return told + caveats(record)


def who_is_in(record: Row) -> list[str]:
    """How many models are compared, and which are left out, with the reason."""
    n = len(record["models"])
    at = f", all stopped at a training loss of at most {record['stop_at']:g}" if record["stop_at"] is not None else ""
    told = (
        f"{n} of {record['planned']} models are compared: {record['configurations']} configurations with up to "
        f"{record['repetitions']} seed(s) each{at}."
    )
    reasons: dict[str, list[str]] = {}
    for d in record["dropped"]:
        reasons.setdefault(d["reason"], []).append(f"{d['count']} of {d['arm']}")
    return [told, *(f"Left out ({why}): {', '.join(who)}." for why, who in reasons.items())]


def about(outcome: Row, rows: Sequence[Row]) -> list[str]:
    """How many measures predict an outcome, and a sentence for each that says something."""
    name = OUTCOME_WORDS.get(outcome["outcome"], outcome["outcome"])
    if outcome["note"]:
        return [f"Nothing is said about {name}: {outcome['note']}."]
    measures = [r for r in rows if r["kind"] == "measure"]
    by = {v: [r["measure"] for r in measures if r["verdict"] == v] for v in VERDICTS}
    parts = [f"{len(names)} {plural(verdict, len(names))}" for verdict, names in by.items() if names]
    told = [f"Of {len(measures)} measures against {name}: {', '.join(parts) or 'none'}."]
    return told + [sentence(r) for v in VERDICTS if v != CANNOT_TELL for r in measures if r["verdict"] == v]


def compared_sentence(pair: Row) -> str:
    """The verdict on one method and quantity as a sentence."""
    quantity = quantity_words(pair["quantity"])
    if pair["verdict"] in (CANNOT_TELL, EQUAL):
        told = f"{pair['name']} against {pair['baseline']}, {quantity}: {pair['verdict']}"
    else:
        told = f"{pair['name']}'s {quantity} is {pair['verdict']} than that of {pair['baseline']}"
    return f"{told} ({pair['because']})."


def caveats(record: Row) -> list[str]:
    """The controls, in sentences: budgets, test sets, permuted gaps, radii, invariance, examples, selection."""
    notes = [
        *record["comparison"]["notes"],
        *(note for outcome in record["outcomes"] for note in _of_outcome(outcome)),
        *(note for row in record["radii"] for note in _of_radii(row)),
        *_of_invariance(record["controls"]),
        *(
            f"the {u['analysis']} analysis did not look at all models alike: {', '.join(u['differs'])} differ"
            for u in record["uniform"]
            if u["differs"]
        ),
        *(f"{f['count']} {f['kind']} analyses failed: {f['reason']}" for f in record["failed_analyses"]),
        _of_selection(record["selection"]),
    ]
    return [f"{note[0].upper()}{note[1:]}." for note in notes]


def _of_outcome(outcome: Row) -> list[str]:
    notes = []
    words = outcome["outcome"].replace("_", " ")
    if outcome.get("reliability") is not None:
        share = max(outcome["reliability"], 0.0)
        notes.append(
            f"{100 * share:.0f} % of the {words}'s variance lies between configurations, the rest between seeds: "
            f"what is the same for all seeds cannot correlate much above {share**0.5:.2f}"
        )
    if outcome.get("detectable_gap"):
        notes.append(
            f"{outcome['n_test']} test examples: two values of the {words} that differ by less than "
            f"{100 * outcome['detectable_gap']:.1f} percentage points cannot be told apart"
        )
    if outcome.get("alarm_trials"):
        share = outcome["alarms"] / outcome["alarm_trials"]
        notes.append(
            f"negative control, {words}: with permuted gaps {100 * share:.0f} % of {outcome['alarm_trials']} "
            "intervals exclude 0 (5 % are meant to)"
        )
    return notes


def _of_radii(row: Row) -> list[str]:
    if not row["decade"]:
        return [f"measured at {len(row['radii'])} radii, where four over a decade are asked for: {row['measure']}"]
    if row["lowest_tau"] is not None and row["lowest_tau"] < STABLE:
        return [f"other radii rank models differently: {row['measure']} (lowest tau {row['lowest_tau']:.2f})"]
    return []


def _of_invariance(controls: Sequence[Row]) -> list[str]:
    what = {
        "rescale": "not invariant under rescaling of layers, which leaves the function as it is",
        "logits": "not invariant under multiplied logits, which leave every prediction as it is",
    }
    moving = [c for c in controls if c["moves"]]
    return [
        f"{what[kind]}: {', '.join(c['measure'] for c in moving if c['kind'] == kind)}"
        for kind in dict.fromkeys(c["kind"] for c in moving)
    ]


def _of_selection(rules: Sequence[str]) -> str:
    named = [r for r in rules if r != "last"]
    if not named:
        return "the last checkpoint of each training is taken, nothing was selected"
    cheat = ", which looks at the unseen domains" if "oracle" in named else ""
    return f"checkpoints were selected by {' and '.join(named)}{cheat}"

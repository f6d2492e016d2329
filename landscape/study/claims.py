"""What a study answers to the claims that its experiment file lists: by one rule, the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..specs.claims import ClaimSpec
from ..specs.study import StudyReportSpec
from .statistics.correlation import gain_over
from .statistics.growth import growth
from .statistics.paired import holm
from .table import Table
from .verdicts import EQUAL, LEVEL

SHOWS, OPPOSITE, REFUTED, CANNOT_TELL, NOT_TESTED = (
    "shows",
    "shows the opposite",
    "no difference that matters",
    "cannot tell",
    "not tested",
)
ANSWERS = (SHOWS, OPPOSITE, REFUTED, CANNOT_TELL, NOT_TESTED)

Row = dict[str, Any]


def answers(
    claims: Sequence[ClaimSpec],
    table: Table,
    spec: StudyReportSpec,
    comparison: Mapping[str, object],
    correlations: Sequence[Mapping[str, object]],
) -> list[Row]:
    """A row per claim, and per setting that the report compares apart.

    Args:
        claims: What is asked.
        table: The models.
        spec: How they are compared.
        comparison: As of `statistics.comparison.compared`.
        correlations: As of `statistics.correlation.correlations`.

    Returns:
        The fields of the claim, with ``at`` (the setting), ``n`` (independent differences, or models), ``difference``
        with ``low`` and ``high``, ``margin_size``, ``p`` (corrected) and ``answer``, one of `ANSWERS`.
    """
    rows: list[Row] = []
    for claim in claims:
        found = list(_found(claim, table, spec, comparison, correlations))
        rows += [_row(claim) | row for row in found or [{"note": "the study has no such comparison"}]]
    apart = [row for row in rows if row["p"] is not None and not row["corrected"]]
    for row, p in zip(apart, holm([row["p"] for row in apart]), strict=True):
        row["p"] = p
    for row in rows:
        row["answer"] = row.pop("told", None) or answer(row)
    return rows


def answer(row: Mapping[str, Any]) -> str:
    """The answer that a difference, its interval, its p-value and the margin allow."""
    low, high, margin, p = row["low"], row["high"], row["margin_size"], row["p"]
    if row["difference"] is None:
        return CANNOT_TELL if row["n"] else NOT_TESTED
    inside = margin is not None and None not in (low, high) and -margin < low and high < margin
    outside = margin is not None and None not in (low, high) and (low > margin or high < -margin)
    if row["expects"] == "equal":
        return SHOWS if inside else OPPOSITE if outside and _significant(p) else CANNOT_TELL
    if inside:
        return REFUTED
    if not _significant(p) or low is None or low <= 0 <= high:
        return CANNOT_TELL
    return SHOWS if (row["difference"] > 0) == (row["expects"] != "lower") else OPPOSITE


def _significant(p: float | None) -> bool:
    return p is not None and p < LEVEL


def _row(claim: ClaimSpec) -> Row:
    empty = ("difference", "low", "high", "margin_size", "p", "told", "note")
    return {**asdict(claim), "at": "", "n": 0, "by": "pair", "corrected": True, **dict.fromkeys(empty)}


def _found(
    claim: ClaimSpec,
    table: Table,
    spec: StudyReportSpec,
    comparison: Mapping[str, Any],
    correlations: Sequence[Mapping[str, Any]],
) -> Iterator[Row]:
    if claim.expects == "predicts":
        yield from _predicted(claim, table, spec, correlations)
    elif claim.grows_with:
        found = growth(table, spec, claim.of, claim.quantity, claim.grows_with)
        if found is not None:
            effect, mean = found
            yield _of_effect(asdict(effect) if effect else None, claim.size(mean)) | {"corrected": False}
    else:
        for pair in comparison["pairs"]:
            if pair["method"] == claim.of and pair["quantity"] == claim.quantity:
                row = _of_effect(pair["effect"], claim.size(pair["baseline_mean"]))
                row |= {"at": pair["at"], "p": pair["p_holm"], "n": pair["independent"], "by": pair["by"]}
                if pair["verdict"] == EQUAL:  # to the last bit
                    row["told"] = SHOWS if claim.expects == "equal" else REFUTED
                yield row


def _of_effect(effect: Mapping[str, object] | None, margin: float | None) -> Row:
    if effect is None:
        return {"margin_size": margin, "n": 1, "note": "too few independent differences"}
    return {
        "difference": effect["mean"],
        "low": effect["low"],
        "high": effect["high"],
        "p": effect["p"],
        "n": effect["n"],
        "by": effect["by"],
        "margin_size": margin,
    }


def _predicted(
    claim: ClaimSpec, table: Table, spec: StudyReportSpec, correlations: Sequence[Mapping[str, Any]]
) -> Iterator[Row]:
    for row in correlations:
        if row["measure"] != claim.of or row["outcome"] != claim.quantity or row["note"]:
            continue
        if claim.than:
            bounds = gain_over(table, spec, claim.quantity, claim.of, claim.than)
            if bounds is not None:
                gain, low, high = bounds
                sign = None if low is None or high is None else SHOWS if low > 0 else OPPOSITE if high < 0 else None
                yield {"difference": gain, "low": low, "high": high, "n": row["n"], "told": sign or CANNOT_TELL}
            continue
        told = {"predicts": SHOWS, "predicts the opposite": OPPOSITE, "does not predict": REFUTED}
        yield {
            "difference": row["tau"],
            "low": row["tau_low"],
            "high": row["tau_high"],
            "p": row["p_holm"],
            "n": row["n"],
            "told": told.get(row["verdict"], CANNOT_TELL),
        }


def sentence(row: Mapping[str, object]) -> str:
    """A claim and its answer in one sentence with the numbers."""
    at = f" ({row['at']})" if row["at"] else ""
    return f"{row['says']}{at}: {row['answer']}{numbers(row)}."


def numbers(row: Mapping[str, Any]) -> str:
    """The numbers behind an answer, in brackets."""
    if row["difference"] is None:
        return f" ({row['note']})" if row["note"] else ""
    points = row["quantity"].endswith("accuracy") and row["expects"] != "predicts"
    scale, unit = (100, " points") if points else (1, "")
    what = "difference of taus" if row["than"] else "tau" if row["expects"] == "predicts" else "difference"
    if row["grows_with"]:
        what = f"change of the difference along {row['grows_with']}"
    told = f"{what} {scale * row['difference']:+.3g}{unit}"
    if row["low"] is not None and row["high"] is not None:
        told += f", 95 % interval {scale * row['low']:+.3g} to {scale * row['high']:+.3g}"
    if row["margin_size"] is not None:
        told += f", margin {scale * row['margin_size']:.2g}"
    return f" ({told})"


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """The answers of one claim at several settings in a few words: "shows at 2 of 3, else cannot tell"."""
    counts = {a: sum(r["answer"] == a for r in rows) for a in ANSWERS}
    there = [a for a, n in counts.items() if n]
    if len(there) == 1:
        return there[0]
    return ", ".join(f"{a} at {counts[a]} of {len(rows)}" for a in there)

"""Methods compared with a baseline, pair by pair: the same configuration, seed and split under both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...base.digits import ratio as ratio_text
from ...base.names import unknown_name
from ...specs.study import StudyReportSpec
from ..table import Model, Table
from ..verdicts import CANNOT_TELL, EQUAL, LEVEL
from .paired import FEWEST, FEWEST_MEANS, crossed_effect, enough, holm, independent
from .pairing import (
    Placed,
    axes_of,
    baseline_of,
    couples_of,
    groups_of,
    method_at,
    parts_of,
    setting_of,
    values_of,
    words,
)

Row = dict[str, Any]
COST = 0.1  # budgets that differ by more are said


def compared(table: Table, spec: StudyReportSpec) -> dict[str, Any]:
    """All competitors against the baseline.

    Args:
        table: The models.
        spec: Which axes make competitors, which of them is the baseline, by what they are compared, and at which
            settings apart.

    Returns:
        ``axes``, ``baseline``, ``competitors`` (a row each, with mean, standard deviation and number of models of
        every outcome and measure), ``pairs`` (a row per competitor and quantity, with effect, exact p-value, the
        same after Holm's correction over all of them, and verdict), ``budget`` and ``notes``.

    Raises:
        UsageError: If an axis, a quantity or the baseline is unknown.
    """
    axes = axes_of(table.models, spec)
    quantities = [*dict.fromkeys(k for m in table.models for k in m.outcomes)]
    quantities += [*table.measures, *table.courses, *table.baselines]
    found: dict[str, Any] = {"axes": list(axes), "baseline": None, "competitors": [], "pairs": [], "notes": []}
    found["competitors"] = [
        _summary(method_at(name, at), members, quantities)
        for at, models in parts_of(table.models, spec, axes)
        for name, members in groups_of(models, axes).items()
    ]
    groups = groups_of(table.models, axes)
    if len(groups) < 2:
        found["notes"].append("there is nothing to compare: one method")
        return found
    baseline = baseline_of(groups, spec)
    found["baseline"] = baseline
    if spec.compare_by:
        for name in spec.compare_by:
            if name not in quantities and table.models:
                if name in StudyReportSpec().compare_by or table.failed_analyses:
                    found["notes"].append(f"no model has {name.replace('_', ' ')}, so nothing is compared by it")
                    continue
                raise unknown_name("quantity", name, quantities, "report.compare_by")
        pairs = [
            _pair(name, at, couples, quantity, baseline, (*axes, *spec.within))
            for name, at, couples in couples_of(table.models, spec, axes, baseline)
            for quantity in spec.compare_by
            if quantity in quantities
        ]
        tested = [p for p in pairs if p["effect"] is not None]
        for row, p in zip(tested, holm([p["effect"]["p"] for p in tested]), strict=True):
            row["p_holm"] = p
        found["pairs"] = [{**row, **_verdict(row, len(tested))} for row in pairs]
        found["notes"] += _too_few([n for p in tested if (n := p["effect"]["n"]) >= FEWEST])
    found["notes"] += _budget(groups, baseline)
    return found


def undecidable(models: Sequence[Placed], spec: StudyReportSpec) -> list[str]:
    """What no outcome of a planned comparison could show, for want of pairs.

    Args:
        models: The models as planned.
        spec: As of `compared`; errors as there.

    Returns:
        A note, or nothing.
    """
    axes = axes_of(models, spec)
    groups = groups_of(models, axes)
    if len(groups) < 2:
        return []
    apart = (*axes, *spec.within)
    counts = [_independent(c, apart) for _, _, c in couples_of(models, spec, axes, baseline_of(groups, spec))]
    if counts and not any(enough(n, by) for n, by in counts):
        n, by = max(counts)
        more = ", or compare within each (report.within)" if by == "setting" else " seeds"
        return [f"{_few(n, by)}: take more{more}"]
    return _too_few([n for n, _ in counts if n >= FEWEST for _ in spec.compare_by])


def _few(n: int, by: str) -> str:
    if by == "pair":
        return f"{n} pairs are too few: fewer than {FEWEST} can never reach p = {LEVEL:g}"
    return f"{n} {by}s are too few: fewer than {FEWEST_MEANS} say nothing of others"


def _independent(couples: Sequence[tuple[Placed, Placed]], apart: Sequence[str]) -> tuple[int, str]:
    return independent([setting_of(m, apart) for m, _ in couples], [m.repetition for m, _ in couples])


def _too_few(counts: Sequence[int]) -> list[str]:
    """A note where even equal signs in all of so many pairs, test by test, are no finding after the correction."""
    if not counts or len(counts) * 2.0 ** (1 - max(counts)) < LEVEL:
        return []
    return [
        f"{max(counts)} independent differences and {len(counts)} comparisons can never reach p = {LEVEL:g} after "
        "the correction: take more seeds or settings, or compare by fewer quantities"
    ]


def _summary(name: str, members: Sequence[Model], quantities: Sequence[str]) -> Row:
    row: Row = {"name": name, "n": len(members), "values": {}}
    for quantity in quantities:
        values = [v for m in members if (v := m.value(quantity)) is not None]
        row["values"][quantity] = {
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n": len(values),
        }
    row["gradient_evaluations"] = float(np.mean([m.record["training"]["gradient_evaluations"] for m in members]))
    row["seconds"] = float(np.mean([m.record["training"]["training_seconds"] for m in members]))
    return row


def _pair(
    name: str,
    at: Mapping[str, object],
    couples: Sequence[tuple[Model, Model]],
    quantity: str,
    baseline: str,
    apart: Sequence[str],
) -> Row:
    known = values_of(couples, quantity, apart)
    differences = [difference for difference, _, _, _ in known]
    settings, seeds = [s for _, _, s, _ in known], [r for _, _, _, r in known]
    n, by = independent(settings, seeds)
    return {
        "name": method_at(name, at),
        "method": name,
        "at": words(at),
        "baseline": baseline,
        "baseline_mean": float(np.mean([b for _, b, _, _ in known])) if known else None,
        "quantity": quantity,
        "n": len(differences),
        "differences": differences,
        "same_weights": all(_hash(mine) == _hash(its) for mine, its in couples),
        "higher": sum(d > 0 for d in differences),
        "independent": n,
        "by": by,
        "effect": asdict(crossed_effect(differences, settings, seeds)) if enough(n, by) else None,
        "p_holm": None,
    }


def _hash(model: Model) -> str:
    return str(model.record["training"]["weights_hash"])


def _verdict(row: Row, tests: int) -> dict[str, object]:
    if row["effect"] is None:
        few = _few(row["independent"], row["by"])
        few = few if row["by"] == "pair" else f"{row['n']} pairs, but {few}"
        return {"verdict": CANNOT_TELL, "because": few}
    if row["same_weights"]:
        return {"verdict": EQUAL, "because": f"the same weights to the last bit in all {row['n']} pairs"}
    found, p = row["effect"], row["p_holm"]
    span = "" if found["low"] is None else f", 95 % interval {found['low']:+.3g} to {found['high']:+.3g}"
    of = "" if found["by"] == "pair" else f" in {found['n']} {found['by']}s"
    told = f"difference {found['mean']:+.3g}{span}, {row['n']} pairs{of}, p = {p:.2g} corrected for {tests} tests"
    if p >= LEVEL:
        return {"verdict": CANNOT_TELL, "because": told}
    return {"verdict": "higher" if found["mean"] > 0 else "lower", "because": told}


def _budget(groups: Mapping[str, Sequence[Model]], baseline: str) -> list[str]:
    """Gradients that a method spends for one of the baseline's (control C6)."""
    spent = {k: float(np.mean([m.record["training"]["gradient_evaluations"] for m in v])) for k, v in groups.items()}
    notes = []
    for name, count in spent.items():
        ratio = count / spent[baseline]
        if name != baseline and abs(ratio - 1) > COST:
            notes.append(
                f"unequal budgets: {name} spent {ratio_text(ratio)} times the gradient evaluations of {baseline}"
            )
    return notes

"""Methods compared with a baseline, pair by pair: the same configuration, seed and split under both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import UsageError
from ..names import unknown_name
from ..specs.study import StudyReportSpec
from ..specs.train import BASES, METHOD_FLAGS
from .paired import FEWEST, effect, holm
from .table import Model, Table
from .verdicts import CANNOT_TELL

Row = dict[str, Any]
COST = 0.1  # budgets that differ by more are said


def compared(table: Table, spec: StudyReportSpec) -> dict[str, Any]:
    """All competitors against the baseline.

    Args:
        table: The models.
        spec: Which axes make competitors, which of them is the baseline, by what they are compared.

    Returns:
        ``axes``, ``baseline``, ``competitors`` (a row each, with mean, standard deviation and number of models of
        every outcome and measure), ``pairs`` (a row per competitor and quantity, with effect, exact p-value, the
        same after Holm's correction over all of them, and verdict), ``budget`` and ``notes``.

    Raises:
        UsageError: If an axis, a quantity or the baseline is unknown.
    """
    axes = _axes(table, spec)
    groups: dict[str, list[Model]] = {}
    for model in table.models:
        groups.setdefault(label(model, axes), []).append(model)
    found: dict[str, Any] = {"axes": list(axes), "baseline": None, "competitors": [], "pairs": [], "notes": []}
    quantities = [*dict.fromkeys(k for m in table.models for k in m.outcomes)]
    quantities += [*table.measures, *table.courses, *table.baselines]
    found["competitors"] = [_summary(name, members, quantities) for name, members in groups.items()]
    if len(groups) < 2:
        found["notes"].append("there is nothing to compare: one method")
        return found
    baseline = _baseline(groups, spec)
    found["baseline"] = baseline
    if spec.compare_by:
        for name in spec.compare_by:
            if name not in quantities and table.models:
                if name in StudyReportSpec().compare_by or table.failed_analyses:
                    found["notes"].append(f"no model has {name.replace('_', ' ')}, so nothing is compared by it")
                    continue
                raise unknown_name("quantity", name, quantities, "report.compare_by")
        pairs = [
            _pair(name, groups[name], groups[baseline], axes, quantity, baseline)
            for name in groups
            if name != baseline
            for quantity in spec.compare_by
            if quantity in quantities
        ]
        tested = [p for p in pairs if p["effect"] is not None]
        for row, p in zip(tested, holm([p["effect"]["p"] for p in tested]), strict=True):
            row["p_holm"] = p
        found["pairs"] = [{**row, **_verdict(row, len(tested))} for row in pairs]
    found["notes"] += _budget(groups, baseline)
    return found


def label(model: Model, axes: Sequence[str]) -> str:
    """What a model is compared as."""
    own = {a: model.axes.get(a) for a in axes}
    name = [str(own.pop(k)) for k in ("arm", "optimizer") if own.get(k) is not None]
    words = [f"{k}={v}" for k, v in own.items() if v is not None and k not in ("arm", "optimizer")]
    return " ".join([*name, *words]) or model.arm


def _axes(table: Table, spec: StudyReportSpec) -> list[str]:
    known = list(dict.fromkeys(k for m in table.models for k in m.axes))
    for name in spec.compare:
        if name not in known and table.models:
            raise unknown_name("axis", name, known, "report.compare")
    return list(spec.compare) or [k for k in known if k in ("arm", "optimizer", "base", "average", *METHOD_FLAGS)]


def _baseline(groups: Mapping[str, Sequence[Model]], spec: StudyReportSpec) -> str:
    if spec.baseline is not None:
        if spec.baseline not in groups:
            raise UsageError(
                f"there is no {spec.baseline!r} to compare with",
                "report.baseline",
                f"there is: {', '.join(groups)}",
            )
        return spec.baseline
    plain = [name for name in groups if name.split()[0].lower() in (*BASES, "erm")]
    return plain[0] if plain else next(iter(groups))


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
    name: str, mine: Sequence[Model], its: Sequence[Model], axes: Sequence[str], quantity: str, baseline: str
) -> Row:
    def place(model: Model) -> tuple[Any, ...]:
        return (*(v for k, v in model.axes.items() if k not in axes), model.repetition)

    partner = {place(m): m for m in its}
    differences = [
        a - b
        for m in mine
        if place(m) in partner
        and (a := m.value(quantity)) is not None
        and (b := partner[place(m)].value(quantity)) is not None
    ]
    return {
        "name": name,
        "baseline": baseline,
        "quantity": quantity,
        "n": len(differences),
        "differences": differences,
        "higher": sum(d > 0 for d in differences),
        "effect": asdict(effect(differences)) if len(differences) >= FEWEST else None,
        "p_holm": None,
    }


def _verdict(row: Row, tests: int) -> dict[str, Any]:
    if row["effect"] is None:
        few = f"{row['n']} pairs are too few: fewer than {FEWEST} can never reach p = 0.05"
        return {"verdict": CANNOT_TELL, "because": few}
    found, p = row["effect"], row["p_holm"]
    span = "" if found["low"] is None else f", 95 % interval {found['low']:+.3g} to {found['high']:+.3g}"
    told = f"difference {found['mean']:+.3g}{span}, {row['n']} pairs, p = {p:.2g} corrected for {tests} tests"
    if p >= 0.05:
        return {"verdict": CANNOT_TELL, "because": told}
    return {"verdict": "higher" if found["mean"] > 0 else "lower", "because": told}


def _budget(groups: Mapping[str, Sequence[Model]], baseline: str) -> list[str]:
    """Gradients that a method spends for one of the baseline's (control C6)."""
    spent = {k: float(np.mean([m.record["training"]["gradient_evaluations"] for m in v])) for k, v in groups.items()}
    notes = []
    for name, count in spent.items():
        ratio = count / spent[baseline]
        if name != baseline and abs(ratio - 1) > COST:
            notes.append(f"unequal budgets: {name} spent {ratio:.2g} times the gradient evaluations of {baseline}")
    return notes

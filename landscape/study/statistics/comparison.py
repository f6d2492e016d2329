"""Methods compared with a baseline, pair by pair: the same configuration, seed and split under both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any, Protocol, TypeVar

import numpy as np

from ...base.errors import UsageError
from ...base.names import unknown_name
from ...specs.study import StudyReportSpec
from ...specs.train import BASES, METHOD_FLAGS
from ..table import Model, Table
from ..verdicts import CANNOT_TELL, EQUAL
from .paired import FEWEST, FEWEST_MEANS, crossed_effect, enough, holm, independent

Row = dict[str, Any]
LEVEL = 0.05
COST = 0.1  # budgets that differ by more are said


class Placed(Protocol):
    """A model, planned or finished: all that pairs need to know of it."""

    @property
    def arm(self) -> str:
        """Its arm or optimizer."""

    @property
    def axes(self) -> Mapping[str, Any]:
        """Value of every axis; None where it does not apply."""

    @property
    def repetition(self) -> int:
        """Which repetition of its configuration."""


M = TypeVar("M", bound=Placed)


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
    axes = _axes(table.models, spec)
    quantities = [*dict.fromkeys(k for m in table.models for k in m.outcomes)]
    quantities += [*table.measures, *table.courses, *table.baselines]
    found: dict[str, Any] = {"axes": list(axes), "baseline": None, "competitors": [], "pairs": [], "notes": []}
    found["competitors"] = [
        _summary(name + at, members, quantities)
        for at, models in _parts(table.models, spec, axes)
        for name, members in _groups(models, axes).items()
    ]
    groups = _groups(table.models, axes)
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
            _pair(name, couples, quantity, baseline, (*axes, *spec.within))
            for name, couples in _couples(table.models, spec, axes, baseline)
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
    axes = _axes(models, spec)
    groups = _groups(models, axes)
    if len(groups) < 2:
        return []
    apart = (*axes, *spec.within)
    counts = [_independent(c, apart) for _, c in _couples(models, spec, axes, _baseline(groups, spec))]
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
    return independent([_setting(m, apart) for m, _ in couples], [m.repetition for m, _ in couples])


def _setting(model: Placed, apart: Sequence[str]) -> tuple[Any, ...]:
    """Everything that a model shares with its partner but the seed."""
    return tuple(v for k, v in model.axes.items() if k not in apart)


def _too_few(counts: Sequence[int]) -> list[str]:
    """A note where even equal signs in all of so many pairs, test by test, are no finding after the correction."""
    if not counts or len(counts) * 2.0 ** (1 - max(counts)) < LEVEL:
        return []
    return [
        f"{max(counts)} independent differences and {len(counts)} comparisons can never reach p = {LEVEL:g} after "
        "the correction: take more seeds or settings, or compare by fewer quantities"
    ]


def _groups(models: Sequence[M], axes: Sequence[str]) -> dict[str, list[M]]:
    """Models by what they are compared as."""
    groups: dict[str, list[M]] = {}
    for model in models:
        groups.setdefault(label(model, axes), []).append(model)
    return groups


def _parts(models: Sequence[M], spec: StudyReportSpec, axes: Sequence[str]) -> Iterator[tuple[str, Sequence[M]]]:
    """What is compared apart: all models, or those at each value of ``spec.within``, with words for it.

    A model that an axis says nothing to, like plain training to a radius, stands beside all of its values.
    """
    if not spec.within:
        yield "", models
        return
    known = [k for k in _known(models) if k not in axes]
    for name in spec.within:
        if name not in known and models:
            raise unknown_name("axis", name, known, "report.within")
    values = [dict.fromkeys(v for m in models if (v := m.axes.get(k)) is not None) for k in spec.within]
    for chosen in product(*values):
        here = dict(zip(spec.within, chosen, strict=True))
        own = [m for m in models if all(m.axes.get(k) in (v, None) for k, v in here.items())]
        yield f" ({', '.join(f'{k}={v}' for k, v in here.items())})", own


def _couples(
    models: Sequence[M], spec: StudyReportSpec, axes: Sequence[str], baseline: str
) -> Iterator[tuple[str, list[tuple[M, M]]]]:
    """Every competitor, with its models beside those of the baseline at the same other settings and seeds."""

    def place(model: M) -> tuple[Any, ...]:
        return (*_setting(model, (*axes, *spec.within)), model.repetition)

    for at, own in _parts(models, spec, axes):
        groups = _groups(own, axes)
        partner = {place(m): m for m in groups.get(baseline, ())}
        for name, members in groups.items():
            if name != baseline and partner:
                yield name + at, [(m, partner[place(m)]) for m in members if place(m) in partner]


def label(model: Placed, axes: Sequence[str]) -> str:
    """What a model is compared as."""
    own = {a: model.axes.get(a) for a in axes}
    name = [str(own.pop(k)) for k in ("arm", "optimizer") if own.get(k) is not None]
    words = [f"{k}={v}" for k, v in own.items() if v is not None and k not in ("arm", "optimizer")]
    return " ".join([*name, *words]) or model.arm


def _known(models: Sequence[Placed]) -> list[str]:
    return list(dict.fromkeys(k for m in models for k in m.axes))


def _axes(models: Sequence[Placed], spec: StudyReportSpec) -> list[str]:
    known = _known(models)
    for name in spec.compare:
        if name not in known and models:
            raise unknown_name("axis", name, known, "report.compare")
    return list(spec.compare) or [k for k in known if k in ("arm", "optimizer", "base", "average", *METHOD_FLAGS)]


def _baseline(groups: Mapping[str, Sequence[Placed]], spec: StudyReportSpec) -> str:
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
    name: str, couples: Sequence[tuple[Model, Model]], quantity: str, baseline: str, apart: Sequence[str]
) -> Row:
    known = [
        (a - b, _setting(mine, apart), mine.repetition)
        for mine, its in couples
        if (a := mine.value(quantity)) is not None and (b := its.value(quantity)) is not None
    ]
    differences = [difference for difference, _, _ in known]
    settings, seeds = [s for _, s, _ in known], [r for _, _, r in known]
    n, by = independent(settings, seeds)
    return {
        "name": name,
        "baseline": baseline,
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


def _verdict(row: Row, tests: int) -> dict[str, Any]:
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
            notes.append(f"unequal budgets: {name} spent {ratio:.2g} times the gradient evaluations of {baseline}")
    return notes

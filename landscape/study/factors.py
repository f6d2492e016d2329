"""Which hyper-parameters a study varies, and which of them exist only under some values of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Factors = Mapping[str, Sequence[Any]]  # name -> a value per model; None where the hyper-parameter does not apply


def varying(factors: Factors) -> dict[str, list[object]]:
    """The factors that take more than one value."""
    return {name: list(values) for name, values in factors.items() if len(set(values)) > 1}


def nested(factors: Factors) -> dict[str, set[str]]:
    """For each factor the ones that apply only under some of its values: rho under sam, not under sgd.

    Models that differ in the outer factor may differ in the inner ones: they have no value to share.
    """
    found: dict[str, set[str]] = {}
    for outer, levels in factors.items():
        found[outer] = {
            inner for inner, values in factors.items() if inner != outer and _applies_to_some(levels, values)
        }
    return found


def _applies_to_some(levels: Sequence[object], values: Sequence[object]) -> bool:
    """Whether under some levels all values are None and under the others none is."""
    seen: dict[Any, set[bool]] = {}
    for level, value in zip(levels, values, strict=True):
        seen.setdefault(level, set()).add(value is None)
    kinds = list(seen.values())
    return {True} in kinds and {False} in kinds and all(len(k) == 1 for k in kinds)


def groups(factors: Factors, name: str) -> dict[tuple[Any, ...], list[int]]:
    """Models that differ in one factor only (and in what is nested in it), as lists of positions."""
    inner = nested(factors)[name]
    others = [values for other, values in factors.items() if other != name and other not in inner]
    found: dict[tuple[Any, ...], list[int]] = {}
    for place in range(len(factors[name])):
        found.setdefault(tuple(values[place] for values in others), []).append(place)
    return {k: v for k, v in found.items() if len({factors[name][i] for i in v}) > 1}

"""Which models are compared with which: the same configuration, seed and split under two methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Protocol, TypeVar

from ...base.errors import UsageError
from ...base.names import unknown_name
from ...specs.methods import METHOD_FLAGS
from ...specs.study import StudyReportSpec
from ...specs.training import BASES
from ..table import Model


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


def groups_of(models: Sequence[M], axes: Sequence[str]) -> dict[str, list[M]]:
    """Models by what they are compared as."""
    groups: dict[str, list[M]] = {}
    for model in models:
        groups.setdefault(label(model, axes), []).append(model)
    return groups


def method_at(name: str, at: Mapping[str, object]) -> str:
    """A method, and at which settings."""
    return f"{name} ({words(at)})" if at else name


def words(at: Mapping[str, object]) -> str:
    """Settings as text."""
    return ", ".join(f"{k}={v}" for k, v in at.items())


def parts_of(
    models: Sequence[M], spec: StudyReportSpec, axes: Sequence[str]
) -> Iterator[tuple[Mapping[str, object], Sequence[M]]]:
    """What is compared apart: all models, or those at each value of ``spec.within``, with these values.

    A model that an axis says nothing to, like plain training to a radius, stands beside all of its values.
    """
    if not spec.within:
        yield {}, models
        return
    known = [k for k in axis_names(models) if k not in axes]
    for name in spec.within:
        if name not in known and models:
            raise unknown_name("axis", name, known, "report.within")
    values = [dict.fromkeys(v for m in models if (v := m.axes.get(k)) is not None) for k in spec.within]
    for chosen in product(*values):
        here = dict(zip(spec.within, chosen, strict=True))
        own = [m for m in models if all(m.axes.get(k) in (v, None) for k, v in here.items())]
        yield here, own


def couples_of(
    models: Sequence[M], spec: StudyReportSpec, axes: Sequence[str], baseline: str
) -> Iterator[tuple[str, Mapping[str, object], list[tuple[M, M]]]]:
    """Every competitor, where, and its models beside those of the baseline at the same other settings and seeds."""

    def place(model: M) -> tuple[Any, ...]:
        return (*setting_of(model, (*axes, *spec.within)), model.repetition)

    for at, own in parts_of(models, spec, axes):
        groups = groups_of(own, axes)
        partner = {place(m): m for m in groups.get(baseline, ())}
        for name, members in groups.items():
            if name != baseline and partner:
                yield name, at, [(m, partner[place(m)]) for m in members if place(m) in partner]


def label(model: Placed, axes: Sequence[str]) -> str:
    """What a model is compared as."""
    own = {a: model.axes.get(a) for a in axes}
    name = [str(own.pop(k)) for k in ("arm", "optimizer") if own.get(k) is not None]
    words = [f"{k}={v}" for k, v in own.items() if v is not None and k not in ("arm", "optimizer")]
    return " ".join([*name, *words]) or model.arm


def axis_names(models: Sequence[Placed]) -> list[str]:
    """All axes that a model has."""
    return list(dict.fromkeys(k for m in models for k in m.axes))


def axes_of(models: Sequence[Placed], spec: StudyReportSpec) -> list[str]:
    """The axes whose values are compared: ``report.compare``, or the arm, the optimizer and its own settings."""
    known = axis_names(models)
    for name in spec.compare:
        if name not in known and models:
            raise unknown_name("axis", name, known, "report.compare")
    return list(spec.compare) or [k for k in known if k in ("arm", "optimizer", "base", "average", *METHOD_FLAGS)]


def baseline_of(groups: Mapping[str, Sequence[Placed]], spec: StudyReportSpec) -> str:
    """What all others are compared with: ``report.baseline``, or plain training, or the first."""
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


def setting_of(model: Placed, apart: Sequence[str]) -> tuple[object, ...]:
    """Everything that a model shares with its partner but the seed."""
    return tuple(v for k, v in model.axes.items() if k not in apart)


def values_of(
    couples: Sequence[tuple[Model, Model]], quantity: str, apart: Sequence[str]
) -> list[tuple[float, float, tuple[object, ...], int]]:
    """Difference, the baseline's value, setting and seed of every pair in which both have the quantity."""
    return [
        (a - b, b, setting_of(mine, apart), mine.repetition)
        for mine, its in couples
        if (a := mine.value(quantity)) is not None and (b := its.value(quantity)) is not None
    ]

"""From the arms, grid and draws of an experiment file to trainings: the cells of a study."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ..base.errors import UsageError
from ..base.files import stable_hash
from ..base.names import unknown_name
from ..registry import OPTIMIZERS
from .methods import METHOD_FLAGS
from .seeds import SeedsSpec
from .tables import placed, table_of, tables_of
from .train import TrainSpec
from .training import BASES

DISTRIBUTIONS = ("choice", "uniform", "log_uniform", "integer", "log_integer")
# What a pretraining shares with the training that follows, unless [pretrain] says otherwise.
_SAME_AS_AFTER = (
    "data",
    "data_arg",
    "model",
    "model_arg",
    "loss",
    "holdout",
    "seed",
    "order_seed",
    "dtype",
    "device",
)


@dataclass(frozen=True)
class Cell:
    """One model of the study.

    Attributes:
        name: Its folder: arm and hash of the training spec.
        spec: A single training.
        arm: Name of the arm, or of the optimizer.
        axes: Value of every axis, None where it does not apply.
        repetition: Which repetition of its configuration it is.
        start: The training from whose last weights it starts; None: from weights of its own.
    """

    name: str
    spec: TrainSpec
    arm: str
    axes: Mapping[str, Any]
    repetition: int
    start: TrainSpec | None = None

    @property
    def configuration(self) -> str:
        """What all repetitions share, as text."""
        return " ".join(f"{k}={v}" for k, v in self.axes.items() if v is not None) or self.arm


def cells_of(content: Mapping[str, object], seeds: SeedsSpec, where: str) -> list[Cell]:
    """Every model of a study: arms x grid x draws x repetitions, each different training once.

    Raises:
        UsageError: For settings in the wrong place, in two places, or that no optimizer uses.
    """
    train = table_of(content, "train", where)
    for key, fix in (
        ("seed", "use [seeds]"),
        ("order_seed", "use [seeds] order"),
        ("leave_one_out", 'use [grid] holdout = [["A"], ["B"]]'),
        ("equal_cost", "add an arm with twice the epochs"),
    ):
        if key in train:
            raise UsageError(f"{key} does not belong into a study's [train]", where, fix)
    pretrain = table_of(content, "pretrain", where)
    arms = _arms(content, where)
    grid, draws = _grid(content, where), _draws(content, where)
    _refuse_repeated(train, arms, grid, draws, where)
    made: dict[str, Cell] = {}
    for repetition, (init, order, split) in enumerate(seeds.repetitions()):
        for (name, arm), draw in product(arms, draws):
            for values in product(*grid.values()):
                axes = dict(zip(grid, values, strict=True))
                settings = {**train, **{k: v for k, v in arm.items() if k != "name"}, **axes, **draw}
                place = f"{where}{f', arm {name!r}' if name else ''}"
                spec = _training(settings, arm, init, order, split, place)
                shown = {"arm": name} if name else {}
                shown |= {k: _shown(spec, k) for k in [*axes, *draw]}
                start = _pretraining(spec, pretrain, where) if pretrain else None
                label = name or spec.optimizer[0]
                slug = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower()[:24] or "model"
                key = stable_hash([spec.lasting_key(), start.lasting_key()]) if start else spec.lasting_key()
                cell = Cell(f"{slug}-{key[:10]}", spec, label, shown, repetition, start)
                made.setdefault(cell.name, cell)  # SGD at three radii is one SGD
    _refuse_unused(train, grid, draws, made.values(), where)
    return list(made.values())


def _training(
    settings: dict[str, Any],
    arm: Mapping[str, Any],
    init: int,
    order: int | None,
    split: int | None,
    where: str,
) -> TrainSpec:
    """The single training of a cell, without settings that its optimizer does not have, unless its arm asks."""
    optimizer = settings.get("optimizer", "sgd")
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", str(optimizer), OPTIMIZERS, where)
    kept = {
        k: v for k, v in settings.items() if k not in METHOD_FLAGS or k in OPTIMIZERS[optimizer].options or k in arm
    }
    base = optimizer if optimizer in BASES else settings.get("base", "sgd")
    if optimizer in BASES and "base" not in arm:
        kept.pop("base", None)
    if base != "sgd" and "momentum" not in arm:
        kept.pop("momentum", None)
    if split is not None:
        given = [a for a in kept.get("data_arg", []) if not str(a).startswith("split_seed=")]
        kept["data_arg"] = [*given, f"split_seed={split}"]
    apart = {} if order is None or order == init else {"order_seed": order}
    try:
        spec = TrainSpec.from_dict({**kept, "optimizer": [optimizer], "seed": [init], **apart}, where)
    except UsageError as error:
        raise error if where in error.where else placed(error, where) from None
    return next(spec.runs())


def _pretraining(spec: TrainSpec, changes: Mapping[str, object], where: str) -> TrainSpec:
    """The training that comes before ``spec``: the same network, data, held-out domains and seed."""
    place = f"{where}, [pretrain]"
    for key in ("seed", "order_seed", "model", "model_arg"):
        if key in changes:
            raise UsageError(
                f"{key} does not belong into [pretrain]", place, "it is that of the training that follows"
            )
    if spec.init is not None:
        raise UsageError("init stands beside [pretrain]", place, "start from one of them")
    same = {k: getattr(spec, k) for k in _SAME_AS_AFTER}
    try:
        return next(TrainSpec.from_dict({**same, **changes}, place).runs())
    except UsageError as error:
        raise error if place in error.where else placed(error, place) from None


def _arms(content: Mapping[str, object], where: str) -> list[tuple[str, dict[str, object]]]:
    tables = tables_of(content, "arms", where)
    named = []
    for i, arm in enumerate(tables):
        name = arm.get("name")
        if not isinstance(name, str) or not name.strip():
            raise UsageError("an arm has no name", f"{where}, arms[{i}]", 'add name = "..."')
        if "seed" in arm or "order_seed" in arm:
            raise UsageError("an arm has no seed of its own", f"{where}, arm {name!r}", "use [seeds]")
        named.append((name, arm))
    names = [n for n, _ in named]
    if len(set(names)) < len(names):
        raise UsageError(f"two arms have the same name: {', '.join(names)}", where, "name each differently")
    return named or [("", {})]


def _grid(content: Mapping[str, object], where: str) -> dict[str, list[Any]]:
    grid = table_of(content, "grid", where)
    known = [f.name for f in fields(TrainSpec) if f.name not in ("seed", "order_seed")]
    for key, values in grid.items():
        if key not in known:
            raise unknown_name("key", key, known, f"{where}, [grid]")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{key} = {values!r}", f"{where}, [grid]", "expected a list of values")
        if len({repr(v) for v in values}) < len(values):
            raise UsageError(f"{key} has repeated values", f"{where}, [grid]", "give each value once")
    return grid


def _draws(content: Mapping[str, object], where: str) -> list[dict[str, Any]]:
    """The random draws; every arm and grid cell gets the same ones, so that budgets are equal and pairs exist."""
    import random

    table, place = table_of(content, "random", where), f"{where}, [random]"
    if not table:
        return [{}]
    count, seed = table.pop("draws", None), table.pop("seed", 0)
    if not isinstance(count, int) or count < 1 or not isinstance(seed, int):
        raise UsageError(f"draws = {count!r}, seed = {seed!r}", place, "expected whole numbers, draws at least 1")
    known = [f.name for f in fields(TrainSpec) if f.name not in ("seed", "order_seed")]
    for key, how in table.items():
        if key not in known:
            raise unknown_name("key", key, ["draws", "seed", *known], place)
        if not isinstance(how, Mapping) or len(how) != 1 or next(iter(how)) not in DISTRIBUTIONS:
            raise UsageError(f"{key} = {how!r}", place, f"expected {{ {' | '.join(DISTRIBUTIONS)} = [...] }}")
        _check_range(key, *next(iter(how.items())), place)
    drawn = []
    for k in range(count):
        # One generator per draw and key: adding a key or more draws leaves the others as they are.
        drawn.append({key: _drawn(how, random.Random(f"{seed} {k} {key}")) for key, how in table.items()})
    return drawn


def _check_range(key: str, kind: str, values: Any, where: str) -> None:
    numbers = isinstance(values, list) and all(isinstance(v, (int, float)) for v in values)
    if kind == "choice":
        fine = isinstance(values, list) and len(values) > 0
    else:
        fine = numbers and len(values) == 2 and values[0] < values[1] and (values[0] > 0 or "log" not in kind)
    if not fine:
        raise UsageError(f"{key}: {kind} = {values!r}", where, "expected [low, high], positive for a logarithm")


def _drawn(how: Mapping[str, Any], generator: Any) -> object:
    import math

    ((kind, values),) = how.items()
    if kind == "choice":
        return generator.choice(values)
    low, high = values
    if kind == "integer":
        return generator.randint(int(low), int(high))
    if kind == "uniform":
        return float(f"{generator.uniform(low, high):.6g}")
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return round(value) if kind == "log_integer" else float(f"{value:.6g}")


def _refuse_repeated(
    train: Mapping[str, object],
    arms: Sequence[tuple[str, Mapping[str, object]]],
    grid: Mapping[str, object],
    draws: Sequence[Mapping[str, object]],
    where: str,
) -> None:
    """A setting in two places would silently be one of them."""
    del train  # what all share may be overridden
    for key in grid:
        if key in draws[0]:
            raise UsageError(f"{key} stands in [grid] and in [random]", where, "leave it in one of them")
        holders = [name for name, arm in arms if key in arm]
        if holders:
            raise UsageError(f"{key} stands in [grid] and in arm {holders[0]!r}", where, "leave it in one of them")
    for key in draws[0]:
        holders = [name for name, arm in arms if key in arm]
        if holders:
            raise UsageError(f"{key} stands in [random] and in arm {holders[0]!r}", where, "leave it in one of them")


def _refuse_unused(
    train: Mapping[str, object],
    grid: Mapping[str, object],
    draws: Sequence[Mapping[str, object]],
    cells: Any,
    where: str,
) -> None:
    used = {option for cell in cells for option in OPTIMIZERS[cell.spec.optimizer[0]].options}
    for key in (*train, *grid, *draws[0]):
        if key in METHOD_FLAGS and key not in used:
            owners = ", ".join(o for o in OPTIMIZERS if key in OPTIMIZERS[o].options)
            raise UsageError(f"{key} is used by none of the optimizers", where, f"it belongs to {owners}")


def _shown(spec: TrainSpec, name: str) -> object:
    """The value of an axis as text or number; None where the optimizer has no such setting."""
    value = getattr(spec, name)
    if name in METHOD_FLAGS and name not in OPTIMIZERS[spec.optimizer[0]].options:
        return None
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return ("yes" if value else "no") if isinstance(value, bool) else value


def spread(cells: Sequence[Cell], count: int | None) -> Iterator[Cell]:
    """``count`` of the cells, evenly spread; all for None."""
    if count is None or count >= len(cells):
        yield from cells
        return
    for k in range(count):
        yield cells[(k * len(cells)) // count]

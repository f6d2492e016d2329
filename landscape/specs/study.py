"""What an experiment file says: trainings, their seeds, what is measured of each, and what is asked in the end.

name = "radius"
[train]              # fields of `TrainSpec`, shared by all trainings
[pretrain]           # fields of `TrainSpec`: a training for each repetition, from whose weights its others start
[[arms]]             # methods that are compared: a name, and fields of `TrainSpec`
[grid]               # field = [values]: every combination
[random]             # draws = N; field = { log_uniform = [a, b] }: the same draws for every arm and grid cell
[seeds]              # init, order, split, measurement
[[analyses]]         # kind, and fields of its spec and of `ProblemSpec`
[report]             # which outcomes, which comparison
[tiny]               # what ``--size tiny`` changes of all this
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import stable_hash
from ..names import unknown_name
from ..registry import MEASURES, OPTIMIZERS
from .analysis import DomainsSpec, HessianSpec, SharpnessSpec
from .base import Spec
from .problem import ProblemSpec
from .surface import SurfaceSpec
from .train import BASES, METHOD_FLAGS, TrainSpec

ANALYSIS_SPECS: Mapping[str, type[Spec]] = {
    "hessian": HessianSpec,
    "sharpness": SharpnessSpec,
    "surface": SurfaceSpec,
    "domains": DomainsSpec,
}
OUTCOMES = ("gap_loss", "gap_error", "unseen_gap_loss", "unseen_gap_error")
DISTRIBUTIONS = ("choice", "uniform", "log_uniform", "integer", "log_integer")
_PARTS = ("train", "pretrain", "arms", "grid", "random", "seeds", "analyses", "report", "tiny")
_TEXTS = ("name", "title", "claim", "refuted_by", "decides")
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
_START = "distance-from-start"  # the measure that needs the weights at step 0


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{key} = {value}", key, f"expected a whole number >= {least}")


@dataclass(frozen=True, kw_only=True)
class SeedsSpec(Spec):
    """Seeds, kept apart. The k-th repetition takes the k-th of each list; a list of one serves all."""

    init: tuple[int, ...] = (0,)
    """Initial weights, noise in labels and domains, augmentation, dropout."""
    order: tuple[int, ...] = ()
    """Order of the training examples (default: as init)."""
    split: tuple[int, ...] = ()
    """``split_seed`` of the data (default: the data's own)."""
    measurement: tuple[int, ...] = (0,)
    """Subsets, probes and partitions; every analysis is repeated with each of them."""

    def __post_init__(self) -> None:
        count = self.count
        for name in ("init", "order", "split", "measurement"):
            values = getattr(self, name)
            if name in ("init", "measurement") and not values:
                raise UsageError(f"{name} is empty", f"seeds.{name}", "give at least one seed")
            for value in values:
                _at_least(f"seeds.{name}", value, 0)
            if name != "measurement" and len(values) not in (0, 1, count):
                raise UsageError(
                    f"{name} has {len(values)} seeds and another list {count}",
                    f"seeds.{name}",
                    "give lists of one length, or a single seed for all repetitions",
                )
        if len(set(self.repetitions())) < count:
            raise UsageError("two repetitions have the same seeds", "seeds", "give each seed once")

    @property
    def count(self) -> int:
        """How many repetitions of every configuration there are."""
        return max(len(self.init), len(self.order), len(self.split))

    def repetitions(self) -> list[tuple[int, int | None, int | None]]:
        """Seeds (init, order, split) of every repetition; None: not set apart."""

        def at(values: Sequence[int], k: int) -> int | None:
            return None if not values else values[k] if len(values) > 1 else values[0]

        return [(at(self.init, k) or 0, at(self.order, k), at(self.split, k)) for k in range(self.count)]


@dataclass(frozen=True, kw_only=True)
class StudyReportSpec(Spec):
    """What is asked of the finished models."""

    outcomes: tuple[str, ...] = OUTCOMES
    """What measures are correlated with; outcomes that the data does not have are left out, and said."""
    compare: tuple[str, ...] = ()
    """Axes whose values are compared pair by pair (default: the arm, the optimizer and its own settings)."""
    within: tuple[str, ...] = ()
    """Axes at each of whose values the comparison is made apart (default: over all of them together)."""
    compare_by: tuple[str, ...] = ("test_accuracy", "unseen_accuracy")
    """Outcomes and measures by which they are compared."""
    baseline: str | None = None
    """What all others are compared with (default: the first of sgd, adam, adamw, or the first of all)."""
    bootstrap: int = 2000
    """Resamples of the configurations."""
    permutations: int = 2000
    """Permutations of the gaps, the negative control."""
    seed: int = 0
    """Seed of both."""

    def __post_init__(self) -> None:
        _at_least("report.bootstrap", self.bootstrap, 100)
        _at_least("report.permutations", self.permutations, 20)
        _at_least("report.seed", self.seed, 0)


@dataclass(frozen=True)
class Analysis:
    """One analysis of every model.

    Attributes:
        kind: ``sharpness``, ``hessian``, ``domains`` or ``surface``.
        spec: What to compute.
        problem: Which examples, precision, domains; its seed is replaced by each measurement seed.
        checkpoint: Words after the ``@`` of a target: ``last``, ``start``, ``best``, ``selected``, ``step=N``, or
            ``all`` checkpoints.
        label: Put behind the names of its values, to tell two analyses of one kind apart.
        models: Analyse only so many models, spread over the study (controls and surfaces); None: all.
        seeds: Its own measurement seeds; None: those of the study.
    """

    kind: str
    spec: Spec
    problem: ProblemSpec
    checkpoint: str = "last"
    label: str = ""
    models: int | None = None
    seeds: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "spec": self.spec.to_dict(), "problem": self.problem.to_dict()}

    def key(self, seed: int) -> str:
        """What its values of one measurement seed are kept under."""
        return stable_hash(
            [
                self.kind,
                self.spec.lasting_key(),
                self.problem.lasting_key(),
                self.checkpoint,
                self.label,
                seed,
            ]
        )[:16]


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


@dataclass(frozen=True)
class Experiment:
    """A whole experiment file, read and checked."""

    name: str
    title: str
    claim: str
    refuted_by: str
    decides: str
    size: str
    cells: tuple[Cell, ...]
    analyses: tuple[Analysis, ...]
    seeds: SeedsSpec
    report: StudyReportSpec
    stop_at: float | None
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path | str, *, size: str = "full", changes: Sequence[str] = ()) -> Experiment:
        """Read an experiment file.

        Args:
            path: The file.
            size: ``full``, or ``tiny`` for what its ``[tiny]`` says.
            changes: ``part.key=value``, values in TOML, that override the file.

        Raises:
            UsageError: For anything that is wrong, naming file and key.
        """
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read the experiment: {error.strerror}", str(path), "check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the experiment is no TOML: {error}", str(path), "mend the file") from None
        return cls.from_content(content, str(path), size=size, changes=changes)

    @classmethod
    def from_content(
        cls, content: Mapping[str, Any], where: str, *, size: str = "full", changes: Sequence[str] = ()
    ) -> Experiment:
        """Understand the content of an experiment file; arguments and errors as in `read`."""
        content = dict(content)
        for key in content:
            if key not in (*_TEXTS, *_PARTS):
                raise unknown_name("key", key, (*_TEXTS, *_PARTS), where)
        smaller = content.pop("tiny", None)
        if size == "tiny":
            if not isinstance(smaller, Mapping):
                raise UsageError("the experiment has no tiny size", where, "add [tiny], or leave out --size")
            content = _merged(content, smaller)
        for text in changes:
            content = _merged(content, _change(text))
        texts = {k: _text(content, k, where) for k in _TEXTS}
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", texts["name"]):
            raise UsageError(
                f"name = {content.get('name')!r}", where, "give the study a name of letters, digits, - and _"
            )
        train = _table(content, "train", where)
        analyses = tuple(
            _analysis(a, f"{where}, analyses[{i}]") for i, a in enumerate(_tables(content, "analyses", where))
        )
        if needs_start(analyses) and "save_every" not in train:
            train = {**train, "save_every": f"{10**9}steps"}  # step 0 and the end
        seeds = SeedsSpec.from_dict(_table(content, "seeds", where), f"{where}, [seeds]")
        report = StudyReportSpec.from_dict(_table(content, "report", where), f"{where}, [report]")
        cells = _cells({**content, "train": train}, seeds, where)
        return cls(
            **{**texts, "title": texts["title"] or texts["name"]},
            size=size,
            cells=tuple(cells),
            analyses=analyses,
            seeds=seeds,
            report=report,
            stop_at=train.get("stop_at"),
            content=content,
        )


def needs_start(analyses: Sequence[Analysis]) -> bool:
    """Whether an analysis looks at the weights that training started from."""
    return any(
        a.checkpoint == "start" or (isinstance(a.spec, SharpnessSpec) and _START in a.spec.measure) for a in analyses
    )


# -- parts of the file ---------------------------------------------------------------------------------------------


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; tables are merged key by key, lists are replaced."""
    made = dict(base)
    for key, value in over.items():
        inside = made.get(key)
        made[key] = _merged(inside, value) if isinstance(inside, Mapping) and isinstance(value, Mapping) else value
    return made


def _change(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+(\.[A-Za-z_-]+)*", key.strip()):
        raise UsageError(f"{text!r} changes nothing", "--set", "write --set train.epochs=3")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return tomllib.loads(f"{key} = '''{value}'''")


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise UsageError(f"{key} = {value!r} has the wrong type", where, "expected text")
    return " ".join(value.split())


def _table(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, Mapping):
        raise UsageError(f"{key} = {value!r} has the wrong type", where, f"expected a table [{key}]")
    return {str(k).replace("-", "_"): v for k, v in value.items()}


def _tables(content: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
        raise UsageError(f"{key} has the wrong type", where, f"expected tables [[{key}]]")
    return [{str(k).replace("-", "_"): v for k, v in one.items()} for one in value]


def _analysis(table: dict[str, Any], where: str) -> Analysis:
    kind = table.pop("kind", None)
    if kind not in ANALYSIS_SPECS:
        raise unknown_name("kind", str(kind), ANALYSIS_SPECS, where)
    own = {f.name for f in fields(Analysis)} - {"kind", "spec", "problem"}
    of_spec = {f.name for f in fields(ANALYSIS_SPECS[kind])}
    of_problem = {f.name for f in fields(ProblemSpec)} - {"seed", "model", "loss", "model_arg"}
    for key in table:
        if key == "seed":
            raise UsageError("an analysis has no seed of its own", where, "use seeds = [...], or [seeds] measurement")
        if key not in own | of_spec | of_problem:
            raise unknown_name("key", key, sorted(own | of_spec | of_problem), where)
    try:
        spec = ANALYSIS_SPECS[kind].from_dict({k: v for k, v in table.items() if k in of_spec}, where)
        problem = ProblemSpec.from_dict({k: v for k, v in table.items() if k in of_problem}, where)
    except UsageError as error:
        raise error if where in error.where else _placed(error, where) from None
    for measure in spec.measure if isinstance(spec, SharpnessSpec) else ():
        MEASURES[measure]
    checkpoint, label = table.get("checkpoint", "last"), table.get("label", "")
    if not isinstance(checkpoint, str) or not re.fullmatch(r"last|start|best|selected|all|step=\d+", checkpoint):
        raise UsageError(f"checkpoint = {checkpoint!r}", where, "expected last, start, best, selected, step=N or all")
    if not isinstance(label, str):
        raise UsageError(f"label = {label!r} has the wrong type", where, "expected text")
    models, seeds = table.get("models"), table.get("seeds")
    if models is not None and (not isinstance(models, int) or models < 1):
        raise UsageError(f"models = {models!r}", where, "expected how many models to analyse, at least 1")
    if seeds is not None and not (isinstance(seeds, list) and seeds and all(isinstance(s, int) for s in seeds)):
        raise UsageError(f"seeds = {seeds!r}", where, "expected a list of whole numbers")
    return Analysis(kind, spec, problem, checkpoint, label, models, tuple(seeds) if seeds else None)


# -- from arms and axes to trainings -------------------------------------------------------------------------------


def _cells(content: Mapping[str, Any], seeds: SeedsSpec, where: str) -> list[Cell]:
    train = _table(content, "train", where)
    for key, fix in (
        ("seed", "use [seeds]"),
        ("order_seed", "use [seeds] order"),
        ("leave_one_out", 'use [grid] holdout = [["A"], ["B"]]'),
        ("equal_cost", "add an arm with twice the epochs"),
    ):
        if key in train:
            raise UsageError(f"{key} does not belong into a study's [train]", where, fix)
    pretrain = _table(content, "pretrain", where)
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
        raise error if where in error.where else _placed(error, where) from None
    return next(spec.runs())


def _pretraining(spec: TrainSpec, changes: Mapping[str, Any], where: str) -> TrainSpec:
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
        raise error if place in error.where else _placed(error, place) from None


def _placed(error: UsageError, where: str) -> UsageError:
    return UsageError(error.what, f"{where}, {error.where}" if error.where else where, error.fix)


def _arms(content: Mapping[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    tables = _tables(content, "arms", where)
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


def _grid(content: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    grid = _table(content, "grid", where)
    known = [f.name for f in fields(TrainSpec) if f.name not in ("seed", "order_seed")]
    for key, values in grid.items():
        if key not in known:
            raise unknown_name("key", key, known, f"{where}, [grid]")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{key} = {values!r}", f"{where}, [grid]", "expected a list of values")
        if len({repr(v) for v in values}) < len(values):
            raise UsageError(f"{key} has repeated values", f"{where}, [grid]", "give each value once")
    return grid


def _draws(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The random draws; every arm and grid cell gets the same ones, so that budgets are equal and pairs exist."""
    import random

    table, place = _table(content, "random", where), f"{where}, [random]"
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


def _drawn(how: Mapping[str, Any], generator: Any) -> Any:
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
    train: Mapping[str, Any],
    arms: Sequence[tuple[str, Mapping[str, Any]]],
    grid: Mapping[str, Any],
    draws: Sequence[Mapping[str, Any]],
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
    train: Mapping[str, Any],
    grid: Mapping[str, Any],
    draws: Sequence[Mapping[str, Any]],
    cells: Any,
    where: str,
) -> None:
    used = {option for cell in cells for option in OPTIMIZERS[cell.spec.optimizer[0]].options}
    for key in (*train, *grid, *draws[0]):
        if key in METHOD_FLAGS and key not in used:
            owners = ", ".join(o for o in OPTIMIZERS if key in OPTIMIZERS[o].options)
            raise UsageError(f"{key} is used by none of the optimizers", where, f"it belongs to {owners}")


def _shown(spec: TrainSpec, name: str) -> Any:
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

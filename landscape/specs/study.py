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
[[claims]]           # fields of `ClaimSpec`: what is asked, and what would refute it
[tiny]               # what ``--size tiny`` changes of all this
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from ..base.files import stable_hash
from ..base.names import unknown_name
from ..registry import MEASURES
from .analysis import SharpnessSpec
from .base import Spec
from .by_analysis import ANALYSIS_SPECS
from .cells import Cell, cells_of
from .claims import ClaimSpec, claims_of, refutation
from .problem import ProblemSpec
from .seeds import SeedsSpec
from .tables import at_least, change, merged, placed, table_of, tables_of, text_of

OUTCOMES = ("gap_loss", "gap_error", "unseen_gap_loss", "unseen_gap_error")
_PARTS = ("train", "pretrain", "arms", "grid", "random", "seeds", "analyses", "report", "claims", "tiny")
_TEXTS = ("name", "title", "claim", "refuted_by", "decides")
_START = "distance-from-start"  # the measure that needs the weights at step 0


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
        at_least("report.bootstrap", self.bootstrap, 100)
        at_least("report.permutations", self.permutations, 20)
        at_least("report.seed", self.seed, 0)


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
    claims: tuple[ClaimSpec, ...]
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
        cls, content: Mapping[str, object], where: str, *, size: str = "full", changes: Sequence[str] = ()
    ) -> Experiment:
        """Understand the content of an experiment file; arguments and errors as in `read`."""
        content = dict(content)
        for key in content:
            if key not in (*_TEXTS, *_PARTS):
                raise unknown_name("key", key, (*_TEXTS, *_PARTS), where)
        smaller = content.pop("tiny", None)
        if size == "tiny":
            if not isinstance(smaller, Mapping):
                raise UsageError("the experiment has no tiny size", where, "add [tiny], or leave out `size=`")
            content = merged(content, smaller)
        for text in changes:
            content = merged(content, change(text))
        texts = {k: text_of(content, k, where) for k in _TEXTS}
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", texts["name"]):
            raise UsageError(
                f"name = {content.get('name')!r}", where, "give the study a name of letters, digits, - and _"
            )
        train = table_of(content, "train", where)
        analyses = tuple(
            _analysis(a, f"{where}, analyses[{i}]") for i, a in enumerate(tables_of(content, "analyses", where))
        )
        if needs_start(analyses) and "save_every" not in train:
            train = {**train, "save_every": f"{10**9}steps"}  # step 0 and the end
        seeds = SeedsSpec.from_dict(table_of(content, "seeds", where), f"{where}, [seeds]")
        report = StudyReportSpec.from_dict(table_of(content, "report", where), f"{where}, [report]")
        cells = cells_of({**content, "train": train}, seeds, where)
        claims = claims_of(content, where)
        texts["refuted_by"] = texts["refuted_by"] or refutation(claims)
        return cls(
            **{**texts, "title": texts["title"] or texts["name"]},
            size=size,
            cells=tuple(cells),
            analyses=analyses,
            seeds=seeds,
            report=report,
            claims=claims,
            stop_at=train.get("stop_at"),
            content=content,
        )


def needs_start(analyses: Sequence[Analysis]) -> bool:
    """Whether an analysis looks at the weights that training started from."""
    return any(
        a.checkpoint == "start" or (isinstance(a.spec, SharpnessSpec) and _START in a.spec.measure) for a in analyses
    )


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
        raise error if where in error.where else placed(error, where) from None
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

"""What each analysis of one target needs: from its problem and spec to a `Computation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..base.code_files import version
from ..base.files import content_hash
from ..curvature.edges import edges_of_stability
from ..curvature.lanczos.journal import journal_name
from ..data.examples import Examples
from ..problem.fingerprint import fingerprint
from ..problem.problem import Problem
from ..registry import ANALYSES, MEASURES
from ..results.result import Result
from ..results.target import Target
from ..runtime.distributed import rank_and_world_size
from ..specs import DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec, Spec, SurfaceSpec
from ..specs.analysis import OF_GRADIENTS
from ..surfaces.auxiliary_problems import auxiliary_problems, identity_parts
from ..surfaces.evaluate.auto_range import Reach
from ..weights.checkpoint import read_weights
from ..weights.weights import tensors_hash
from .computation import Computation
from .opening import opened, splits_of


@dataclass(frozen=True)
class Opened:
    """A target that is open: its problem, and the examples of the same domains in the other splits."""

    target: Target
    problem: Problem
    problem_spec: ProblemSpec
    others: dict[str, Examples]
    trust: bool

    def computation(
        self,
        kind: str,
        spec: Spec,
        *,
        others: Sequence[object],
        options: Mapping[str, Any] | None = None,
        stores: bool = False,
        **more: Any,
    ) -> Computation:
        """The analysis of this name.

        Args:
            kind: Its name.
            spec: What is computed.
            others: As of `Computation`.
            options: Further keyword arguments of its function.
            stores: Whether the function keeps finished parts in a folder.
            **more: Further fields of `Computation`.
        """
        asked = self.problem_spec
        function = partial(ANALYSES.load(kind), self.problem, spec, seed=asked.seed, per_domain=asked.per_domain)

        def compute(folder: Path) -> Result:
            found: Result = function(**(options or {}), **({"store": folder} if stores else {}))
            return found

        return Computation(kind, [self.target], self.problem, asked, spec, compute, others, **more)


def prepare(
    kind: str,
    target: Target,
    problem_spec: ProblemSpec,
    spec: Any,
    *,
    trust: bool,
    reaches: Sequence[Reach] | None = None,
) -> Computation:
    """Open a target for an analysis.

    Args:
        kind: ``hessian``, ``sharpness``, ``surface`` or ``domains``.
        target: A checkpoint.
        problem_spec: Which examples, parameters, precision.
        spec: What to compute.
        trust: Import plug-ins that only the run names.
        reaches: For a surface: how far each axis goes, where that was found before.
    """
    problem, others = opened(target, problem_spec, all_domains=kind == "domains", trust=trust)
    here = Opened(target, problem, problem_spec, others, trust)
    return _surface(here, spec, reaches) if kind == "surface" else _PREPARE[kind](here, spec)


def _hessian(here: Opened, spec: HessianSpec) -> Computation:
    start = Path(spec.warm_start).with_suffix(".safetensors") if spec.warm_start else None
    unit = [spec.unit or "example"] if spec.operator in OF_GRADIENTS else []  # other numbers than before it
    matrix = " per ".join([spec.operator, *unit])
    alone = rank_and_world_size()[1] == 1  # several processes keep no products
    return here.computation(
        "hessian",
        spec,
        stores=alone,
        unfinished=journal_name(here.problem, matrix, spec.label_samples, here.problem_spec.seed),
        others=[
            content_hash(start) if start else None,
            {name: version(name) for name in spec.cross_check},
            *unit,
        ],
        placed=_edges,
    )


def _edges(record: Mapping[str, Any], run: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"edges_of_stability": edges_of_stability(run, record["gradient_norm"])}


def _sharpness(here: Opened, spec: SharpnessSpec) -> Computation:
    wanted = any("start" in MEASURES[name].options for name in spec.measure)
    start = Path(spec.start) if spec.start else here.problem.start
    others: list[object] = [tensors_hash(read_weights(start).tensors) if start and wanted else None]
    others += [fingerprint(MEASURES.load(name)) for name in spec.measure if not MEASURES.is_own(name)]
    return here.computation("sharpness", spec, others=others)


def _domains(here: Opened, spec: DomainsSpec) -> Computation:
    checkpoints = here.target.run.checkpoints() if here.target.run and spec.curves else {}
    along = {step: content_hash(path) for step, path in checkpoints.items()}
    others: list[object] = [{name: examples.fingerprint() for name, examples in here.others.items()}, along]
    others += ["random blocks"] if spec.sharpness else []  # other numbers than of stratified ones, as they were
    return here.computation(
        "domains", spec, others=others, options={"splits": here.others, "checkpoints": checkpoints}
    )


def _surface(here: Opened, spec: SurfaceSpec, reaches: Sequence[Reach] | None) -> Computation:
    spec = with_files(spec)
    splits = splits_of(here.target, here.problem_spec, here.problem, trust=here.trust)
    beside = auxiliary_problems(here.problem, spec, splits)
    options = {**beside, "reaches": reaches}
    return here.computation(
        "surface", spec, stores=True, others=identity_parts(spec, beside, reaches), options=options
    )


_PREPARE: Mapping[str, Callable[[Opened, Any], Computation]] = {
    "hessian": _hessian,
    "sharpness": _sharpness,
    "domains": _domains,
}


def with_files(spec: SurfaceSpec) -> SurfaceSpec:
    """The spec with the targets behind ``checkpoint:`` turned into files.

    Raises:
        UsageError: If there is no such target.
    """
    named = [word.partition("checkpoint:") for word in spec.direction]
    found = [f"checkpoint:{Target.find(t).checkpoint}" if at and not b else b + at + t for b, at, t in named]
    return spec.with_(direction=tuple(found))

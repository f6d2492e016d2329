"""What each analysis of one target needs: from its problem and spec to a `Computation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.code_files import version
from ..base.files import content_hash
from ..curvature.edges import edges_of_stability
from ..curvature.lanczos.journal import journal_name
from ..problem.fingerprint import fingerprint
from ..registry import MEASURES
from ..results.target import Target
from ..specs import DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec
from ..specs.analysis import OF_GRADIENTS
from ..weights.checkpoint import read_weights
from ..weights.weights import tensors_hash
from .computation import Computation
from .opened import Opened
from .opening import opened

if TYPE_CHECKING:
    from ..surfaces.evaluate.auto_range import Reach


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
    if kind == "surface":
        from .prepare_surface import prepare_surface  # with the room of surfaces, which the others do without

        return prepare_surface(here, spec, reaches)
    return _PREPARE[kind](here, spec)


def _hessian(here: Opened, spec: HessianSpec) -> Computation:
    start = Path(spec.warm_start).with_suffix(".safetensors") if spec.warm_start else None
    unit = [spec.unit or "example"] if spec.operator in OF_GRADIENTS else []  # other numbers than before it
    matrix = " per ".join([spec.operator, *unit])
    return here.computation(
        "hessian",
        spec,
        stores=True,
        unfinished=journal_name(here.problem, matrix, spec.label_samples, here.problem_spec.seed),
        others=[
            content_hash(start) if start else None,
            {name: version(name) for name in spec.cross_check},
            *unit,
        ],
        placed=_edges,
    )


def _edges(record: Mapping[str, Any], run: Mapping[str, Any] | None) -> dict[str, object]:
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


_PREPARE: Mapping[str, Callable[[Opened, Any], Computation]] = {
    "hessian": _hessian,
    "sharpness": _sharpness,
    "domains": _domains,
}

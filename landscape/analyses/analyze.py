"""From a target to a stored result: open what was named, compute once, keep, find again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.code_files import version
from ..base.errors import LandscapeError
from ..base.files import content_hash, make_folder, remove_stale_temporaries
from ..curvature.edges import edges_of_stability
from ..curvature.hessian import NotConverged
from ..curvature.lanczos.journal import journal_name
from ..problem.problem import Problem
from ..registry import ANALYSES, MEASURES
from ..results.identity import identity, key
from ..results.result import Result
from ..results.target import Target
from ..runtime.caller_context import computing
from ..runtime.distributed import barrier, decided, first, place
from ..runtime.random_state import preserved_random_state
from ..specs import DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec, Spec, SurfaceSpec
from ..specs.study import ANALYSIS_SPECS
from ..surfaces.auxiliary_problems import companions, ingredients
from ..surfaces.evaluate.auto_range import Reach
from ..surfaces.evaluate.row_cache import discard
from ..weights.checkpoint import read_weights
from ..weights.weights import tensors_hash
from .opening import opened, splits_of

log = logging.getLogger(__name__)


@computing()
def analyze(
    kind: str,
    target: Target | str,
    problem_spec: ProblemSpec | None = None,
    spec: Spec | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    trust: bool = False,
    reaches: Sequence[Reach] | None = None,
) -> Result:
    """Run one analysis of one target and store its result, or return the stored one.

    Args:
        kind: ``hessian``, ``sharpness``, ``surface`` or ``domains``.
        target: A run, ``RUN@best``, ``RUN@selected``, ``RUN@step=N`` or a checkpoint file.
        problem_spec: Which examples, parameters, precision; and model, data, loss for a bare file.
        spec: What to compute.
        out: Folder of the result (default: the run's ``results``, or ``landscape-results``).
        force: Compute anew even if a result with the same key is stored.
        trust: Import plug-ins that only the run names.
        reaches: For a surface: how far each axis goes, where that was found before.
    """
    target = Target.find(target) if isinstance(target, str) else target
    target.facts()  # what is wrong with the run's own files is said before any work
    problem_spec, spec = problem_spec or ProblemSpec(), spec or ANALYSIS_SPECS[kind]()
    folder = make_folder(Path(out).absolute() if out else target.results)
    remove_stale_temporaries(folder)
    problem, others = opened(target, problem_spec, all_domains=kind == "domains", trust=trust)
    beside: dict[str, Any] = {}
    if isinstance(spec, DomainsSpec):
        checkpoints = target.run.checkpoints() if target.run and spec.curves else {}
        beside = {"splits": others, "checkpoints": checkpoints}
    if isinstance(spec, SurfaceSpec):
        spec = with_files(spec)
        splits = splits_of(target, problem_spec, problem, trust=trust)
        beside = {**companions(problem, spec, splits), "reaches": reaches}
    found = identity(kind, problem, spec, problem_spec, _others(problem, spec, beside))
    path = folder / f"{kind}-{key(kind, found)}.nc"
    if isinstance(spec, SurfaceSpec):
        beside["store"] = path.with_suffix(".rows")
    if isinstance(spec, HessianSpec) and place()[1] == 1:
        beside["store"] = folder / journal_name(problem, spec.operator, spec.label_samples, problem_spec.seed)
    if not force and decided(lambda: is_stored(path, kind, found)):
        log.info("stored result, same weights, network, data and options: %s", path)
        return _placed(Result.load(path), target, problem_spec)
    try:
        with preserved_random_state():
            function = ANALYSES.load(kind)
            options = {"seed": problem_spec.seed, "per_domain": problem_spec.per_domain, **beside}
            result = function(problem, spec, **options)
    except NotConverged as error:
        # Kept under another name, so that it is never taken for a whole result.
        error.result.record |= {"identity": found, "origins": problem.origins}
        keep(_placed(error.result, target, problem_spec), path.with_suffix(".partial.nc"))
        raise
    result = _placed(result, target, problem_spec)
    result.record |= {"identity": found, "origins": problem.origins}
    keep(result, path)
    if "store" in beside:
        discard(beside["store"])
    return result


def is_stored(path: Path, kind: str, found: Mapping[str, Any]) -> bool:
    """Whether the result of this identity is there and whole; of several processes the first one looks.

    A file that was renamed or put there by somebody holds another identity than its name says.
    """
    if not path.exists():
        return False
    try:
        stored = Result.load(path)
    except LandscapeError:
        log.warning("the stored result %s is damaged and is computed again", path)
        return False
    if stored.kind != kind or key(kind, stored.record.get("identity") or {}) != key(kind, found):
        log.warning("the stored result %s is that of another computation; this one is computed again", path)
        return False
    return True


def keep(result: Result, path: Path) -> None:
    """Store a result; of several processes, which all have it, the first one writes and the others wait."""
    if first():
        result.save(path)
    barrier()
    result.path = path


def _others(problem: Problem, spec: Spec, beside: Mapping[str, Any]) -> list[Any]:
    """What else decides a result: further examples, and the contents of the files that it reads."""
    if isinstance(spec, DomainsSpec):
        along = {step: content_hash(path) for step, path in beside["checkpoints"].items()}
        return [{k: e.fingerprint() for k, e in beside["splits"].items()}, along]
    if isinstance(spec, SharpnessSpec):
        wanted = any("start" in MEASURES[name].options for name in spec.measure)
        start = Path(spec.start) if spec.start else problem.start
        return [tensors_hash(read_weights(start).tensors) if start and wanted else None]
    if isinstance(spec, HessianSpec):
        start = Path(spec.warm_start).with_suffix(".safetensors") if spec.warm_start else None
        return [content_hash(start) if start else None, {name: version(name) for name in spec.cross_check}]
    return ingredients(spec, beside)


def _placed(result: Result, target: Target, spec: ProblemSpec) -> Result:
    """Say whose result it is; equal weights in two places share nothing but the numbers."""
    result.record["target"] = str(target.checkpoint)
    result.record["run"] = target.facts()
    if result.kind == "hessian":
        result.record["edges_of_stability"] = edges_of_stability(result.record["run"], result.record["gradient_norm"])
    result.record["split"] = spec.split
    result.record["problem_spec"] = spec.to_dict()
    return result


def with_files(spec: SurfaceSpec) -> SurfaceSpec:
    """The spec with the targets behind ``checkpoint:`` turned into files.

    Raises:
        UsageError: If there is no such target.
    """
    named = [word.partition("checkpoint:") for word in spec.direction]
    found = [f"checkpoint:{Target.find(t).checkpoint}" if at and not b else b + at + t for b, at, t in named]
    return spec.with_(direction=tuple(found))


def standard_set(
    target: Target | str,
    problem_spec: ProblemSpec | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    trust: bool = False,
) -> list[Result]:
    """The analyses that ``landscape analyze``, ``report`` and ``demo`` run on one target.

    Top five eigenvalues, m-sharpness, a 2-D surface, five 1-D slices, and the domains. Pairs of eigenvalues
    that miss the tolerance are kept and marked.

    Args:
        target: What to look at.
        problem_spec: Which examples, parameters, precision.
        out: Folder of the results.
        force: Compute anew.
        trust: Import plug-ins that only the run names.
    """
    wanted: list[tuple[str, Spec]] = [
        ("hessian", HessianSpec(allow_partial=True)),
        ("sharpness", SharpnessSpec()),
        ("surface", SurfaceSpec()),
        ("surface", SurfaceSpec(dim=1, repeats=5)),
        ("domains", DomainsSpec()),
    ]
    target = Target.find(target) if isinstance(target, str) else target
    return [analyze(kind, target, problem_spec, spec, out=out, force=force, trust=trust) for kind, spec in wanted]

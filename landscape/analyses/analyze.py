"""``analyze``: one analysis of one target, stored, or the stored one; and the set that is run by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..results.result import Result
from ..results.target import Target
from ..runtime.caller_context import computing
from ..specs import DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec, Spec, SurfaceSpec
from ..specs.by_analysis import ANALYSIS_SPECS
from .computation import results_folder
from .prepare import prepare

if TYPE_CHECKING:
    from ..surfaces.evaluate.auto_range import Reach


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

    Example:
        >>> import tempfile, landscape
        >>> folder = tempfile.mkdtemp()
        >>> [run] = landscape.train(folder, data="gaussian-domains", model="mlp", steps=5, optimizer=("sam",))
        >>> found = landscape.analyze("hessian", str(run.path))
        >>> again = landscape.analyze("hessian", str(run.path))  # the stored one
        >>> found["eigenvalues"] == again["eigenvalues"]
        True
    """
    target = Target.find(target) if isinstance(target, str) else target
    target.facts()  # what is wrong with the run's own files is said before any work
    folder = results_folder([target], out)
    problem_spec, spec = problem_spec or ProblemSpec(), spec or ANALYSIS_SPECS[kind]()
    return prepare(kind, target, problem_spec, spec, trust=trust, reaches=reaches).result(folder, force=force)


def standard_specs(*, plane: bool = True) -> list[tuple[str, Spec]]:
    """The analyses of `standard_set`, by kind."""
    return [
        ("hessian", HessianSpec(allow_partial=True)),
        ("sharpness", SharpnessSpec()),
        *([("surface", SurfaceSpec())] if plane else []),
        ("surface", SurfaceSpec(dim=1, repeats=5)),
        ("domains", DomainsSpec()),
    ]


def standard_set(
    target: Target | str,
    problem_spec: ProblemSpec | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    trust: bool = False,
    plane: bool = True,
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
        plane: With the 2-D surface, which is half of the work.
    """
    target = Target.find(target) if isinstance(target, str) else target
    wanted = standard_specs(plane=plane)
    return [analyze(kind, target, problem_spec, spec, out=out, force=force, trust=trust) for kind, spec in wanted]

"""Names of before: where each module and name has gone. They work for one release, with a `DeprecationWarning`.

A module that moved is imported under its old name as a stand-in, which hands out what the new one has. This is the
one table; nothing else in the library knows an old name, but for `former`, by which what was stored before is found.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec

# Old module -> new module, both below ``landscape``.
MOVED = {
    "allocator": "base.allocator",
    "analysis": "analyses.analyze",
    "ascent": "numerics.ascent",
    "cautions": "problem.checks.cautions",
    "checkpoint": "weights.checkpoint",
    "checkpoint_folders": "weights.checkpoint_folders",
    "code_files": "base.code_files",
    "convolution": "autograd.convolution",
    "copying": "problem.copying",
    "course": "results.history",
    "curvature.completeness": "curvature.lanczos.completeness",
    "curvature.density": "curvature.estimators.density",
    "curvature.estimates": "curvature.estimators.estimates",
    "curvature.hutchinson": "curvature.estimators.hutchinson",
    "curvature.journal": "curvature.lanczos.journal",
    "curvature.krylov": "curvature.lanczos.krylov",
    "curvature.lanczos": "curvature.lanczos.eigenpairs",
    "curvature.pairs": "curvature.lanczos.pairs",
    "curvature.probes": "curvature.estimators.probes",
    "curvature.sketches": "curvature.estimators.sketches",
    "curvature.subspace": "curvature.lanczos.subspace",
    "curvature.view": "curvature.spectrum",
    "curvature.warm_start": "curvature.lanczos.warm_start",
    "derivatives": "problem.checks.derivatives",
    "devices": "runtime.devices",
    "digests": "data.digests",
    "distributed": "runtime.distributed",
    "domainwise.closer": "domainwise.curvature_and_sharpness",
    "domainwise.point": "domainwise.metrics",
    "equal_forms": "autograd.equal_forms",
    "errors": "base.errors",
    "evaluation": "problem.evaluation",
    "event_files": "storage.event_files",
    "examples": "data.examples",
    "figures.accuracy_radius": "figures.sharpness.accuracy_radius",
    "figures.axes": "figures.draw.axis_labels",
    "figures.bands": "figures.draw.bands",
    "figures.comparable": "figures.draw.comparable",
    "figures.contour": "figures.surface.contour",
    "figures.controls": "figures.sharpness.controls",
    "figures.curvature_course": "figures.curvature.curvature_course",
    "figures.domain_curves": "figures.per_domain.domain_curves",
    "figures.domain_lines": "figures.per_domain.domain_lines",
    "figures.domain_matrix": "figures.per_domain.domain_matrix",
    "figures.domain_sharpness": "figures.sharpness.domain_sharpness",
    "figures.domain_surfaces": "figures.surface.domain_surfaces",
    "figures.domains": "figures.per_domain.domains",
    "figures.drawing": "figures.draw.drawing",
    "figures.eigenvalues": "figures.curvature.eigenvalues",
    "figures.error_reduction": "figures.course.error_reduction",
    "figures.finals": "figures.course.finals",
    "figures.gradient_angle": "figures.course.gradient_angle",
    "figures.interactive": "figures.planes.interactive",
    "figures.local_flatness": "figures.sharpness.local_flatness",
    "figures.looks": "figures.draw.method_styles",
    "figures.m_sharpness": "figures.sharpness.m_sharpness",
    "figures.measured": "figures.course.measured",
    "figures.merge_tree": "figures.surface.merge_tree",
    "figures.movies": "figures.planes.movies",
    "figures.panels": "figures.draw.panels",
    "figures.path": "figures.surface.path",
    "figures.plane": "figures.surface.plane",
    "figures.probes": "figures.course.probes",
    "figures.provenance": "figures.draw.provenance",
    "figures.scales": "figures.draw.scales",
    "figures.series": "figures.draw.series",
    "figures.sharpness_lines": "figures.sharpness.sharpness_lines",
    "figures.sharpness_radius": "figures.sharpness.sharpness_radius",
    "figures.slice": "figures.surface.slice",
    "figures.spectra": "figures.curvature.spectra",
    "figures.study_forest": "figures.study.study_forest",
    "figures.study_methods": "figures.study.study_methods",
    "figures.study_parts": "figures.study.study_parts",
    "figures.study_scatter": "figures.study.study_scatter",
    "figures.study_settings": "figures.study.study_settings",
    "figures.style": "figures.draw.style",
    "figures.surface3d": "figures.surface.surface3d",
    "figures.surface_movie": "figures.surface.surface_movie",
    "figures.tables": "figures.draw.tables",
    "figures.text": "figures.draw.text",
    "figures.training": "figures.course.training",
    "figures.trajectory_movie": "figures.surface.trajectory_movie",
    "figures.twin_slice": "figures.surface.twin_slice",
    "figures.unseen": "figures.per_domain.unseen",
    "files": "base.files",
    "fingerprint": "problem.fingerprint",
    "fitting": "weights.load_state_dict",
    "forward": "problem.forward",
    "hdf5": "storage.hdf5",
    "hdf5_process": "storage.hdf5_process",
    "hugging_face": "weights.hugging_face",
    "identity": "results.identity",
    "intervals": "numerics.intervals",
    "joint": "analyses.joint",
    "kept_values": "problem.stale_caches",
    "labels": "base.labels",
    "losses": "data.losses",
    "measures.ascent": "measures.engine.ascent",
    "measures.ball": "measures.engine.norm_ball",
    "measures.blockwise": "measures.engine.blockwise",
    "measures.noise": "measures.engine.noise",
    "measures.partition": "measures.engine.partition",
    "measures.table": "measures.engine.table",
    "measures.value": "measures.engine.measurement",
    "measures.work": "measures.engine.flops",
    "memory": "runtime.memory",
    "modes": "problem.modes",
    "names": "base.names",
    "nearby": "problem.checks.local_loss",
    "netcdf": "storage.netcdf",
    "norms": "numerics.norms",
    "opening": "analyses.opening",
    "optim.build": "optim.core.build",
    "optim.closures": "optim.core.closures",
    "optim.common": "optim.core.shared_options",
    "optim.eager": "optim.core.eager",
    "optim.engine": "optim.core.engine",
    "optim.leftovers": "optim.core.leftovers",
    "optim.moved": "optim.core.perturbation",
    "optim.passes": "optim.core.passes",
    "optim.sparse": "optim.core.sparse",
    "optim.two_pass": "optim.core.two_pass",
    "optim.wrapper": "optim.core.wrapper",
    "origins": "results.provenance",
    "parameters": "problem.parameters",
    "passes": "problem.passes",
    "plugins": "base.plugins",
    "precision": "runtime.precision",
    "problem": "problem.problem",
    "products": "problem.products",
    "progress": "base.progress",
    "reading": "data.reading",
    "recompute": "autograd.recompute",
    "record_form": "storage.record_form",
    "replacements": "problem.checks.substitutions",
    "result": "results.result",
    "run": "results.run",
    "second_derivatives": "autograd.second_derivatives",
    "soundness": "problem.checks.consistency",
    "sources": "data.sources",
    "staleness": "results.staleness",
    "stop_signals": "base.stop_signals",
    "stored_form": "storage.stored_form",
    "stores": "data.stores",
    "study.comparison": "study.statistics.comparison",
    "study.correlation": "study.statistics.correlation",
    "study.granulated": "study.statistics.granulated",
    "study.information": "study.statistics.information",
    "study.paired": "study.statistics.paired",
    "study.ranks": "study.statistics.ranks",
    "study.sign_error": "study.statistics.sign_error",
    "substitutes": "autograd.substitutes",
    "surfaces.adaptive": "surfaces.evaluate.adaptive",
    "surfaces.alignment": "surfaces.align.alignment",
    "surfaces.ascent_directions": "surfaces.directions.ascent",
    "surfaces.axes": "surfaces.directions.parse",
    "surfaces.batchnorm": "surfaces.evaluate.batchnorm",
    "surfaces.channels": "surfaces.align.channels",
    "surfaces.companions": "surfaces.auxiliary_problems",
    "surfaces.curves": "surfaces.directions.curves",
    "surfaces.directions": "surfaces.directions.direction",
    "surfaces.grid": "surfaces.evaluate.grid",
    "surfaces.metrics": "surfaces.evaluate.metrics",
    "surfaces.picture": "surfaces.evaluate.assemble",
    "surfaces.random_directions": "surfaces.directions.random",
    "surfaces.reach": "surfaces.evaluate.auto_range",
    "surfaces.rows": "surfaces.evaluate.row_cache",
    "surfaces.snapshots": "surfaces.directions.snapshots",
    "surfaces.tally": "surfaces.evaluate.accumulator",
    "surfaces.trajectory": "surfaces.directions.trajectory",
    "surfaces.walker": "surfaces.evaluate.evaluator",
    "surroundings": "runtime.caller_context",
    "target": "results.target",
    "trees": "numerics.trees",
    "turns": "base.process_state",
    "weights": "weights.weights",
    "wrappers": "problem.wrappers",
}
# Names that went another way than the rest of their module: old module:name -> new module.
NAMES = {
    "losses:example_losses": "data.loss_values",
    "losses:example_weights": "data.loss_values",
    "losses:example_trials": "data.loss_values",
    "losses:batch_weight": "data.loss_values",
    "losses:NoTarget": "data.loss_values",
    "losses:no_target": "data.loss_values",
    "losses:weighted_mean": "data.loss_values",
    "losses:mean_loss": "data.loss_values",
    "losses:domain_means": "data.loss_values",
    "losses:correct": "data.loss_values",
    "examples:forward": "problem.forward",
    "parameters:as_real": "numerics.tensors",
    "parameters:continuous": "numerics.tensors",
    "parameters:evaluation_mode": "problem.modes",
    "parameters:name_matcher": "base.names",
    "parameters:preserved_random_state": "runtime.random_state",
    "parameters:refuse_shared_memory": "runtime.shared_memory",
    "parameters:seed_everything": "runtime.random_state",
    "parameters:unwrapped": "problem.wrappers",
}
# Public names that are called otherwise, in packages that are where they were: package:old -> new name.
RENAMED = {
    "landscape:Pieces": "MicroBatches",
    "landscape.optim:Pieces": "MicroBatches",
}
# Methods and attributes of public classes: class -> old -> new.
METHODS = {
    "Problem": {
        "excursion": "temporary_weights",
        "in_double": "to_float64",
        "note_custom_functions": "check_custom_autograd_functions",
        "of_domain": "restrict_to_domain",
        "of_examples": "restrict_to_examples",
        "of_parameters": "restrict_to_parameters",
        "on": "with_examples",
        "some": "head",
        "within_memory": "retry_on_oom",
    },
}
_FORMER = {f"landscape.{new}": f"landscape.{old}" for old, new in MOVED.items()}


def former(module: str) -> str:
    """The name that a module of ours had before it moved, under which stored results know it; others' as they are."""
    return _FORMER.get(module, module)


def names_of_before(package: str) -> Callable[[str], object]:
    """``__getattr__`` for a package that was a module: what the module had, with a warning."""
    old = package.removeprefix("landscape.")

    def find(name: str) -> object:
        if name.startswith("__") or f"{old}.{name}" in _ROOMS:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return _found(old, name)

    return find


def renamed(package: str) -> Callable[[str], object]:
    """``__getattr__`` for a package some of whose names are called otherwise now."""

    def find(name: str) -> object:
        if f"{package}:{name}" not in RENAMED:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        new = RENAMED[f"{package}:{name}"]
        _warn(f"{package}.{name}", f"{package}.{new}")
        return getattr(importlib.import_module(package), new)

    return find


def renamed_member(owner: object, name: str) -> object:
    """``__getattr__`` for an object of a public class some of whose members are called otherwise now."""
    for kind in type(owner).__mro__:
        if name in METHODS.get(kind.__name__, {}):
            new = METHODS[kind.__name__][name]
            _warn(f"{kind.__name__}.{name}", f"{kind.__name__}.{new}")
            return getattr(owner, new)
    raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")


def install() -> None:
    """Let the import system find modules under their old names, after everything else has been asked."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())


class _OldNames:
    """A finder of stand-ins for modules that moved."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """The stand-in's spec, or None for names that are no old ones of ours."""
        old = name.removeprefix("landscape.")
        return ModuleSpec(name, self) if name != old and old in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """An empty module that finds everything elsewhere."""
        old = spec.name.removeprefix("landscape.")
        _warn(f"landscape.{old}", f"landscape.{MOVED[old]}")
        module = types.ModuleType(spec.name, f"Moved to ``landscape.{MOVED[old]}``.")
        module.__getattr__ = lambda name: _found(old, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _found(old: str, name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(f"module 'landscape.{old}' has no attribute {name!r}")
    new = NAMES.get(f"{old}:{name}", MOVED[old])
    value = getattr(importlib.import_module(f"landscape.{new}"), name)
    _warn(f"landscape.{old}.{name}", f"landscape.{new}.{name}")
    return value


def _warn(old: str, new: str) -> None:
    text = f"{old} has moved to {new}; the old name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=_caller())


def _caller() -> int:
    """The ``stacklevel`` of the code that wrote the old name: past this file; warnings skip the import system."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        here = frame.f_code.co_filename
        if here == __file__:
            level += 1
        elif "importlib" not in here:
            break
        frame = frame.f_back
    return level


_ROOMS = {new.rpartition(".")[0] for new in MOVED.values()} | set(MOVED.values())

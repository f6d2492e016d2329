"""From a target to a stored result: open what was named, compute once, keep, find again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import read_weights
from .curvature.edges import edges_of_stability
from .curvature.hessian import NotConverged
from .curvature.journal import journal_name
from .data.changes import changed
from .data.splits import open_data
from .distributed import barrier, decided, first, place
from .errors import LandscapeError, UsageError
from .examples import Examples
from .files import make_folder, remove_stale_temporaries, stable_hash
from .fitting import load_into
from .models.build import build_model, facts_of
from .names import Registry
from .parameters import preserved_random_state, seed_everything
from .plugins import Plugin, resolve
from .problem import Problem
from .registry import ANALYSES, DATA, LOSSES, MODELS
from .result import Result
from .run import Run
from .specs import DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec, Spec, SurfaceSpec, key_values
from .specs.study import ANALYSIS_SPECS
from .surfaces.companions import companions, ingredients
from .surfaces.reach import Reach
from .surfaces.rows import discard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A checkpoint to look at: its file, and the run it belongs to (None for a bare file)."""

    checkpoint: Path
    run: Run | None

    @classmethod
    def find(cls, text: str) -> Target:
        """Understand ``RUN``, ``RUN@best``, ``RUN@selected``, ``RUN@step=N`` or a checkpoint file.

        Raises:
            UsageError: If there is no such thing; says what there is.
        """
        name, at, which = text.rpartition("@")
        if at and not Path(text).exists() and Run.is_run(name):
            run = Run(name)
            return cls(run.checkpoint(which), run)
        path = Path(text)
        if Run.is_run(path):
            return cls(Run(path).checkpoint(), Run(path))
        if not path.exists():
            raise UsageError("there is no such run or checkpoint", text, "name a run folder or a checkpoint file")
        parent = path.absolute().parent.parent
        inside = path.absolute().parent.name == "checkpoints" and Run.is_run(parent)
        return cls(path.absolute(), Run(parent) if inside else None)

    @property
    def results(self) -> Path:
        """Where its analyses are stored."""
        return self.run.path / "results" if self.run else Path("landscape-results").absolute()

    def facts(self) -> dict[str, Any] | None:
        """Optimizer, seed and step of its run, for records and figures."""
        if self.run is None:
            return None
        spec = self.run.spec
        step = int(self.checkpoint.stem.removeprefix("step-"))
        logged = next((line for line in self.run.metrics() if line.get("step") == step), {})
        return {
            "path": str(self.run.path),
            "optimizer": arm(spec),
            "seed": spec["seed"][0],
            "step": step,
            "epoch": logged.get("epoch"),
            "lr_at_step": logged.get("lr"),
            **{k: spec.get(k) for k in ("lr", "momentum", "base", "batch_size", "rho", "alpha", "lam")},
        }


def open_problem(
    target: Target | str, spec: ProblemSpec | None = None, *, all_domains: bool = False, trust: bool = False
) -> Problem:
    """Build the problem a target stands for: its network at its weights, its data, its loss.

    Args:
        target: What to open.
        spec: Overrides and choices; a run says model, data and loss itself, a bare file needs them.
        all_domains: Take the domains the run held out, too.
        trust: Import plug-ins that only the run names.

    Raises:
        UsageError: If the target does not say enough, or a plug-in is not trusted.
        DataError: If weights or data do not fit.
        NumericalError: If the weights are not finite.
    """
    target = Target.find(target) if isinstance(target, str) else target
    return _open(target, spec or ProblemSpec(), all_domains=all_domains, trust=trust)[0]


def _open(
    target: Target, spec: ProblemSpec, *, all_domains: bool, trust: bool
) -> tuple[Problem, dict[str, Examples]]:
    """The problem, and the examples of the same domains in the other splits (as many as in the problem at most)."""
    recorded = target.run.spec if target.run else {}
    facts = target.run.record.get("ingredients", {}).get("facts", {}) if target.run else {}
    with preserved_random_state():
        seed_everything(0, "open")
        data = _named("data", spec.data, recorded, DATA, trust)
        data_arg = spec.data_arg or (() if spec.data else recorded.get("data_arg", ()))
        splits = open_data(data, key_values(data_arg, "data_arg"))
        if target.run and not spec.data:  # the examples as the run was trained on them
            splits = changed(splits, recorded, recorded.get("holdout", ()), recorded["seed"][0]).splits
        splits.check_domains(spec.domain, "--domain")
        splits.split(spec.split)
        holdout = tuple(recorded.get("holdout", ())) if not spec.data else ()
        wanted = spec.domain or tuple(d for d in splits.domains or () if all_domains or d not in holdout)
        selected = {k: e.of_domains(wanted) if wanted and e.domains else e for k, e in splits.items()}
        examples = selected.pop(spec.split)
        if not len(examples):
            raise UsageError(
                "no example is left", f"--split {spec.split} --domain {' '.join(wanted)}", "choose others"
            )
        if spec.examples is not None:
            examples = examples.subset(spec.examples, spec.seed)
            selected = {k: e.subset(min(spec.examples, len(e)), spec.seed) for k, e in selected.items()}
        loss = _named("loss", spec.loss, recorded or {"loss": "cross_entropy"}, LOSSES, trust)
        plugin = _named("model", spec.model, recorded, MODELS, trust)
        model_arg = spec.model_arg or (() if spec.model else recorded.get("model_arg", ()))
        model = build_model(plugin, key_values(model_arg, "model_arg"), facts or facts_of(splits["train"]))
        load_into(model, read_weights(target.checkpoint), target.checkpoint, subset=spec.params)
        problem = Problem(
            model,
            examples,
            loss.call,
            params=spec.params,
            batch_size=spec.batch_size,
            device=spec.device,
            dtype=spec.dtype,
            unseen=[d for d in holdout if d in wanted],
            mode=spec.mode,
            replay_seed=spec.replay_seed,
        )
    problem.loss_name = loss.name
    problem.start = _start(target.run)
    return problem, {k: e for k, e in selected.items() if len(e)}


def _start(run: Run | None) -> Path | None:
    """The checkpoint that a run's training started from, if it has kept one."""
    if run is None:
        return None
    return run.checkpoints().get(0) or (Path(run.spec["init"]) if run.spec.get("init") else None)


def _named(what: str, given: str | None, recorded: Mapping[str, Any], registry: Registry, trust: bool) -> Plugin:
    name = given or recorded.get(what)
    if name is None:
        raise UsageError(
            f"a bare checkpoint does not say its {what}",
            f"--{what}",
            f"name one: {', '.join(registry)}, or file.py:callable",
        )
    return resolve(name, registry, from_record=given is None, trust=trust)


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
    problem_spec, spec = problem_spec or ProblemSpec(), spec or ANALYSIS_SPECS[kind]()
    folder = make_folder(Path(out).absolute() if out else target.results)
    remove_stale_temporaries(folder)
    problem, others = _open(target, problem_spec, all_domains=kind == "domains", trust=trust)
    beside: dict[str, Any] = {}
    if isinstance(spec, DomainsSpec):
        checkpoints = target.run.checkpoints() if target.run and spec.curves else {}
        beside = {"splits": others, "checkpoints": checkpoints}
    if isinstance(spec, SurfaceSpec):
        spec = with_files(spec)
        splits = splits_of(target, problem_spec, problem, trust=trust)
        beside = {**companions(problem, spec, splits), "reaches": reaches}
    path = folder / f"{kind}-{_key(kind, problem, problem_spec, spec, _beside_key(spec, beside))}.nc"
    if isinstance(spec, SurfaceSpec):
        beside["store"] = path.with_suffix(".rows")
    if isinstance(spec, HessianSpec) and place()[1] == 1:
        beside["store"] = folder / journal_name(problem, spec.operator, spec.label_samples, problem_spec.seed)
    if not force and decided(lambda: is_stored(path)):
        log.info("stored result, same weights, data and options: %s", path)
        return _placed(Result.load(path), target, problem_spec)
    try:
        with preserved_random_state():
            function = ANALYSES.load(kind)
            options = {"seed": problem_spec.seed, "per_domain": problem_spec.per_domain, **beside}
            result = function(problem, spec, **options)
    except NotConverged as error:
        # Kept under another name, so that it is never taken for a whole result.
        keep(_placed(error.result, target, problem_spec), path.with_suffix(".partial.nc"))
        raise
    result = _placed(result, target, problem_spec)
    keep(result, path)
    if "store" in beside:
        discard(beside["store"])
    return result


def is_stored(path: Path) -> bool:
    """Whether a result is there and whole; of several processes the first one looks."""
    if not path.exists():
        return False
    try:
        Result.load(path)
    except LandscapeError:
        log.warning("the stored result %s is damaged and is computed again", path)
        return False
    return True


def keep(result: Result, path: Path) -> None:
    """Store a result; of several processes, which all have it, the first one writes and the others wait."""
    if first():
        result.save(path)
    barrier()
    result.path = path


def _beside_key(spec: Spec, beside: Mapping[str, Any]) -> list[Any]:
    """What else decides a result, for its key."""
    if isinstance(spec, DomainsSpec):
        return [{k: e.fingerprint() for k, e in beside["splits"].items()}, list(beside["checkpoints"])]
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


def splits_of(
    target: Target, problem_spec: ProblemSpec, problem: Problem, *, trust: bool = False
) -> Callable[[str], Examples]:
    """From the name of a split to its examples: of the same domains, and at most as many as the problem asks for."""

    def of(name: str) -> Examples:
        if name == problem_spec.split:
            return problem.examples
        found = open_problem(target, problem_spec.with_(split=name, examples=None), trust=trust).examples
        few = problem_spec.examples is not None and problem_spec.examples < len(found)
        return found.subset(problem_spec.examples or 0, problem_spec.seed) if few else found

    return of


def with_files(spec: SurfaceSpec) -> SurfaceSpec:
    """The spec with the targets behind ``checkpoint:`` turned into files.

    Raises:
        UsageError: If there is no such target.
    """
    named = [word.partition("checkpoint:") for word in spec.direction]
    found = [f"checkpoint:{Target.find(t).checkpoint}" if at and not b else b + at + t for b, at, t in named]
    return spec.with_(direction=tuple(found))


def _key(kind: str, problem: Problem, problem_spec: ProblemSpec, spec: Spec, others: Sequence[Any] = ()) -> str:
    return stable_hash(
        [
            2,
            kind,
            problem.weights_hash,
            problem.data_hash,
            problem.loss_name,
            str(problem.device),
            sorted(problem.unseen),
            {k: getattr(problem_spec, k) for k in ("params", "dtype", "seed", "per_domain")},
            {k: v for k, v in spec.to_dict().items() if k not in spec._not_in_key},
            *([problem.mode, problem.replay_seed, problem.batch_size] if problem.mode == "train" else []),
            *others,
        ]
    )[:16]


def arm(spec: Mapping[str, Any]) -> str:
    """What a run is compared as: its optimizer, marked where it was given twice the epochs."""
    return str(spec["optimizer"][0]) + ("-2x" if spec.get("equal_cost") else "")


def training_result(run: Run) -> Result:
    """The logged course of a run as a result, for figures.

    Returns:
        Over ``step`` (every optimizer step): ``batch_loss``; over ``eval_step``: losses, accuracies and
        ``domain_loss_variance``; over ``(eval_step, domain)``: ``domain_loss`` and ``domain_accuracy`` of the
        training split. Each quantity of a probe, like ``surrogate_gap_h``, over ``PROBE_step``.
    """
    import xarray as xr

    lines = run.metrics()
    steps = [line for line in lines if line.get("loss") is not None]
    scored = [line for line in lines if line.get("evaluation")]
    names = list((scored[0]["evaluation"].get("domains") or {}) if scored else {})
    fields = [k for k, v in (scored[-1]["evaluation"] if scored else {}).items() if isinstance(v, float)]

    def column(rows: list[dict[str, Any]], field: str) -> Any:
        return np.array([np.nan if r.get(field) is None else r[field] for r in rows], dtype=float)

    variables: dict[str, Any] = {"batch_loss": ("step", column(steps, "loss"))}
    for field in fields:
        variables[field] = ("eval_step", column([r["evaluation"] for r in scored], field))
    if names:
        for field, source in (("domain_loss", "train_loss"), ("domain_accuracy", "train_accuracy")):
            table = [column([r["evaluation"]["domains"][n] for n in names], source) for r in scored]
            variables[field] = (("eval_step", "domain"), np.stack(table))
    coordinates: dict[str, Any] = {
        "step": [r["step"] for r in steps],
        "eval_step": [r["step"] for r in scored],
        "epoch": ("eval_step", column(scored, "epoch")),
    }
    if names:
        coordinates["domain"] = names
    for probe in dict.fromkeys(p for line in steps for p in line.get("probes") or ()):
        taken = [line for line in steps if probe in (line.get("probes") or {})]
        stem = probe.replace("-", "_")
        coordinates[f"{stem}_step"] = [line["step"] for line in taken]
        for quantity in taken[0]["probes"][probe]:
            values = column([line["probes"][probe] for line in taken], quantity)
            variables[f"{stem}_{quantity}"] = (f"{stem}_step", values)
    record = run.record
    spec = record["spec"]
    facts = {
        "path": str(run.path),
        "optimizer": arm(spec),
        "seed": spec["seed"][0],
        "step": record.get("steps"),
    }
    return Result(
        "training",
        xr.Dataset(variables, coordinates),
        {
            "target": str(run.path),
            "run": facts,
            "spec": spec,
            "holdout": spec["holdout"],
            "final": record.get("final"),
            "status": record["status"],
        },
    )


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

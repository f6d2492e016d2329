"""The models of a study as one table: who is in, who is out and why, and what of it may be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..specs.study import Experiment
from .folder import Record, StudyFolder, state, wanted
from .made_of import current
from .repeatability import icc


@dataclass
class Model:
    """One finished model.

    Attributes:
        name: Its folder.
        arm: Its arm or optimizer.
        axes: Value of every axis; None where it does not apply.
        repetition: Which repetition of its configuration.
        outcomes: Accuracies, losses and gaps.
        predictors: Measures (means over measurement seeds), courses and baselines.
        repeats: Values of each measure by measurement seed, where there are several.
        record: Everything else that is kept of it.
    """

    name: str
    arm: str
    axes: dict[str, Any]
    repetition: int
    outcomes: dict[str, float]
    predictors: dict[str, float]
    repeats: dict[str, list[float]]
    record: Record

    @property
    def configuration(self) -> tuple[Any, ...]:
        """What its repetitions share."""
        return (self.arm, *self.axes.values())

    def value(self, name: str) -> float | None:
        """An outcome or a predictor."""
        return self.outcomes.get(name, self.predictors.get(name))


@dataclass
class Table:
    """All models of a study.

    Attributes:
        models: Those that are compared.
        dropped: Those that are not, by reason and arm: ``{"reason", "arm", "count", "models"}``.
        measures: Names of the measures.
        courses: Names of what was recorded during training.
        baselines: Names of predictors that look at no landscape.
        failed_analyses: ``{"reason", "kind", "count"}``.
        controls: What controls that leave predictions alone found, by kind.
        uniform: Whether all models were measured alike: ``{"analysis", "differs"}``.
    """

    models: list[Model]
    dropped: list[dict[str, Any]]
    measures: list[str] = field(default_factory=list)
    courses: list[str] = field(default_factory=list)
    baselines: list[str] = field(default_factory=list)
    failed_analyses: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    uniform: list[dict[str, Any]] = field(default_factory=list)

    def factors(self, *, seed: bool) -> dict[str, list[Any]]:
        """The axes, and the repetition as ``seed``, with a value per model."""
        names = list(dict.fromkeys(k for m in self.models for k in m.axes))
        found = {k: [m.axes.get(k) for m in self.models] for k in names}
        return {**found, "seed": [m.repetition for m in self.models]} if seed else found

    def column(self, name: str) -> Any:
        """An outcome or predictor of every model, NaN where it is missing."""
        return np.array([math.nan if (v := m.value(name)) is None else v for m in self.models], dtype=float)

    def repeatability(self, name: str) -> float | None:
        """ICC(1) of a measure over the measurement seeds."""
        rows = [m.repeats[name] for m in self.models if name in m.repeats]
        return icc(rows) if rows and len({len(r) for r in rows}) == 1 else None

    @property
    def repetitions(self) -> int:
        """The largest number of models of one configuration."""
        return max(Counter(m.configuration for m in self.models).values(), default=0)


def collect(experiment: Experiment, folder: StudyFolder) -> Table:
    """Read the records of all models.

    A model is compared if its training ended, at the loss that the study asks for, and with finite numbers.
    """
    models: list[Model] = []
    out: dict[tuple[str, str], list[str]] = {}
    failures: Counter[tuple[str, str]] = Counter()
    names: dict[str, dict[str, None]] = {"measures": {}, "courses": {}, "baselines": {}}
    for cell in experiment.cells:
        record, dropped = current(folder.record(cell), cell, wanted(experiment, cell))
        asked = [(a, s, a.key(s)) for a, s in wanted(experiment, cell)]
        reason = "it was made of other code than now; run the study again" if dropped else None
        reason = reason or _reason_to_drop(record, [k for *_, k in asked], cell.spec.stop_at)
        if reason:
            out.setdefault((reason, cell.arm), []).append(cell.name)
            continue
        training = record["training"]
        taken: dict[str, list[float]] = {}
        for _, _, key in asked:
            entry = record["analyses"].get(key, {})
            if entry.get("status") == "failed":
                failures[entry["reason"], entry.get("kind", "analysis")] += 1
            for name, value in _finite(entry.get("values", {})).items():
                taken.setdefault(name, []).append(value)
        course, baselines = _finite(training["course"]), _finite(training["baselines"])
        for kind, found in (("measures", taken), ("courses", course), ("baselines", baselines)):
            names[kind] |= dict.fromkeys(found)
        models.append(
            Model(
                cell.name,
                cell.arm,
                dict(cell.axes),
                cell.repetition,
                _finite(training["outcomes"]) | _costs(training),
                {**{k: float(np.mean(v)) for k, v in taken.items()}, **course, **baselines},
                {k: v for k, v in taken.items() if len(v) > 1},
                record,
            )
        )
    return Table(
        models,
        [{"reason": r, "arm": a, "count": len(v), "models": v} for (r, a), v in out.items()],
        measures=list(names["measures"]),
        courses=list(names["courses"]),
        baselines=list(names["baselines"]),
        failed_analyses=[{"reason": r, "kind": k, "count": c} for (r, k), c in failures.items()],
        controls=_controls(models),
        uniform=_uniform(experiment, models),
    )


def _reason_to_drop(record: Record, keys: Sequence[str], stop_at: float | None) -> str | None:
    now = state(record, keys)
    training = record.get("training") or {}
    if training.get("status") == "failed":
        return f"the training failed: {_short(training['reason'])}"
    if now in ("to do", "begun"):
        return "not finished yet"
    stopped = training.get("stopped")
    if stopped and not stopped["reached"]:
        return f"the training loss did not reach {stop_at:g}"
    final = training["outcomes"]
    if any(final.get(k) is None for k in ("train_loss",)):
        return "its training loss is not finite"
    return None


def _short(reason: str) -> str:
    """A reason without the place, which differs for each model."""
    return reason.partition(" (")[0]


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}


def _costs(training: Mapping[str, Any]) -> dict[str, float]:
    """What a step of a training costs."""
    steps = max(training["steps"], 1)
    return {
        "gradient_evaluations_per_step": training["gradient_evaluations"] / steps,
        "seconds_per_step": training["training_seconds"] / steps,
    }


def _controls(models: Iterable[Model]) -> list[dict[str, object]]:
    """For each control and measure: how many models it moved on, and the largest change."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for model in models:
        for entry in model.record["analyses"].values():
            for row in (entry.get("control") or {}).get("measures", []):
                found.setdefault((entry["control"]["kind"], row["name"]), []).append(row)
    return [
        {
            "kind": kind,
            "measure": name,
            "models": len(rows),
            "moves": any(bool(r["moves"]) for r in rows),
            "largest_change": max((c for r in rows if (c := r["largest_change"]) is not None), default=None),
        }
        for (kind, name), rows in found.items()
    ]


def _uniform(experiment: Experiment, models: Sequence[Model]) -> list[dict[str, object]]:
    """Whether every analysis looked at all models alike (control C10): examples, type, device, mode, version.

    Splits that depend on the seed or on an axis have other examples of necessity; those are compared within.
    """
    same_data = ("data", "data_arg", "holdout", "label_noise", "label_shift", "domain_ratio", "domain_label_noise")
    drawn = ("label_noise", "label_shift", "domain_ratio", "domain_label_noise")  # by the seed of the run
    by_name = {c.name: c for c in experiment.cells}
    found = []
    for analysis in experiment.analyses:
        for seed in analysis.seeds or experiment.seeds.measurement:
            seen: dict[str, dict[Any, set[Any]]] = {}
            for model in models:
                entry = model.record["analyses"].get(analysis.key(seed), {})
                spec = by_name[model.name].spec
                changed = spec.seed if any(getattr(spec, k) for k in drawn) else ()
                group = tuple(getattr(spec, k) for k in same_data) + changed
                for what, value in (entry.get("checked") or {}).items():
                    if what != "weights_hash":
                        seen.setdefault(what, {}).setdefault(group if what == "data_hash" else (), set()).add(value)
            differs = [k for k, values in seen.items() if any(len(v) > 1 for v in values.values())]
            found.append({"analysis": analysis.kind, "label": analysis.label, "seed": seed, "differs": differs})
    return found

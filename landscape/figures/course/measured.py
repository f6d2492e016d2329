"""Every quantity of the summary, seed by seed, with what it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base.files import stable_hash
from ...results.result import Result
from ..draw.comparable import CONDITIONS


@dataclass(frozen=True)
class Field:
    """A quantity of the summary.

    Attributes:
        name: Key in a row, with ``_mean``, ``_std`` or ``_n`` behind it.
        title: Words for people.
        percent: Shown in per cent.
    """

    name: str
    title: str
    percent: bool = False


FIELDS = (
    Field("train_loss", "training loss"),
    Field("train_accuracy", "training accuracy", percent=True),
    Field("test_accuracy", "in-domain test accuracy", percent=True),
    Field("unseen_accuracy", "unseen-domain accuracy", percent=True),
    Field("lambda_max", "λ_max"),
    Field("m_sharpness", "m-sharpness"),
    Field("domain_loss_variance", "domain-loss variance"),
)


@dataclass(frozen=True)
class Measured:
    """One number of one seed.

    Attributes:
        value: The number.
        basis: Hash of examples and definition; numbers with different ones do not compare.
        residual: Of an eigenvalue, relative to itself.
    """

    value: float
    basis: str
    residual: float | None = None


Seeds = dict[Any, Measured]


def measurements(results: Sequence[Result]) -> dict[str, dict[str, Seeds]]:
    """Every quantity by field, label and training seed (or weights hash, for checkpoints without a run).

    A run that has several results of one kind contributes the one on most examples.
    """
    best: dict[tuple[str, str, Any], Result] = {}
    for result in sorted(results, key=_most_examples):
        if result.kind == "surface" or (result.kind == "domains" and result.record.get("split", "train") != "train"):
            continue
        best[result.kind, result.label, member_of(result)] = result
    cell = common_cell([r for r in best.values() if r.kind == "sharpness"])
    found: dict[str, dict[str, Seeds]] = {f.name: {} for f in FIELDS}
    readers: Mapping[str, Callable[[Result], dict[str, Measured]]] = {
        "training": _from_training,
        "hessian": _from_hessian,
        "domains": _from_domains,
        "sharpness": lambda r: _from_sharpness(r, cell),
    }
    # Domains come last: their variance is over all examples of the split as stored, with a hash of them.
    for kind, read in sorted(readers.items(), key=lambda one: one[0] == "domains"):
        for (of, label, member), result in best.items():
            if of == kind:
                for field, measured in read(result).items():
                    found[field].setdefault(label, {})[member] = measured
    return found


def member_of(result: Result) -> object:
    """What tells the results of one label apart: the training seed, or the weights where there is no run."""
    return (
        result.seed
        if result.seed is not None
        else str(result.record.get("weights_hash") or result.record.get("target"))
    )


def _most_examples(result: Result) -> tuple[object, ...]:
    step = (result.record.get("run") or {}).get("step") or 0
    return result.record.get("n_examples") or 0, step, str(result.record.get("target")), str(result.path)


def _from_training(result: Result) -> dict[str, Measured]:
    spec = result.record.get("spec") or {}
    basis = stable_hash([spec.get("data"), spec.get("data_arg"), spec.get("loss"), result.record.get("holdout")])
    final = result.record.get("final") or {}
    fields = ("train_loss", "train_accuracy", "test_accuracy", "unseen_accuracy", "domain_loss_variance")
    return {f: Measured(float(final[f]), basis) for f in fields if final.get(f) is not None}


def _from_hessian(result: Result) -> dict[str, Measured]:
    values = result.data["eigenvalues"].values
    if not len(values):
        return {}
    basis, largest = _basis(result, result.record.get("operator")), float(values[0])
    absolute = float(result.data["residuals"].values[0]) * residual_scale(result)
    return {"lambda_max": Measured(largest, basis, absolute / abs(largest) if largest else None)}


def residual_scale(result: Result) -> float:
    """What the residuals of a ``hessian`` result are relative to: the largest magnitude that its run met."""
    recorded = result.record.get("residual_scale")
    if recorded is not None:
        return float(recorded)
    ends = [result.data[k].values.astype(float) for k in ("eigenvalues", "smallest") if k in result.data]
    found = np.abs(np.concatenate(ends))
    return float(found[np.isfinite(found)].max(initial=0.0))


def _from_domains(result: Result) -> dict[str, Measured]:
    value = result.record.get("loss_variance")
    return {} if value is None else {"domain_loss_variance": Measured(float(value), _basis(result))}


def _from_sharpness(result: Result, cell: tuple[int, float] | None) -> dict[str, Measured]:
    if cell is None:
        return {}
    spec = result.record.get("spec") or {}
    value = result.data["value"].sel(m=cell[0], rho=cell[1])
    return {"m_sharpness": Measured(float(value), _basis(result, spec.get("p"), spec.get("adaptive")))}


def _basis(result: Result, *definition: object) -> str:
    record = result.record
    alike = [record.get(k) for k in ("data_hash", *CONDITIONS) if k != "operator"]
    return stable_hash([*alike, *definition])


def common_cell(results: Sequence[Result]) -> tuple[int, float] | None:
    """The smallest m, then the smallest rho, that every result has."""
    cells = [{(int(m), float(rho)) for m in r.data["m"].values for rho in r.data["rho"].values} for r in results]
    common = set.intersection(*cells) if cells else set()
    return min(common) if common else None

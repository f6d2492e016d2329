"""``sharpness``: how much the loss rises in a small neighbourhood, by the measures of the field."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.errors import NumericalError, UsageError, argument
from ..numerics.intervals import mean_and_stderr
from ..problem.checks.derivatives import derivatives
from ..problem.problem import Problem
from ..problem.require import require_problem
from ..registry import MEASURES
from ..results.result import Result
from ..runtime.caller_context import computing
from ..specs import SharpnessSpec
from .controls import controlled, normalized_logits, output_change, outputs, with_output
from .engine import partition
from .engine.table import dataset

# A measure that changes by more than this share under a control counts as moved.
MOVED = 0.01
_WITHOUT_GRADIENTS = {
    "average-case",
    "average-case-adaptive",
    "local-flatness",
    "pac-bayes-sigma",
    "pac-bayes-sigma-magnitude",
    "weight-norm",
    "distance-from-start",
    "path-norm",
    "log-spectral-norm",
    "margin",
    "parameter-count",
}


# Of a network of which every process holds pieces: compared with one process (tests/processes/sharded.py).
_IN_PIECES = {"m-sharpness", "asam-sharpness", "average-case", "average-case-adaptive", "gradient-norm"}


@computing()
def sharpness(
    problem: Problem,
    spec: SharpnessSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    **options: object,
) -> Result:
    """Measure sharpness at the problem's weights.

    Args:
        problem: Network, loss and examples.
        spec: What to measure; or give its fields as keywords (``m=(1, 16), rho=(0.05,)``).
        seed: Seed of the partition into blocks (the same order serves every ``m``), and of random directions.
        per_domain: Also for the loss of each domain alone.
        **options: Fields of `SharpnessSpec`.

    Returns:
        A row per measure, ``m`` and ``rho`` (``measures`` of the record; columns over ``row``); m-sharpness also as
        ``value``, ``stderr`` and ``n_blocks`` over ``(m, rho)``.

    Raises:
        UsageError: If an ``m`` exceeds the number of examples, or a measure is not defined for this network.
        NumericalError: If a loss is not finite.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> found = landscape.sharpness(problem, measure=("m-sharpness",), m=(1, 20), rho=(0.05,))
        >>> [row["m"] for row in found["measures"]]
        [1, 20]
    """
    require_problem(problem, "sharpness")
    spec = spec or SharpnessSpec.from_options(**options)
    _refuse_in_pieces(problem, spec)
    started = time.perf_counter()
    evaluation = problem.require_finite()
    plain, compared = problem, None
    if not _WITHOUT_GRADIENTS.issuperset(spec.measure):
        curvature = "relative-flatness" in spec.measure
        compared = derivatives(plain, product=curvature).record("hessian" if curvature else "gradient")
    if spec.normalize_logits:
        problem = with_output(problem, normalized_logits)
    measures = measure(problem, spec, seed)
    domains = (
        {n: measure(problem.restrict_to_domain(n), spec, seed) for n in problem.present_domains()}
        if per_domain
        else None
    )
    record = {
        "target": None,
        **plain.describe(),
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "measures": measures,
        "domains": {n: {"measures": rows} for n, rows in domains.items()} if domains else None,
        "partition": partition.describe(problem, seed, spec.blocks),
        "subsets": _describe_subsets(problem, spec.subsets, seed),
        "control": _control(plain, spec, seed) if spec.control else None,
        "derivatives": compared,
        "seed": seed,
        "spec": spec.to_dict(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result("sharpness", dataset(measures, domains), record)


def _refuse_in_pieces(problem: Problem, spec: SharpnessSpec) -> None:
    """Refuse what looks at single weights, of which a process of a sharded network holds a piece.

    Raises:
        UsageError: Naming it.
    """
    if not problem.in_pieces:
        return
    where = "a sharded model"
    if apart := [name for name in spec.measure if name not in _IN_PIECES]:
        fix = f"there is: {', '.join(sorted(_IN_PIECES))}; or gather the model in one process"
        raise UsageError(f"{', '.join(apart)} looks at whole weights", where, fix)
    for wish in ("control", "normalize_logits"):
        if getattr(spec, wish):
            raise UsageError(f"{argument(wish)} changes whole weights or outputs", where, "drop it")


def measure(problem: Problem, spec: SharpnessSpec, seed: int) -> list[dict[str, Any]]:
    """The rows of all measures asked for; over several subsets the mean, with its standard error over them."""
    tables = [_rows(part, spec, seed) for part in partition.subsets(problem, spec.subsets, seed)]
    return tables[0] if len(tables) == 1 else [_joined(same) for same in zip(*tables, strict=True)]


def _rows(problem: Problem, spec: SharpnessSpec, seed: int) -> list[dict[str, Any]]:
    rows = []
    for name in spec.measure:
        for found in MEASURES.load(name)(problem, spec, seed):
            if found.value is not None and not np.isfinite(found.value):
                place = "".join(f", {k}={v:g}" for k, v in (("m", found.m), ("rho", found.rho)) if v is not None)
                raise NumericalError(
                    f"{name} with {place[2:]} is {found.value}" if place else f"{name} is {found.value}",
                    "the perturbed loss",
                    "use a smaller `rho=`" if found.rho is not None else "check weights and data",
                )
            fields = ("m", "rho", "p", "adaptive", "value", "stderr", "n_blocks")
            rows.append({"measure": name, **{f: getattr(found, f) for f in fields}, **found.facts})
    return rows


def _joined(same: Sequence[dict[str, Any]]) -> dict[str, object]:
    """One row from the rows of several subsets; a further field that is not the same in all is a list."""
    apart = {k: [row.get(k) for row in same] for k in dict.fromkeys(k for row in same for k in row)}
    row = {k: v[0] if all(one == v[0] for one in v) else v for k, v in apart.items()}
    if "note" in row:
        row["note"] = next(note for note in apart["note"] if note)
    values = apart["value"]
    value, stderr = (None, None) if any(v is None for v in values) else mean_and_stderr(values)
    return {**row, "value": value, "stderr": stderr, "subset_values": values}


def _describe_subsets(problem: Problem, count: int, seed: int) -> dict[str, object] | None:
    if count == 1:
        return None
    parts = partition.subsets(problem, count, seed)
    return {"count": count, "size": parts[0].n_examples, "data_hashes": [p.data_hash for p in parts]}


def _control(problem: Problem, spec: SharpnessSpec, seed: int) -> dict[str, object]:
    """Every measure on the changed networks, and whether it moved."""
    assert spec.control is not None
    networks, pairs = controlled(problem, spec.control)
    reference = outputs(problem, problem.model)
    tables, points = [], []
    for factor, changed in networks:
        here = with_output(changed, normalized_logits) if spec.normalize_logits else changed
        evaluation = changed.require_finite()
        points.append(
            {
                "factor": factor,
                "loss": evaluation.loss,
                "accuracy": evaluation.accuracy,
                "output_change": output_change(reference, outputs(changed, changed.model)),
            }
        )
        tables.append(measure(here, spec, seed))
    moves = []
    for same in zip(*tables, strict=True):
        keep = {k: same[0].get(k) for k in ("measure", "m", "rho", "p", "adaptive", "layer")}
        values = [row["value"] for row in same]
        moves.append({**keep, "values": values, **_moved(values)})
    return {
        "kind": spec.control,
        "layers": [{"scaled": p.first, "undone_by": p.second, "batchnorm": p.norm} for p in pairs],
        "networks": points,
        "measures": moves,
        "moved_above": MOVED,
    }


def _moved(values: Sequence[float | None]) -> dict[str, object]:
    """The largest change relative to the unchanged network's value, and whether it is one."""
    if any(v is None for v in values):
        return {"largest_change": None, "moves": None if all(v is None for v in values) else True}
    numbers = np.array(values, dtype=float)
    change = float(np.abs(numbers - numbers[0]).max() / max(abs(numbers[0]), 1e-30))
    return {"largest_change": change, "moves": change > MOVED}

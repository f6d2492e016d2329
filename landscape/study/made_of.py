"""Whether what a study keeps was made of the code and the examples that its experiment names today."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from ..base.code_files import version
from ..base.errors import LandscapeError
from ..base.files import stable_hash
from ..base.names import Registry
from ..base.plugins import resolve
from ..data.splits import open_data
from ..registry import DATA, LOSSES, MODELS
from ..results.identity import ALGORITHMS
from ..results.provenance import LIBRARIES
from ..specs import ProblemSpec, key_values
from ..specs.cells import Cell
from ..specs.study import Analysis
from ..specs.train import TrainSpec

log = logging.getLogger(__name__)

Record = dict[str, Any]


def code_of(kind: str, spec: TrainSpec | ProblemSpec) -> str:
    """A hash of the code that a training or an analysis runs: what it is made of besides settings and examples."""
    named = ((spec.data, DATA), (spec.model, MODELS), (spec.loss, LOSSES))
    codes = [_code(name, registry.kind) for name, registry in named if name]
    return stable_hash([ALGORITHMS[kind], str(torch.__version__), codes])


@cache
def examples_of(data: str, data_arg: tuple[str, ...]) -> dict[str, str]:
    """The fingerprint of each split's examples."""
    splits = open_data(resolve(data, DATA), key_values(data_arg, "data_arg"))
    return {name: examples.fingerprint() for name, examples in splits.items()}


def current(
    record: Record, cell: Cell, asked: Iterable[tuple[Analysis, int]], *, examples: bool = False
) -> tuple[Record, list[str]]:
    """A model's record without what was made of other code, or of other examples; and what that is.

    Args:
        record: As it is kept.
        cell: The model.
        asked: Its analyses, each with a seed.
        examples: Look at the examples, too, which reads the data once.
    """
    training = record.get("training")
    if not training or training["status"] == "failed":
        return record, []
    if training.get("code") is None and not examples:  # kept before code was recorded
        return record, []
    try:
        same = training.get("code") == code_of("training", cell.spec)
        if same and examples:
            same = training["data_hash"] == examples_of(cell.spec.data, cell.spec.data_arg)
    except LandscapeError as error:  # what is kept can be looked at all the same
        log.info("cannot tell whether %s was made of the same code: %s", cell.name, error)
        return record, []
    if not same:
        return {**record, "training": None, "analyses": {}}, ["training"]
    analyses = dict(record["analyses"])
    dropped = []
    for analysis, seed in asked:
        entry = analyses.get(analysis.key(seed))
        if entry and entry["status"] == "done" and entry.get("code") != code_of(analysis.kind, analysis.problem):
            dropped.append(f"{analysis.kind}, seed {seed}")
            del analyses[analysis.key(seed)]
    return {**record, "analyses": analyses}, dropped


@cache
def _code(name: str, kind: str) -> object:
    registry: Registry = {r.kind: r for r in (DATA, MODELS, LOSSES)}[kind]
    made = resolve(name, registry).record
    library = LIBRARIES.get(name.partition(":")[0])
    return made.get("code", [made["name"], version(library) if library else None])

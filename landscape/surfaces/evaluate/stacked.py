"""Several points of a surface in one pass: a row of weights for each, by ``torch.func.vmap``.

A pass of a small network is mostly calls, and a stacked one makes as many of them for all its points as for one.
Whether that is faster is measured on the first points, both ways, and only for networks whose calls are small enough
that it might be; the numbers have to be the same to rounding. Where they are not, or where an operation cannot be
vectorised, points are taken one at a time.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ...base.errors import LandscapeError, is_the_machine
from ...base.process_state import one_at_a_time
from ...data.examples import Batch
from ...data.losses import prediction
from ...measures.engine.blockwise import output_at, room, work_of_one
from ...problem.problem import Problem
from ...runtime.accelerators import synchronize
from .batchnorm import batchnorm_layers

if TYPE_CHECKING:
    from .evaluator import Evaluator, Move

log = logging.getLogger(__name__)

# Operations (2 per multiply-add) that a call in a pass does on average, up to which it is worth a look on a CPU.
_PLAUSIBLE = 5e5
_LEAST = 4  # points in a pass: fewer do not pay
_ENOUGH = 64  # points in a surface that make up for finding out
_SAMPLE = 4  # points that are compared
_SOME = 16  # points whose time is taken
_PAYS = 0.9  # of the time one at a time: what saves less is not worth other bits
_HOPELESS = 1.2
_AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-10}


class Choice(NamedTuple):
    """How many points a pass takes, and why."""

    at_once: int
    because: str


def outputs_at(problem: Problem, points: Tensor, batch: Batch) -> Tensor:
    """The network's outputs for a batch ``(passes, n, ...)``, at rows of weights ``(passes, n_parameters)``."""

    def of(point: Tensor) -> Tensor:
        moved = dict(zip(problem.space.names, problem.space.own(point), strict=True))
        return prediction(output_at(problem, moved, batch.inputs))

    found: Tensor = vmap(of)(points)
    return found


def penalties_at(problem: Problem, points: Tensor) -> Tensor:
    """Weight decay's part of the loss at each row of ``points``, ``(passes,)``, float64."""

    def of(point: Tensor) -> Tensor:
        return problem.penalty_at(dict(zip(problem.space.names, problem.space.own(point), strict=True)))

    found: Tensor = vmap(of)(points)
    return found


def choose(walker: Evaluator, places: Sequence[Sequence[Move]], in_row: int, in_all: int) -> Choice:
    """How the points of a surface are best taken.

    Args:
        walker: Evaluates; its tallies have seen the centre.
        places: The first points, as many as are taken in one go at most.
        in_row: Points in a row, which are taken together or in even parts.
        in_all: How many points there will be.

    Raises:
        LandscapeError: Whatever a pass raises.
    """
    if in_all < _ENOUGH:
        return Choice(1, "there are few points")
    unfit = _unfit(walker)
    if unfit:
        return Choice(1, unfit)
    many = _fitting(walker, len(places), in_row)
    if many < _LEAST:
        return Choice(1, "few points fit into one pass")
    some = list(places[: min(many, _SOME)])
    sample = some[:: -(-len(some) // _SAMPLE)]
    try:
        with one_at_a_time(), warnings.catch_warnings():
            # An operation that vmap itself takes point by point, and warns about, is not worth it.
            warnings.filterwarnings("error", message="There is a performance drop")
            compared = walker.stacked(sample)
    except Exception as error:
        if isinstance(error, LandscapeError) or is_the_machine(error):
            raise
        walker.forget()
        return Choice(1, f"the network cannot be vectorised ({str(error).splitlines()[0][:120]})")
    alone = float("inf")
    for _ in range(2):  # the first one finds other things in the processor's cache than its successors
        began = _now(walker.problem.device)
        plain = walker.singly(sample)
        alone = min(alone, (_now(walker.problem.device) - began) / len(sample))
    if not _agree(compared, plain, _AGREEMENT[walker.problem.dtype]):
        log.warning("points are taken one at a time: vectorised, the network gives other numbers")
        return Choice(1, "vectorised, the network gives other numbers")
    for few in (some, places[:many]):  # where some are no slower, as many as there will be may be faster
        began = _now(walker.problem.device)
        walker.stacked(few)
        share = (_now(walker.problem.device) - began) / (alone * len(few))
        if share < _PAYS:
            return Choice(many, "measured: faster than one at a time")
        if share > _HOPELESS:
            break
    return Choice(1, "measured: as fast as several at once")


def _unfit(walker: Evaluator) -> str:
    """Why points are taken one at a time without a measurement; empty where one is worth it."""
    problem = walker.problem
    if not walker.reduced_together:
        return "the loss may look at all that it is given together, or a pass has too many outputs to wait"
    if walker.policy != "keep" and batchnorm_layers(problem.model):
        return "BatchNorm's statistics are other ones at each point"
    if problem.forgotten:
        return "the network keeps values between its calls"
    work = work_of_one(problem)
    at_a_time = max(min(p.batch_size, p.n_examples) for p in walker.problems)
    if problem.device.type == "cpu" and work.operations * at_a_time > _PLAUSIBLE * max(1, work.calls):
        return "its operations are large"
    return ""


def _fitting(walker: Evaluator, places: int, in_row: int) -> int:
    """Points in a pass: what fits, whole rows or an even part of one."""
    problem = walker.problem
    rows, passed = room(problem)
    examples = max(min(p.batch_size, p.n_examples) for p in walker.problems)
    most = min(
        rows // problem.weights.nbytes,
        passed // max(1, work_of_one(problem).nbytes * examples),
        walker.room,
        places,
    )
    if most >= in_row:
        return most // in_row * in_row
    return -(-in_row // -(-in_row // most)) if most else 0


def _now(device: torch.device) -> float:
    """Seconds of work: processor time, or of an accelerator the time when all that it was given is done."""
    if device.type == "cpu":
        return time.process_time()
    synchronize(device)
    return time.perf_counter()


def _agree(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Whether `batch_sums` ``(points, 5, domains)`` are the same to rounding, which may turn the class of a few."""
    hits = (first[:, 1] - second[:, 1]).nan_to_num(nan=0.0)
    few = 1 + second[:, 3].max() / 200
    return (
        torch.allclose(first[:, 0], second[:, 0], rtol=tolerance, atol=tolerance, equal_nan=True)
        and bool(hits.abs().max() <= few)
        and torch.equal(first[:, 2:], second[:, 2:])
    )

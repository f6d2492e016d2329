"""Losses and gradients of many blocks, each block at a point of its own.

A `Group` is a run of equal blocks that are asked together. Two ways answer: `Looped` takes one block after the
other, through the micro-batches of `Problem`; `Stacked` takes all blocks of the group in one call of
``torch.func.vmap``, with a row of weights for each. Stacking saves the fixed cost of calls, which rules as long
as each does little work; with large blocks the batched kernels (grouped convolutions above all) are slower than
the plain ones. `STACK_BELOW` is where the two cross on a CPU, as measured by ``tests/benchmarks/sharpness.py``; on an
accelerator, whose fixed cost of a call is another on each, both ways are timed once.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from ...autograd.functional import called_with
from ...base.errors import LandscapeError, is_out_of_memory, is_the_machine
from ...base.process_state import one_at_a_time
from ...base.progress import report
from ...data.examples import Indices
from ...data.loss_values import mean_loss
from ...numerics.trees import map_tensors
from ...problem.forward import forward
from ...problem.problem import Problem
from ...problem.with_loss import WithLoss
from ...runtime.accelerators import synchronize
from ...runtime.devices import wide
from ...runtime.distributed import all_gather_rows, is_distributed, no_sharding, rank_and_world_size, shard
from ...runtime.memory import free_memory
from ...runtime.precision import full_precision
from ...sharding.vectors import same_memory
from .flops import Flops, forward_work

log = logging.getLogger(__name__)

_WORK: WeakKeyDictionary[torch.nn.Module, Flops] = WeakKeyDictionary()  # of one example's forward pass
_STACKABLE: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()

_STACKED_FASTER: WeakKeyDictionary[torch.nn.Module, dict[tuple[str, int], bool]] = WeakKeyDictionary()

# Operations (2 per multiply-add) that a call in a block's forward pass does on average, up to which stacking is the
# faster way on a CPU.
STACK_BELOW = 2.5e6
# Bytes of a group's rows of weights, and of what its forward pass returns: on a CPU they should stay in its cache. On
# an accelerator each may take a share of what is free.
_ROW_BYTES, _FORWARD_BYTES = 2**22, 2**24
_SHARE_OF_FREE = 8
_LEAST = 8  # blocks in a group: fewer do not pay
_AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-9}


class Group(Protocol):
    """Some blocks of equal size. Points are absolute weights, one row per block, ``(blocks, n_parameters)``."""

    sizes: list[int]

    def losses(self, points: Tensor) -> Tensor:
        """Loss of each block at its point, ``(blocks,)``, float64."""
        ...

    def losses_and_gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The same with gradients, ``(blocks, n_parameters)``; one row of points stands for all blocks."""
        ...


class Looped:
    """One block, through the problem's own passes."""

    def __init__(self, problem: Problem, positions: Indices) -> None:
        self.block = problem.restrict_to_examples(positions)
        self.sizes = [len(positions)]

    def losses(self, points: Tensor) -> Tensor:
        """See `Group`."""
        with self._at(points):
            return self.block.loss_tensor()[None]

    def losses_and_gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `Group`."""
        with self._at(points), torch.enable_grad():
            loss, gradient = self.block.loss_and_gradient()
        return loss[None], gradient[None]

    @contextmanager
    def _at(self, points: Tensor) -> Iterator[None]:
        if same_memory(points, self.block.weights):
            yield
            return
        with self.block.temporary_weights():
            self.block.space.write(points[0])
            yield


class Stacked:
    """Several blocks of equal size in one vectorised call."""

    def __init__(self, problem: Problem, parts: Sequence[Indices]) -> None:
        self.problem = problem
        batch = problem.examples.batch(np.concatenate(parts)).to(problem.device, problem.dtype)
        shape = (len(parts), len(parts[0]))

        def rows(tensor: Tensor) -> Tensor:
            return tensor.reshape(*shape, *tensor.shape[1:])

        self.inputs, self.targets = map_tensors(batch.inputs, rows), map_tensors(batch.targets, rows)
        self.sizes = [len(p) for p in parts]

    def losses(self, points: Tensor) -> Tensor:
        """See `Group`."""
        with torch.no_grad(), full_precision(self.problem.device):
            values: Tensor = vmap(self._loss, (0, 0, 0))(points, self.inputs, self.targets)
        return wide(values)

    def losses_and_gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `Group`."""
        shared = len(points) == 1
        call = vmap(grad_and_value(self._loss), (None if shared else 0, 0, 0))
        with full_precision(self.problem.device):
            gradients, values = call(points[0] if shared else points, self.inputs, self.targets)
        return wide(values.detach()), gradients.detach()

    def _loss(self, point: Tensor, inputs: object, targets: object) -> Tensor:
        parameters = dict(zip(self.problem.space.names, self.problem.space.own(point), strict=True))
        output = output_at(self.problem, parameters, inputs)
        loss = mean_loss(self.problem.loss_function, output, targets)
        return loss + self.problem.penalty_at(parameters) if self.problem.weight_decay else loss


def output_at(problem: Problem, tensors: Mapping[str, Tensor], inputs: object) -> object:
    """The network's output with the parameters called so, as a function that ``torch.func`` can transform."""
    named = {f"model.{k}": v for k, v in tensors.items()}
    return called_with(_Forward(problem.model), named, (inputs,))


class _Forward(torch.nn.Module):
    """`forward` as a module, since inputs may be a tensor, a tuple or a dictionary."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        """The model's output."""
        return forward(self.model, inputs)


def groups(problem: Problem, parts: Sequence[Indices], way: str | None = None) -> Iterator[Group]:
    """Cut blocks into groups, in order.

    Args:
        problem: Network, loss and examples.
        parts: Positions of each block; only the last may differ in size.
        way: ``"loop"`` or ``"stack"``; None takes the one that is faster by the measured rule.
    """
    way = way or rule(problem, parts)
    if way == "loop":
        _ = problem.weighted  # asked once, not for each block
        yield from (Looped(problem, part) for part in parts)
        return
    m = len(parts[0])
    even = [p for p in parts if len(p) == m]
    many = _blocks_at_once(problem, m)
    for start in range(0, len(even), many):
        yield Stacked(problem, even[start : start + many])
    for part in parts[len(even) :]:
        yield Looped(problem, part)


def _blocks_at_once(problem: Problem, m: int) -> int:
    """How many blocks of ``m`` examples are a group."""
    rows, passed = room(problem)
    return max(_LEAST, min(rows // problem.weights.nbytes, passed // (work_of_one(problem).nbytes * m)))


def room(problem: Problem) -> tuple[int, int]:
    """Bytes that a group's rows of weights may take, and what its forward pass returns."""
    if problem.device.type == "cpu":
        return _ROW_BYTES, _FORWARD_BYTES
    return (free_memory(problem.device) // _SHARE_OF_FREE,) * 2


def rule(problem: Problem, parts: Sequence[Indices]) -> str:
    """``"stack"`` if that is faster for the network's blocks and it can be stacked, else ``"loop"``.

    The network is looked at once; the answer for it is kept as long as the network is.
    """
    on_cpu = problem.device.type == "cpu"
    m = len(parts[0])
    if isinstance(problem.model, WithLoss):  # its loss is no function of outputs alone
        return "loop"
    if problem.in_pieces:
        return "loop"
    if problem.mode == "train":  # what a layer does to a batch, or a draw, is not the same for many at once
        return "loop"
    if len(parts) < 2 or m > problem.batch_size or problem.weights.nbytes > room(problem)[0]:
        return "loop"
    work = work_of_one(problem)
    if on_cpu and work.operations * m > STACK_BELOW * work.calls:
        return "loop"
    if problem.model not in _STACKABLE:
        _STACKABLE[problem.model] = _agree(problem, parts[:2] if len(parts[1]) == m else parts[:1])
    stacks = _STACKABLE[problem.model] and (on_cpu or _stacked_is_faster(problem, parts))
    return "stack" if stacks else "loop"


def _stacked_is_faster(problem: Problem, parts: Sequence[Indices]) -> bool:
    """Whether a block of a group takes less time than a block alone on this device, measured once."""
    m = len(parts[0])
    known = _STACKED_FASTER.setdefault(problem.model, {})
    if (str(problem.device), m) not in known:
        even = [p for p in parts if len(p) == m][: _blocks_at_once(problem, m)]
        alone, centre = Looped(problem, even[0]), problem.weights[None]
        try:
            group = Stacked(problem, even)
            together = _seconds(problem.device, lambda: group.losses_and_gradients(centre)) / len(even)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            together = float("inf")
        found = together < _seconds(problem.device, lambda: alone.losses_and_gradients(centre))
        known[str(problem.device), m] = found
    return known[str(problem.device), m]


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    """The shorter of two calls, after one that chooses kernels."""
    taken = []
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def work_of_one(problem: Problem) -> Flops:
    """The work of one example's forward pass, counted once for a network."""
    if problem.model not in _WORK:
        _WORK[problem.model] = forward_work(problem, np.arange(1))
    return _WORK[problem.model]


def _agree(problem: Problem, parts: Sequence[Indices]) -> bool:
    """Whether stacking works for this network and loss: on the first blocks it must give what the loop gives.

    Also with a row of weights for each block, which lies in memory otherwise than one for all. An operation that
    ``vmap`` itself takes example by example, and warns about, is not worth it.
    """
    centre = problem.weights[None]
    group = Stacked(problem, parts)
    try:
        with one_at_a_time(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")
            stacked = group.losses_and_gradients(centre)
            if len(parts) > 1:
                group.losses_and_gradients(centre.repeat(len(parts), 1))
            plain = group.losses(centre.repeat(len(parts), 1))  # a forward may ask whether gradients are wanted
    except Exception as error:
        if isinstance(error, LandscapeError) or is_the_machine(error):
            raise
        log.info("blocks are taken one by one: the network cannot be vectorised (%s)", str(error).split("\n")[0])
        return False
    for k, part in enumerate(parts):
        loss, gradient = Looped(problem, part).losses_and_gradients(centre)
        tolerance = _AGREEMENT[problem.dtype]
        scale = torch.linalg.vector_norm(gradient) + tolerance
        if not (
            all(
                torch.allclose(values[k], loss[0], rtol=tolerance, atol=tolerance, equal_nan=True)
                for values in (stacked[0], plain)
            )
            and float(torch.linalg.vector_norm(stacked[1][k] - gradient[0]) / scale) <= tolerance
        ):
            log.warning("blocks are taken one by one: vectorised, the network gives other numbers")
            return False
    return True


def over_groups(
    problem: Problem, parts: Sequence[Indices], function: Callable[[Group], Tensor], way: str | None = None
) -> Iterator[tuple[int, Tensor]]:
    """What ``function`` gives for each group, ``(..., blocks)``, and how many blocks are done.

    A group that does not fit into memory is halved. Several processes share the blocks, and give each other what
    they found at the end; blocks that are fewer than processes are taken one by one, each by all of them together.
    """
    if is_distributed() and (problem.in_pieces or len(parts) < rank_and_world_size()[1]):
        yield from _in_order(problem, parts, function, "loop")
    elif is_distributed():
        own = parts[shard(len(parts))]
        with no_sharding():
            found = []
            for done, values in _in_order(problem, own, function, way):
                found.append(values)
                report(f"blocks of process {rank_and_world_size()[0]}", done, len(own))
        whole = all_gather_rows(torch.cat(found, dim=-1).movedim(-1, 0), len(parts), problem.device)
        yield len(parts), whole.movedim(0, -1)
    else:
        yield from _in_order(problem, parts, function, way)


def _in_order(
    problem: Problem, parts: Sequence[Indices], function: Callable[[Group], Tensor], way: str | None
) -> Iterator[tuple[int, Tensor]]:
    done = 0
    for group in groups(problem, parts, way):
        for values in _halving(problem, parts, done, group, function):
            done += values.shape[-1]
            yield done, values


def _halving(
    problem: Problem, parts: Sequence[Indices], start: int, group: Group, function: Callable[[Group], Tensor]
) -> Iterator[Tensor]:
    try:
        yield function(group)
    except (RuntimeError, MemoryError) as error:
        count = len(group.sizes)
        if isinstance(error, LandscapeError) or not is_out_of_memory(error) or count == 1:
            raise
        log.warning("out of memory: %d blocks at once instead of %d, same result", count // 2, count)
        half = count // 2
        for a, b in ((start, start + half), (start + half, start + count)):
            yield from _halving(problem, parts, a, Stacked(problem, parts[a:b]), function)

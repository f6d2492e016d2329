"""Products of a curvature matrix of the mean loss with vectors: fast where memory allows, right everywhere.

For a matrix that is a sum over micro-batches, `Products` builds each batch's graph once and keeps it while a
memory budget lasts; a product then only walks it (a Hessian product costs 2 gradients at best, against 2.67 when
the graph is built anew). What does not fit is rebuilt in every product. The matrix is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..autograd.second_derivatives import missing_derivative
from ..base.errors import NumericalError, is_out_of_memory
from ..base.progress import Inside
from ..numerics.layouts import plain_parts
from ..runtime.caller_context import computing
from ..runtime.memory import free_memory
from ..runtime.precision import full_precision
from ..sharding.assembly import regathering
from .checks.substitutions import require_equal_forms
from .passes import refuse_autocast

if TYPE_CHECKING:
    from ..data.examples import Batch
    from .problem import Problem

Apply = Callable[[Sequence[Tensor], bool], Tensor]
"""Parts of a vector (`ParameterSpace.own`), and whether the graph is used again, to the batch's product ``(n,)``."""
Build = Callable[["Problem", "Batch", int], Apply]
"""Builds the graph of one batch; the integer is the position of its first example."""

_SHARE = 0.5  # of the free memory, for kept graphs, where no budget is given


def hessian_of_batch(problem: Problem, batch: Batch, first_example: int) -> Apply:
    """The Hessian of a batch's summed loss, by double backward (reverse over reverse)."""
    space = problem.space
    with problem.twice_differentiable():
        loss = problem.batch_sum(batch)
    problem.check_custom_autograd_functions(loss)
    if not loss.requires_grad:
        return zero(problem)
    gradient = torch.autograd.grad(loss, space.tensors, create_graph=True, allow_unused=True)
    live = [i for i, g in enumerate(gradient) if g is not None and g.requires_grad]
    if not live:  # the gradient does not depend on the weights
        return zero(problem)

    def apply(parts: Sequence[Tensor], again: bool) -> Tensor:
        outer = [gradient[i] for i in live]
        found = torch.autograd.grad(
            outer, space.tensors, [parts[i] for i in live], retain_graph=again, allow_unused=True
        )
        return space.flatten(found)

    return apply


def zero(problem: Problem) -> Apply:
    """The product of a batch that contributes nothing."""
    nothing = problem.space.flatten([None] * len(problem.space.names))
    return lambda parts, again: nothing


@dataclass
class _Kept:
    apply: Apply
    bytes: int


class Products:
    """Products with the sum over all examples of what ``build`` gives, divided by the problem's total weight.

    Graphs are dropped when a weight was written to, when the micro-batches change, when memory runs out, and at
    the end of a ``with`` block.

    Args:
        problem: Network, loss and examples.
        build: What is summed, as one graph per micro-batch.
        memory: Bytes for kept graphs; None takes half of what is free, 0 keeps nothing.
    """

    def __init__(self, problem: Problem, build: Build = hessian_of_batch, *, memory: int | None = None) -> None:
        self.problem, self.build = problem, build
        self.budget = free_memory(problem.device) * _SHARE if memory is None else memory
        if problem.in_pieces:  # a kept graph would hold whole weights, and processes would keep different ones
            self.budget = 0
        self.graph_bytes = 0
        self.kept_share = 0.0
        self._kept: dict[int, _Kept] = {}
        self._bytes_per_example = 0.0
        self._of: Any = None

    @computing()  # around what gets by with less memory
    def __call__(self, vector: Tensor) -> Tensor:
        """The product with ``vector`` ``(n,)``, in the problem's type; not checked for finiteness.

        Raises:
            NumericalError: If an operation of the model has no second derivative, or its equal form another value.
        """
        problem = self.problem
        refuse_autocast(problem.device)
        require_equal_forms(problem)
        parts = problem.space.own(vector.to(problem.device, problem.dtype))
        weight = problem.total_weight
        return problem.summed(self._own_sum(parts))[0] / weight

    def _own_sum(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What the examples of this process contribute."""
        problem = self.problem
        while True:
            try:
                self._forget_stale()
                with torch.enable_grad(), full_precision(problem.device):  # also inside `temporary_weights`
                    return self._sum(parts)
            except (RuntimeError, MemoryError) as error:
                if self._kept or self.budget:
                    if not is_out_of_memory(error):
                        raise missing_derivative(error) from error
                    self.budget = 0  # first the kept graphs, then the micro-batches
                    self.drop()
                    continue
                problem.shrink_after(missing_derivative(error))

    def drop(self) -> None:
        """Let go of all kept graphs."""
        self._kept.clear()

    def __enter__(self) -> Products:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def facts(self) -> dict[str, Any]:
        """What was decided, for the record."""
        return {
            "memory_budget": int(self.budget),
            "kept_graph_bytes": self.graph_bytes,
            "kept_share_of_batches": round(self.kept_share, 4),
        }

    def _sum(self, parts: Sequence[Tensor]) -> list[Tensor]:
        if self.problem.in_pieces:
            with regathering():
                return self._summed(parts)
        return self._summed(parts)

    def _summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        total: Tensor | None = None
        start, batches = self.problem.stretch.start, 0
        inside = Inside("examples of a product", self.problem.stretch.stop - start)
        for index, batch in enumerate(self.problem.micro_batches()):
            product = self._of_batch(index, batch, start, parts)
            total = product if total is None else total + product
            start += len(batch)
            batches += 1
            inside.at(start - self.problem.stretch.start)
        if total is None:
            return []
        self.kept_share = max(self.kept_share, len(self._kept) / batches)
        return [total]

    def _of_batch(self, index: int, batch: Batch, start: int, parts: Sequence[Tensor]) -> Tensor:
        kept = self._kept.get(index)
        if kept is not None:
            return kept.apply(parts, True)
        used = sum(k.bytes for k in self._kept.values())
        # A graph is about as large per example as the first one was: no need to build it to know.
        if not self.budget or used + len(batch) * self._bytes_per_example > self.budget:
            return self.build(self.problem, batch, start)(parts, False)
        try:
            with _counting_saved_bytes() as saved:
                apply = self.build(self.problem, batch, start)
        except RuntimeError as error:
            if not _refuses_counting(error):
                raise
            self.budget = 0  # nobody knows how large a graph is
            return self.build(self.problem, batch, start)(parts, False)
        size = sum(saved.values())
        self._bytes_per_example = size / len(batch)
        fits = used + size <= self.budget
        product = apply(parts, fits)
        if fits:
            self._kept[index] = _Kept(apply, size)
            self.graph_bytes = max(self.graph_bytes, used + size)
        return product

    def _forget_stale(self) -> None:
        """Drop graphs of weights that were written to, or of other micro-batches."""
        part = self.problem.stretch
        now = (self.problem.batch_size, part.start, part.stop, tuple(t._version for t in self.problem.space.tensors))
        if now != self._of:
            self.drop()
            self._of = now


@contextmanager
def _counting_saved_bytes() -> Iterator[dict[int, int]]:
    """Collect the storages that autograd saves inside the block: address to bytes."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> tuple[Tensor, int]:
        for part in plain_parts(tensor):
            storage = part.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        # Autograd restores its place in the graph; the tensor itself would close a cycle.
        return tensor.detach(), tensor._version

    def unpack(saved: tuple[Tensor, int]) -> Tensor:
        tensor, version = saved
        if tensor._version != version:  # without hooks autograd looks itself
            raise RuntimeError("a variable needed for gradient computation has been modified by an inplace operation")
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield found


def _refuses_counting(error: RuntimeError) -> bool:
    """Whether ``error`` means that transforms of ``torch.func`` in a forward do not let their tensors be counted."""
    return "saved tensor hooks" in str(error) or "invalid python storage" in str(error)


def require_finite(values: Sequence[float], problem: Problem) -> None:
    """Refuse a product that is not finite.

    Raises:
        NumericalError: If any value is NaN or infinite.
    """
    if not all(v - v == 0 for v in values):
        raise NumericalError(
            "a curvature product is not finite",
            f"{problem.loss_name} over {problem.n_examples} examples",
            "check the weights and the data, or use `dtype='float64'`",
        )

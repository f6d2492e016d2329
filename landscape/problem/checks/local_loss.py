"""The loss of a few examples near a problem's weights, for checks of its derivatives in float64.

Near, and not there: at the weights themselves a unit may stand exactly at a kink (a ReLU of zeros), and a gradient
may be too small to be compared with anything. Directions move each parameter in proportion to its own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...autograd.second_derivatives import custom_functions
from ...numerics.trees import leaves
from ...runtime.devices import wide
from ...runtime.distributed import any_process
from ...runtime.memory import free_memory
from ...runtime.precision import full_precision
from ...runtime.random_state import preserved_random_state
from ...sharding.assembly import pieces_of

if TYPE_CHECKING:
    from ..problem import Problem

EXAMPLES = 4
_AWAY = 0.01  # from the weights, relative to each parameter's size


class LocalPoint:
    """The loss of a few examples near a problem's weights, along one random direction.

    Args:
        problem: The problem, whose parameters are moved.
        dtype: Type that its network has now.
    """

    def __init__(self, problem: Problem, dtype: torch.dtype) -> None:
        positions = np.unique(np.linspace(0, problem.n_examples - 1, EXAMPLES).astype(int))
        self.problem, self.names = problem, problem.space.names
        self.tensors: list[Tensor] = list(problem.space.tensors)
        self.batch = problem.examples.batch(positions).to(problem.device, dtype)
        self.examples, self.batch_dtype = len(positions), dtype
        self._generator = generator = torch.Generator().manual_seed(0)  # on the CPU: devices agree
        self.sizes = _sizes(problem.space.whole_from_own(self.tensors))

        def drawn() -> list[Tensor]:
            if problem.in_pieces:  # what several processes hold alike has to stay alike
                vector = problem.space.draws(problem.device).normal(generator).to(dtype)
                return [d * s for d, s in zip(problem.space.own(vector), self.sizes, strict=True)]
            return [
                torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) * s
                for t, s in zip(self.tensors, self.sizes, strict=True)
            ]

        self.centre = [t + _AWAY * d for t, d in zip(self.tensors, drawn(), strict=True)]
        self.direction = drawn()
        for tensor, row in _padding(problem.model, self.tensors):
            self.direction[tensor][row] = 0  # constant, as torch has it
        self.move(0.0)

    def move(self, step: float, only: Sequence[int] | None = None) -> None:
        """Move to centre + step · direction, along some of the parameters only."""
        with torch.no_grad():
            torch._foreach_copy_(self.tensors, self.centre)
            moving = range(len(self.tensors)) if only is None else only
            torch._foreach_add_([self.tensors[i] for i in moving], [self.direction[i] for i in moving], alpha=step)

    def turn(self) -> None:
        """Take another random direction: some entries the other way."""
        if self.problem.in_pieces:
            other = self.problem.space.draws(self.problem.device).normal(self._generator)
            for d, s in zip(self.direction, self.problem.space.own(other), strict=True):
                d.mul_(s.sign())
            return
        for d in self.direction:
            signs = torch.randint(0, 2, d.shape, generator=self._generator).to(d.device)
            d.mul_(2 * signs - 1)

    def loss(self) -> Tensor:
        """Mean loss here, shape ``()``, without a graph."""
        with torch.no_grad():
            return self.problem.batch_loss(self.batch)

    def rounding(self) -> float:
        """How far a loss made of outputs as large as those here may be off by rounding alone."""
        with torch.no_grad():
            found = self.problem.output(self.batch)
        found = found if isinstance(found, (Tensor, tuple, list, Mapping)) else getattr(found, "__dict__", {})
        sizes = [t.abs() for t in leaves(found) if t.is_floating_point() or t.is_complex()]
        largest = max((float(t[t.isfinite()].max()) for t in sizes if bool(t.isfinite().any())), default=0.0)
        return largest * torch.finfo(self.batch_dtype).eps

    def loss_with_equal_forms(self, only: Sequence[str] | None = None) -> tuple[Tensor, set[str]]:
        """The same as curvature products compute it, and the names of what was replaced.

        Args:
            only: Names of operations to replace; None: all.
        """
        used: set[str] = set()
        with torch.no_grad(), self.problem.twice_differentiable(used, only):
            return self.problem.batch_loss(self.batch), used

    def gradient(self) -> list[Tensor]:
        """As autograd has it, each part times the size of its parameter."""
        with torch.enable_grad():
            return self._scaled(self._grad(self.problem.batch_loss(self.batch)))

    def product(self) -> list[Tensor]:
        """The Hessian of the loss here times the direction, as curvature products have it; scaled likewise."""
        with torch.enable_grad():
            with self.problem.twice_differentiable():
                loss = self.problem.batch_loss(self.batch)
            custom_functions(loss)
            first = self._grad(loss, create_graph=True)
            live = [i for i, g in enumerate(first) if g is not None and g.requires_grad]
            if not live:
                return self._scaled([None] * len(first))
            outer: Any = [first[i] for i in live]
            along = [self.direction[i] for i in live]
            return self._scaled(torch.autograd.grad(outer, self.tensors, along, allow_unused=True))

    def quotient(
        self, ask: Callable[[], list[Tensor]], step: float, only: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Central difference of what ``ask`` gives."""
        ends = []
        for sign in (1, -1):
            self.move(sign * step, only)
            ends.append(ask())
        self.move(0.0)
        return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]

    def _grad(self, loss: Tensor, *, create_graph: bool = False) -> Sequence[Tensor | None]:
        if not loss.requires_grad:
            return [None] * len(self.tensors)
        return torch.autograd.grad(loss, self.tensors, create_graph=create_graph, allow_unused=True)

    def _scaled(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        dense = (
            torch.zeros_like(t) if p is None else p.detach().to_dense() if p.is_sparse else p.detach()
            for p, t in zip(parts, self.tensors, strict=True)
        )
        return self.problem.space.whole_from_own([p * s for p, s in zip(dense, self.sizes, strict=True)])

    def slope(self, parts: Sequence[Tensor], only: Sequence[int]) -> Tensor:
        """Along the direction, from a `gradient`'s parts of some parameters, shape ``()``."""
        along = self.problem.space.whole_from_own(self.direction)
        return torch.stack([(parts[i].conj() * along[i] / self.sizes[i]).real.sum() for i in only]).sum()


def too_large(problem: Problem, needed: int) -> bool:
    """Whether so many bytes do not fit; of processes that hold pieces of one network all say the same."""
    large = needed > free_memory(problem.device) / 2
    return any_process(large) if problem.in_pieces else large


@contextmanager
def near(problem: Problem, dtype: torch.dtype) -> Iterator[LocalPoint]:
    """A point near the weights, the network in ``dtype`` so long; afterwards it is what it was, bit for bit.

    The network itself is cast and not a copy of it: what its closures and hooks hold goes along.
    """
    with preserved_random_state(), full_precision(problem.device), elsewhere(problem.model, dtype):
        yield LocalPoint(problem, dtype)


@contextmanager
def elsewhere(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Parameters and buffers as copies in another type."""
    complex_type = torch.complex128 if dtype == torch.float64 else torch.complex64
    before = [(t, t.data) for t in (*model.parameters(), *model.buffers())]
    try:
        for tensor, data in before:
            kind = dtype if data.is_floating_point() else complex_type if data.is_complex() else data.dtype
            tensor.data = data.to(kind, copy=True)
        yield
    finally:
        for tensor, data in before:
            tensor.data = data
            # A graph that was kept lost its leaf when the type changed: to it the weights were written to.
            torch.autograd.graph.increment_version(tensor)


def _sizes(tensors: Sequence[Tensor]) -> list[float]:
    """Root mean square of each parameter; of all together where one is zero, and 1 where all are."""
    sums = [wide(t.detach().abs().square().sum()) for t in tensors]
    squares = torch.stack(sums).tolist()
    counts = [max(1, t.numel()) for t in tensors]
    whole = math.sqrt(sum(squares) / sum(counts)) or 1.0
    return [math.sqrt(s / n) or whole for s, n in zip(squares, counts, strict=True)]


def _padding(model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Rows of embeddings that torch never trains: number of the parameter, and the row."""
    place = {id(t): i for i, t in enumerate(tensors)}
    embeddings = (m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    for module in embeddings:
        if module.padding_idx is not None and id(module.weight) in place:
            piece = pieces_of(module).get("weight")
            held = slice(0, module.num_embeddings) if piece is None else piece.part[0]
            if held.start <= module.padding_idx < held.stop:
                yield place[id(module.weight)], module.padding_idx - held.start

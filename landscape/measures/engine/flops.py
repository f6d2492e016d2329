"""What the forward pass of a network takes, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ...data.examples import Indices
from ...problem.problem import Problem


@dataclass(frozen=True)
class Flops:
    """A forward pass with its loss.

    Attributes:
        operations: Floating-point operations of its matrix products and convolutions, 2 per multiply-add.
        calls: Operations of torch that compute something; each has a fixed cost.
        nbytes: Size of all that these return.
    """

    operations: int
    calls: int
    nbytes: int


def forward_work(problem: Problem, positions: Indices) -> Flops:
    """The work of the forward pass over the examples at ``positions``."""
    counter = _Counter()
    with torch.no_grad(), counter:
        part = problem.restrict_to_examples(positions)
        for batch in part.micro_batches():  # not their mean, which there is none of where their targets do not count
            part.batch_sum(batch)
    return Flops(counter.operations, counter.calls, counter.nbytes)


class _Counter(TorchDispatchMode):
    """Torch's own formulas; its `FlopCounterMode` also hooks every module, and fails on some."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: else torch imports its compiler, for two seconds, to say that it is not to be used here."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.calls, self.nbytes = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=out))
        if not func.is_view:
            self.calls += 1
            self.nbytes += sum(t.nbytes for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor))
        return out

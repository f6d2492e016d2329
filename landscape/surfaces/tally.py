"""The sums of many forward passes, reduced together.

Reducing one pass takes a dozen small operations: a tenth of a small network's pass, and on a GPU as many launches as
its layers. So outputs that are few numbers wait, and those of a whole row of a surface are reduced in one go.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..evaluation import batch_sums
from ..examples import Batch, forward
from ..losses import Loss, prediction
from ..problem import Problem

_BYTES = 2**20  # of outputs that wait


class Tally:
    """Sums of passes over one problem's examples, each at other weights; use inside its `Problem.forward_only`.

    Args:
        problem: Where the passes run.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._together: bool | None = None
        self._room: Tensor | None = None  # for outputs, (passes, n, ...)
        self._labels: list[tuple[Tensor, Tensor]] = []  # targets and domains, by micro-batch of the first pass
        self._waiting = 0
        self._sums: list[Tensor] = []

    def look(self) -> None:
        """One pass at the current weights, without waiting for the device."""
        if self._together is None:
            self._together = self._few_numbers()
        if not self._together:
            self._sums.append(self.problem.sums()[None])
            return
        if self._room is None:
            self._room = self._make_room()
        row, known = self._room[self._waiting], bool(self._labels)
        try:
            for place, batch in zip(row.split(self.problem.batch_size), self.problem.batches(), strict=True):
                # Copied: the pass's memory is free again at once, and the next one finds it in the processor's cache.
                place.copy_(prediction(forward(self.problem.model, batch.inputs)))
                if not known:
                    self._labels.append((batch.targets, batch.domain))
        except (RuntimeError, MemoryError) as error:
            self.problem.shrink_after(error)
            self._labels = self._labels if known else []
            self.look()
            return
        self._waiting += 1
        if self._waiting == len(self._room):
            self._reduce()

    def sums(self) -> Tensor:
        """The passes' `batch_sums` since the last call, ``(passes, 4, domains)``, on the device."""
        self._reduce()
        found, self._sums = torch.cat(self._sums), []
        return found

    def _few_numbers(self) -> bool:
        """Whether the outputs of a pass can wait; a loss of the user's may look at all that it is given together."""
        if not isinstance(self.problem.loss_function, Loss) or self.problem.mode == "train":
            return False
        one = self._example()
        return one.nbytes * self.problem.n_examples <= _BYTES * len(one)

    def _example(self) -> Tensor:
        return prediction(self.problem.output(self.problem.some(2)))  # of one, some networks drop the dimension

    def _make_room(self) -> Tensor:
        """Room for the outputs of as many passes as may wait."""
        one, n = self._example(), self.problem.n_examples
        passes = _BYTES * len(one) // max(1, one.nbytes * n)
        return one.new_empty(max(1, passes), n, *one.shape[1:])

    def _reduce(self) -> None:
        passes, domains = self._waiting, len(self.problem.examples.domain_names)
        if self._room is None or not passes:
            return
        targets, domain = (torch.cat(parts) for parts in zip(*self._labels, strict=True))
        # Every batch of every pass has domains of its own, so that all is added up in the order of single passes.
        batch_of = torch.arange(len(domain), device=domain.device) // self.problem.batch_size
        batches = -(-len(domain) // self.problem.batch_size)
        domain, columns = domain + batch_of * domains, domains * batches
        shifts = columns * torch.arange(passes, device=domain.device)
        everything = Batch(
            None, targets.expand(passes, *targets.shape).flatten(0, 1), (shifts[:, None] + domain).flatten()
        )
        outputs, self._waiting = self._room[:passes].flatten(0, 1), 0
        sums = batch_sums(self.problem.loss_function, outputs, everything, passes * columns)
        parts = sums.view(4, passes, batches, domains).unbind(2)
        self._sums.append(functools.reduce(torch.add, parts).transpose(0, 1))

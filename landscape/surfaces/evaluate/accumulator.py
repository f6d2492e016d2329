"""The sums of many forward passes, reduced together.

Reducing one pass takes a dozen small operations: a tenth of a small network's pass, and on a GPU as many launches as
its layers. So outputs that are few numbers wait, and those of a whole row of a surface are reduced in one go.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...base.errors import is_out_of_memory
from ...data.examples import Batch
from ...data.losses import Loss, prediction
from ...problem.evaluation import QUANTITIES, batch_sums
from ...problem.forward import forward
from ...problem.problem import Problem
from .stacked import outputs_at, penalties_at

_BYTES = 2**20  # of outputs that wait


class Tally:
    """Sums of passes over one problem's examples, each at other weights; use inside its `Problem.forward_only`.

    Args:
        problem: Where the passes run.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        # A loss of the user's may look at all that it is given together; in train mode a batch is seen as it is.
        self.together = isinstance(problem.loss_function, Loss) and problem.mode != "train"
        self.together &= not problem.in_pieces  # whose processes share the examples of every pass
        self._room: Tensor | None = None  # for outputs, (passes, n, ...)
        self._labels: list[tuple[Tensor, Tensor]] = []  # targets and domains, by micro-batch of the first pass
        self._waiting = 0
        self._penalties: list[Tensor] = []  # of the passes that wait
        self._sums: list[Tensor] = []

    def look(self) -> None:
        """One pass at the current weights, without waiting for the device."""
        if not self.together:
            self._sums.append(self.problem.sums()[None])
            return
        known = len(self._labels)
        try:
            self.together = self._pass()
        except (RuntimeError, MemoryError) as error:
            self.problem.shrink_after(error)
            del self._labels[known:]
            self.look()
            return
        if not self.together:
            self.look()
            return
        self._waiting += 1
        if self.problem.weight_decay:
            self._penalties.append(torch.as_tensor(self.problem.penalty))
        assert self._room is not None
        if self._waiting == len(self._room):
            self._reduce()

    @property
    def room(self) -> int:
        """How many passes can wait; known after the first."""
        return 0 if self._room is None else len(self._room)

    def look_at(self, points: Tensor) -> None:
        """Passes at the rows of ``points`` ``(passes, n_parameters)``, at most `room`, made in one."""
        assert self._room is not None
        if self._waiting + len(points) > self.room:
            self._reduce()
        rows, start = slice(self._waiting, self._waiting + len(points)), 0
        try:
            for batch in self.problem.batches():
                self._room[rows, start : start + len(batch)] = outputs_at(self.problem, points, batch)
                start += len(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(points) == 1:
                self._reduce()  # the sums of what waits are those of the micro-batches of before
                self.problem.shrink_after(error)
            for part in points.chunk(2):
                self.look_at(part)
            return
        self._waiting += len(points)
        if self.problem.weight_decay:
            self._penalties += penalties_at(self.problem, points).unbind()

    def forget(self) -> None:
        """Drop the passes that wait."""
        self._waiting, self._penalties = 0, []

    def _pass(self) -> bool:
        """Put the outputs of a pass into their place; False where they are too many numbers to wait."""
        start, known = 0, bool(self._labels)
        for batch in self.problem.batches():
            output = prediction(forward(self.problem.model, batch.inputs))
            if self._room is None:
                size = output.nbytes * self.problem.n_examples // len(batch)
                if size > _BYTES:
                    return False
                self._room = output.new_empty(_BYTES // max(1, size), self.problem.n_examples, *output.shape[1:])
            # Copied: the pass's memory is free again at once, and the next pass finds it in the processor's cache.
            self._room[self._waiting, start : start + len(batch)] = output
            start += len(batch)
            if not known:
                self._labels.append((batch.targets, batch.domain))
        return True

    def sums(self) -> Tensor:
        """The passes' `batch_sums` since the last call, ``(passes, 5, domains)``, on the device."""
        self._reduce()
        found, self._sums = torch.cat(self._sums), []
        return found

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
        parts = sums.view(QUANTITIES, passes, batches, domains).unbind(2)
        found = functools.reduce(torch.add, parts).transpose(0, 1)
        if self._penalties:
            found[:, 0] += torch.stack(self._penalties)[:, None] * found[:, 2]
            self._penalties = []
        self._sums.append(found)

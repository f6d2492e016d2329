"""The sums of many forward passes, reduced together.

Reducing one pass takes a dozen small operations: a tenth of a small network's pass, and on a GPU as many launches as
its layers. So outputs that are few numbers wait, and those of a whole row of a surface are reduced in one go.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..evaluation import batch_sums
from ..examples import Batch
from ..losses import Loss, prediction
from ..problem import Problem

_BYTES = 2**20  # of outputs that wait


class Tally:
    """Sums of passes over one problem's examples, each at other weights.

    Args:
        problem: Where the passes run.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        # A loss of the user's may look at all that it is given together: it gets the examples of one pass.
        self._together = isinstance(problem.loss_function, Loss) and problem.n_examples <= problem.batch_size
        self._outputs: list[Tensor] = []
        self._sums: list[Tensor] = []

    def look(self) -> None:
        """One pass at the current weights, without waiting for the device."""
        if not self._together:
            self._sums.append(self.problem.sums()[None])
            return
        with torch.no_grad():
            self._outputs.append(self.problem.per_example(lambda batch: prediction(self.problem.output(batch))))
        if sum(output.nbytes for output in self._outputs) > _BYTES:
            self._reduce()

    def sums(self) -> Tensor:
        """The passes' `batch_sums` since the last call, ``(passes, 4, domains)``, on the device."""
        self._reduce()
        found, self._sums = torch.cat(self._sums), []
        return found

    def _reduce(self) -> None:
        passes, domains = len(self._outputs), len(self.problem.examples.domain_names)
        if not passes:
            return
        batches = list(self.problem.batches())
        targets = torch.cat([b.targets for b in batches])
        domain = torch.cat([b.domain for b in batches])
        shifts = domains * torch.arange(passes, device=domain.device)  # every pass has domains of its own
        everything = Batch(
            None, targets.expand(passes, *targets.shape).flatten(0, 1), (shifts[:, None] + domain).flatten()
        )
        outputs, self._outputs = torch.cat(self._outputs), []
        sums = batch_sums(self.problem.loss_function, outputs, everything, passes * domains)
        self._sums.append(sums.view(4, passes, domains).transpose(0, 1))

"""What a problem says of single examples: their losses, and what each weighs in the mean."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..data.examples import Batch
from ..data.loss_values import example_losses, example_weights
from ..data.losses import LossFunction
from ..runtime.caller_context import computing
from .passes import Passes


class PerExample(Passes):
    """Passes of a network with a loss, example by example; `Problem` adds what is over all of them."""

    loss_function: LossFunction
    loss_name: str
    loss_over: str
    by_objective: bool
    weight_decay: float

    @cached_property
    def weighted(self) -> bool:
        """Whether examples weigh differently in the mean loss; the same for every part of the examples."""
        return self.loss_over == "example" and example_weights(self.loss_function, self.head(1).targets) is not None

    def require_examples(self, what: str, instead: str = "leave it out here") -> None:
        """Refuse what needs the losses of single examples where the loss is over batches, or an objective's.

        Raises:
            UsageError: Naming what needs them.
        """
        if self.loss_over == "batch" or self.by_objective:
            where = f"objective {self.loss_name}" if self.by_objective else "`loss_over='batch'`"
            raise UsageError(f"{what} is made of single examples", where, instead)

    def require_no_penalty(self, what: str, instead: str) -> None:
        """Refuse what is made of the gradients of single losses where a penalty is part of the loss.

        Raises:
            UsageError: Naming what is, and what to do instead.
        """
        if self.weight_decay:
            raise UsageError(
                f"{what} is made of losses of examples, and a penalty is none", "`weight_decay=`", instead
            )

    @computing()
    def example_losses(self) -> Tensor | None:
        """Loss of each example at the current weights, ``(n_examples,)``; None if the loss gives only the mean."""
        if self.loss_over == "batch":
            return None

        def gives_them() -> bool:
            batch = self.head(2)  # BatchNorm in train mode wants two
            return example_losses(self.loss_function, self.output(batch), batch.targets) is not None

        with torch.no_grad():
            return self.per_example(self._losses_of) if self.retry_on_oom(gives_them) else None

    @computing()
    def example_weights(self) -> Tensor | None:
        """What each example weighs in the mean loss, ``(n_examples,)``; None where all weigh the same."""

        def of(batch: Batch) -> Tensor:
            weights = example_weights(self.loss_function, batch.targets)
            assert weights is not None
            return weights

        return self.per_example(of) if self.weighted else None

    def _losses_of(self, batch: Batch) -> Tensor:
        values = example_losses(self.loss_function, self.output(batch), batch.targets)
        assert values is not None
        return values

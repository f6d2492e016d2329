"""Domain losses in loops that differentiate the loss themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...base.errors import UsageError
from .closures import BatchLoss, domain_term, needs_domains, real_scalar

if TYPE_CHECKING:
    from .engine import ERM


class DomainObjective:
    """What the domain losses of a step's micro-batches add to the objective of its first pass.

    The weights of the domains follow from the losses of the whole step. So the only micro-batch of a step gets its
    term at once; of several, the losses are noted, and their first pass is done again with `again`. By how much the
    loop scales a loss before it differentiates it (one over the number of micro-batches, a scaler's factor) is seen
    at the gradient that arrives.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The first pass is over."""
        self.alone = True
        """Whether the next loss is that of the whole step."""
        self._seen: list[tuple[Tensor, Tensor | None]] = []
        self._arrived: list[Tensor] = []
        self._terms: list[Tensor] | None = None

    def objective(self, optimizer: ERM, made: BatchLoss) -> Tensor:
        """The mean loss, with the gradient that the present pass needs, shape ``()``."""
        mean = real_scalar(made.mean)
        if not optimizer.needs_domains or optimizer.by_hand.open or not mean.requires_grad:
            return mean
        if made.domains is None:
            raise needs_domains()
        with torch.autocast(mean.device.type, enabled=False):  # the loop's would round the weights
            if self._terms is not None:
                term: Tensor | None = self._terms.pop(0).to(made.domains.dtype) @ made.domains
            else:
                self._seen.append((made.domains.detach(), made.counts))
                term = domain_term(made, optimizer.domain_weights, made.domains, made.counts) if self.alone else None
        if term is not None:
            return mean + (term - term.detach())
        mean = mean * 1  # a tensor of our own to watch
        mean.register_hook(lambda gradient: self._arrived.append(gradient.detach()))
        return mean

    def forget_last(self, kept: int) -> None:
        """All but the first ``kept`` micro-batches will not be differentiated."""
        del self._seen[kept:]

    def require(self, optimizer: ERM, micro_batches: int) -> None:
        """Refuse a step that a method of domains has not seen.

        Raises:
            UsageError: If a micro-batch has not shown its domains.
        """
        if optimizer.needs_domains and len(self._seen) != micro_batches:
            raise UsageError(
                "this method needs the loss of each domain",
                type(optimizer).__name__,
                "differentiate optimizer.objective(BatchLoss(mean, domains, counts)) in place of the mean loss",
            )

    def again(self, optimizer: ERM) -> bool:
        """Whether the first pass of several micro-batches is to be done again, now with its terms."""
        if not optimizer.needs_domains or self.alone:
            return False
        if any(counts is None for _, counts in self._seen):
            raise needs_domains()
        counts = torch.stack([c for _, c in self._seen if c is not None]).to(self._seen[0][0])
        total = counts.sum(0)
        losses = (torch.stack([d for d, _ in self._seen]) * counts).sum(0) / total.where(total > 0, 1)
        weights = optimizer.domain_weights(losses, total)
        if weights is None:
            return False
        factors = torch.stack(self._arrived)
        shares = factors.sum() / factors
        self._terms = [s * weights * n / total.where(total > 0, 1) for s, n in zip(shares, counts, strict=True)]
        return True

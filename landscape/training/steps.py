"""The closure of one training step: what optimizers call once per pass."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..data.loss_values import domain_means, example_losses, example_weights, mean_loss, weighted_mean
from ..data.losses import LossFunction
from ..numerics.trees import divisible
from ..optim.core.closures import BatchLoss, MicroBatches
from ..problem.forward import forward
from ..runtime.devices import widest
from ..runtime.distributed import all_reduce_sum_
from .augment import MixupBatch


class BatchLosses:
    """Called once per pass, it gives the batch mean and the mean of each domain present.

    Args:
        model: The network.
        loss: The loss.
        batch: The examples of the step.
        piece: Examples per piece; None takes the batch as a whole.
        amp: Autocast to this type, or None.
        present: Domains in the batch, if they are known without asking the device; in that of all processes.
        shared: Whether this is one process's part of a batch.
        counted: Whether the part counts; where nothing was left for this process, it goes through the motions.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        batch: MixupBatch,
        *,
        piece: int | None = None,
        amp: Literal["bfloat16", "float16"] | None = None,
        present: Sequence[int] | None = None,
        shared: bool = False,
        counted: bool = True,
    ) -> None:
        self.model, self.loss, self.batch, self.amp = model, loss, batch, amp
        domain = batch.batch.domain
        self.shared = shared
        self.present: list[int] = sorted(set(domain.tolist()) if present is None else present)
        self._first: list[BatchLoss] | None = None
        n = len(domain)
        starts = range(0, n, piece or n)
        self._parts = [batch.piece(s, min(s + (piece or n), n)) if piece else batch for s in starts]
        self._weights = [example_weights(loss, p.batch.targets) for p in self._parts]
        self._members = [
            widest(torch.stack([p.batch.domain == i for i in self.present])) * counted * (1.0 if w is None else w)
            for p, w in zip(self._parts, self._weights, strict=True)
        ]
        self._sizes = [
            float(len(p.batch) * counted if w is None else m.sum())  # how many examples there are, no device is asked
            for p, w, m in zip(self._parts, self._weights, self._members, strict=True)
        ]
        self.whole = sum(self._sizes)
        """What the batch of all processes weighs in the mean."""
        if self.shared:
            everything = torch.tensor(self.whole, dtype=torch.float64)
            all_reduce_sum_([everything])
            self.whole = float(everything)

    def __call__(self) -> BatchLoss | MicroBatches:
        """The loss of the batch at the present weights, or its pieces."""
        if self.shared:
            return MicroBatches([self._piece(k) for k in range(len(self._parts))], self._sizes, self.whole)
        if len(self._parts) == 1:
            made = self._evaluate(0)
            self._remember([made])
            return made
        return MicroBatches([self._piece(k) for k in range(len(self._parts))], self._sizes)

    def mean(self) -> Tensor:
        """Mean loss over the batch at the present weights, shape ``()``; of several processes, this one's share."""
        parts = [self._evaluate(k).mean * (size / self.whole) for k, size in enumerate(self._sizes)]
        return torch.stack(parts).sum()

    def domain_losses(self) -> Tensor:
        """Mean loss of each domain present in the batch of all processes, at the present weights, shape ``(M,)``."""
        return self._merged([self._evaluate(k) for k in range(len(self._parts))])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum the shares of all processes, in place."""
        if self.shared:
            all_reduce_sum_(tensors)

    def domain_counts(self) -> Tensor:
        """What each domain weighs in the batch of all processes, shape ``(M,)``; float64 where the device has it."""
        counts = torch.stack([members.sum(1) for members in self._members]).sum(0)
        self.add_up([counts])
        return counts

    def first(self) -> dict[int, float]:
        """Mean loss of each domain in the first pass, by index; in every process that of all."""
        if self._first is None:
            return {}
        return dict(zip(self.present, self._merged(self._first).tolist(), strict=True))

    def read(self, loss: Tensor) -> tuple[float, dict[int, float]]:
        """A step's loss and `first`, as numbers; the device is waited for once."""
        if self._first is None:
            return float(loss), {}
        mean, *domains = torch.cat([loss.detach().reshape(1), self._merged(self._first)]).tolist()
        return mean, dict(zip(self.present, domains, strict=True))

    def _piece(self, k: int) -> Callable[[], BatchLoss]:
        def call() -> BatchLoss:
            made = self._evaluate(k)
            assert made.domains is not None
            self._seen.setdefault(k, _detached(made))  # with a climb of its own, a piece comes back before the next
            if len(self._seen) == len(self._parts):
                self._remember([self._seen[i] for i in range(len(self._parts))])
            return made

        self._seen: dict[int, BatchLoss] = {}
        return call

    def _remember(self, made: list[BatchLoss]) -> None:
        if self._first is None:
            self._first = [_detached(m) for m in made]

    def _evaluate(self, k: int) -> BatchLoss:
        part, members = self._parts[k], self._members[k]
        counts = members.sum(1)
        if self.model in _OWN_LOSS and int((counts > 0).sum()) > 1:
            return self._domain_by_domain(part, counts)
        with self._precision():
            output = self._forward(part)
            values = self._values(output, part)
        if values is None and int((counts > 0).sum()) > 1 and not divisible(output, len(part.batch)):
            _require_no_batch_statistics(self.model)
            _OWN_LOSS.add(self.model)
            return self._domain_by_domain(part, counts)
        if values is None:
            mean = mean_loss(self.loss, output, part.batch.targets)
            here = [i for i, count in zip(self.present, counts.tolist(), strict=True) if count]
            found = domain_means(self.loss, output, part.batch.targets, part.batch.domain, None, here)
            domains = found.new_zeros(len(counts)).masked_scatter(counts > 0, found)
        else:
            mean = weighted_mean(values, self._weights[k])
            # A product with a fixed matrix: one operation for all domains, deterministic also on a GPU.
            averages = members / counts.where(counts > 0, 1)[:, None]
            domains = averages.to(values.dtype) @ values
        return BatchLoss(mean, domains, counts)

    def _domain_by_domain(self, part: MixupBatch, counts: Tensor) -> BatchLoss:
        """The losses of a network that computes them itself, which shows those of domains only one by one."""
        batch, found = part.batch, counts.new_zeros(len(counts))
        losses = []
        for place, domain in enumerate(self.present):
            here = np.flatnonzero((batch.domain == domain).cpu().numpy())
            if len(here):
                few = batch.rows(here)
                with self._precision():
                    losses.append((place, mean_loss(self.loss, forward(self.model, few.inputs), few.targets)))
        values = torch.stack([loss for _, loss in losses])
        places = torch.tensor([place for place, _ in losses], device=values.device)
        domains = found.to(values.dtype).index_copy(0, places, values)
        share = (counts / counts.sum()).to(values.dtype)
        return BatchLoss(share @ domains, domains, counts)

    def _forward(self, part: MixupBatch) -> Any:
        try:
            return forward(self.model, part.batch.inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                f"batch normalisation has no statistics of {len(part.batch)} example",
                "training mode",
                "choose `batch_size=`, `m=` or `accumulate=` so that no batch, piece or process has a single example",
            ) from error

    def _values(self, output: Tensor, part: MixupBatch) -> Tensor | None:
        values = example_losses(self.loss, output, part.batch.targets)
        if part.partner is None:
            return values
        if values is None:
            raise UsageError("mixup needs a loss per example", "`augment='mixup'`", "return losses of shape (n,)")
        other = example_losses(self.loss, output, part.partner)
        assert other is not None
        return part.share * values + (1 - part.share) * other

    def _precision(self) -> Any:
        if self.amp is None:
            return contextlib.nullcontext()
        kind = next(self.model.parameters()).device.type
        return torch.autocast(kind, getattr(torch, self.amp))

    def _merged(self, made: list[BatchLoss]) -> Tensor:
        counts = torch.stack([b.counts for b in made])  # type: ignore[misc]
        sums = (torch.stack([b.domains for b in made]) * counts).sum(0)  # type: ignore[misc]
        total = counts.sum(0)
        self.add_up([sums, total])
        return sums / total


def _require_no_batch_statistics(model: nn.Module) -> None:
    """Refuse to pass domain by domain what looks at whole batches."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()):
        raise UsageError(
            "the network computes its own loss, and its BatchNorm sees other batches domain by domain",
            type(model).__name__,
            "let it return its outputs, examples first, and name the loss with `loss=`",
        )


# Networks that compute their loss themselves: what they return cannot be divided by examples.
_OWN_LOSS: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def _detached(made: BatchLoss) -> BatchLoss:
    assert made.domains is not None
    return BatchLoss(made.mean.detach(), made.domains.detach(), made.counts)

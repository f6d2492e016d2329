"""What a closure may return: a loss that is differentiated already, a `BatchLoss`, or a batch in `MicroBatches`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UsageError
from ...runtime.distributed import all_reduce_sum_
from .passes import RandomState, forget_casts, frozen_running_statistics


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch, not yet differentiated.

    Attributes:
        mean: Mean loss over the examples of the batch, shape ``()``.
        domains: Mean loss of each domain present in the batch, shape ``(M,)``, or None.
        counts: Examples of each of these domains in the batch, shape ``(M,)``; needed where the batch comes in
            `MicroBatches` (a domain that a piece lacks has count 0 and mean 0) and for DISAM's sample variance.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss
        >>> each = torch.tensor([1.0, 3.0, 5.0])  # losses of three examples, the last of another domain
        >>> of_domains = torch.stack([each[:2].mean(), each[2]])
        >>> loss = BatchLoss(each.mean(), of_domains, torch.tensor([2, 1]))
        >>> loss.mean, loss.domains
        (tensor(3.), tensor([2., 5.]))
    """

    mean: Tensor
    domains: Tensor | None = None
    counts: Tensor | None = None

    @classmethod
    def of_examples(cls, losses: Tensor, domain: Tensor, domains: int | None = None) -> BatchLoss:
        """From the loss of each example, ``(N,)``, and the index of its domain, ``(N,)``.

        Args:
            losses: With their graph, as ``cross_entropy(..., reduction="none")`` gives them.
            domain: Whole numbers from 0.
            domains: How many domains there are in all; needed where a step accumulates several micro-batches, which
                need not hold every domain each. None: those of this batch.

        Raises:
            UsageError: If there is not one domain for each loss, or an index is no domain.

        Example:
            >>> import torch
            >>> from landscape.optim import BatchLoss
            >>> each = torch.tensor([1.0, 3.0, 5.0])
            >>> loss = BatchLoss.of_examples(each, torch.tensor([0, 0, 2]), domains=3)
            >>> loss.domains, loss.counts
            (tensor([2., 0., 5.]), tensor([2, 0, 1]))
        """
        if losses.ndim != 1 or domain.shape != losses.shape or domain.is_floating_point() or not len(losses):
            what = f"losses of shape {tuple(losses.shape)} and domains of {tuple(domain.shape)} ({domain.dtype})"
            raise UsageError(what, "BatchLoss.of_examples", "give one loss and the index of one domain per example")
        domain = domain.to(losses.device, torch.int64)
        if domains is None:
            present, domain = domain.unique(return_inverse=True)
            domains = len(present)
        elif int(domain.min()) < 0 or int(domain.max()) >= domains:
            found = f"domains from {int(domain.min())} to {int(domain.max())}"
            raise UsageError(
                found, "BatchLoss.of_examples", f"give indices below {domains}, or say that there are more"
            )
        members = domain == torch.arange(domains, device=domain.device)[:, None]
        counts = members.sum(1)  # sums, not index_add: their order is the same on every device
        return cls(losses.mean(), torch.where(members, losses, 0.0).sum(1) / counts.clamp(min=1), counts)


class MicroBatches(Sequence[Callable[[], BatchLoss]]):
    """A batch in pieces, each a function that computes the `BatchLoss` of its examples.

    What the pieces mean is the optimizer's choice: one batch whose gradient is accumulated, or micro-batches with
    a perturbation each.

    Args:
        losses: One function per piece; all pieces list the same domains.
        sizes: Examples of each piece (or what they weigh in the mean).
        whole: What the pieces of all processes weigh together, inside `landscape.processes`: each process gives its
            own pieces, and the optimizer adds up losses and gradients over processes. A process for which nothing is
            left gives any piece with size and counts 0. None: there are no others.

    Example:
        >>> import torch
        >>> from landscape.optim import SAM, BatchLoss, MicroBatches
        >>> x, model = torch.randn(8, 2), torch.nn.Linear(2, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> def piece(part):
        ...     return lambda: BatchLoss(model(part).square().mean())
        >>> loss = optimizer.step(lambda: MicroBatches([piece(x[:5]), piece(x[5:])], sizes=[5, 3]))
    """

    def __init__(
        self,
        losses: Sequence[Callable[[], BatchLoss]],
        sizes: Sequence[float],
        whole: float | None = None,
    ) -> None:
        if not losses or len(losses) != len(sizes) or min(sizes) < 0 or (sum(sizes) if whole is None else whole) <= 0:
            raise UsageError("losses and sizes do not match", "MicroBatches", "give each one its positive size")
        self.losses, self.sizes = list(losses), list(sizes)
        self.shared = whole is not None
        self.whole = sum(sizes) if whole is None else whole

    @property
    def shares(self) -> list[float]:
        """Share of each piece in the batch; over all processes they sum to 1."""
        return [size / self.whole for size in self.sizes]

    def __getitem__(self, index: Any) -> Any:
        return self.losses[index]

    def __len__(self) -> int:
        return len(self.losses)


Closure = Callable[[], Any]  # returns a Tensor (differentiated already), a BatchLoss, or MicroBatches
# Weight of each domain loss in an objective beyond the batch mean: (domain losses, counts) -> (M,), or None.
DomainWeights = Callable[[Tensor, Tensor | None], Tensor | None]


class ClosurePasses:
    """The passes over one closure, each at the weights of its moment.

    Args:
        closure: The closure; it is called at once, for the first pass.
        replayed: Whether a later pass may draw the random numbers of the first.
    """

    def __init__(self, closure: Closure, *, replayed: bool = True) -> None:
        self._closure = closure
        self.random = RandomState.now() if replayed else None  # before the first pass draws anything
        self._after: RandomState | None = None
        self._made = closure()
        self.pieces = self._made if isinstance(self._made, MicroBatches) else None
        self.shared = self.pieces is not None and self.pieces.shared
        """Whether other processes hold pieces of the batch, too."""
        # A closure in torch's convention zeroes and fills the gradients itself.
        self.fills_gradients = isinstance(self._made, Tensor)

    @property
    def loss(self) -> Tensor:
        """The loss of a closure that has differentiated it, shape ``()``; NaN if it has none."""
        return real_scalar(self._made).detach() if isinstance(self._made, Tensor) else torch.tensor(torch.nan)

    def require_loss(self) -> ClosurePasses:
        """Refuse a closure that returns anything else.

        Raises:
            UsageError: If it did.
        """
        if not isinstance(self._made, (Tensor, BatchLoss, MicroBatches)):
            raise UsageError(
                f"the closure returned a {type(self._made).__name__}",
                "step",
                "return the loss: one tensor, a BatchLoss, or MicroBatches",
            )
        return self

    def replay(self) -> None:
        """Let the next pass draw the random numbers of the first."""
        assert self.random is not None
        if self._after is None:
            self._after = RandomState.now()
        self.random.restore()

    @contextmanager
    def as_one_pass(self) -> Iterator[None]:
        """Leave the random generators after the block as the first pass left them, whatever later ones drew."""
        try:
            yield
        finally:
            if self._after is not None:
                self._after.restore()

    def next(self, weights: DomainWeights | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One pass, piece by piece.

        Args:
            weights: Weight of each domain loss in the objective, computed from the losses of the whole batch.

        Yields:
            Each piece's share of the mean loss ``()`` (detached), and what is to be differentiated for it,
            ``()``; None where the closure did so.

        Raises:
            UsageError: If domain losses are needed and the closure gives none.
        """
        if self.pieces is not None:
            yield from self._piecewise(self.pieces, weights)
            return
        made = self._made if self._made is not None else self._closure()
        self._made = None
        if isinstance(made, Tensor):
            if weights is not None:
                raise needs_domains()
            yield real_scalar(made).detach(), None
        else:
            extra = domain_term(made, weights, made.domains, made.counts)
            mean = _differentiable(made)
            yield mean.detach(), mean if extra is None else mean + extra

    def _piecewise(
        self, pieces: MicroBatches, weights: DomainWeights | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        domains = counts = known = None
        if weights is not None:  # the weights depend on the losses of all pieces
            if len(pieces) == 1:
                known = pieces[0]()
                domains, counts = _whole([known], pieces)
            else:  # one forward pass ahead
                with torch.no_grad(), _ahead():
                    domains, counts = _whole([call() for call in pieces], pieces)
        for call, share in zip(pieces, pieces.shares, strict=True):
            made = known or call()
            objective = share * _differentiable(made)
            extra = domain_term(made, weights, domains, counts)
            yield objective.detach(), objective if extra is None else objective + extra


def real_scalar(loss: Tensor) -> Tensor:
    """A loss in the shape ``()``."""
    if loss.numel() != 1 or loss.is_complex():
        what = f"the loss has shape {tuple(loss.shape)} and type {str(loss.dtype).removeprefix('torch.')}"
        raise UsageError(what, "closure", "return one real number, as mean() gives it")
    return loss.reshape(())


def _differentiable(made: object) -> Tensor:
    """The mean loss, shape ``()``, which has a graph."""
    mean = made.mean if isinstance(made, BatchLoss) else made
    if not isinstance(made, BatchLoss) or not isinstance(mean, Tensor):
        raise UsageError(f"a loss that is a {type(mean).__name__}", "closure", "give BatchLoss(mean) with a tensor")
    if not made.mean.requires_grad:
        fix = "leave out detach(), item() and no_grad(), and unfreeze a parameter"
        raise UsageError("the loss of the closure depends on no trainable parameter", "closure", fix)
    return real_scalar(made.mean)


def domain_term(
    made: BatchLoss, weights: DomainWeights | None, domains: Tensor | None, counts: Tensor | None
) -> Tensor | None:
    """The piece's part of ``sum_i c_i L_i`` with fixed c: its gradient is that of the objective behind the c."""
    if weights is None:
        return None
    if made.domains is None or domains is None:
        raise needs_domains()
    with torch.autocast(made.domains.device.type, enabled=False):  # the loop's would round the weights
        c = weights(domains.detach(), counts)
        if c is None:
            return None
        if domains is not made.domains:  # a piece holds a part of each domain
            assert made.counts is not None
            assert counts is not None
            c = c * made.counts / counts.where(counts > 0, 1)
        term: Tensor = c.to(made.domains.dtype) @ made.domains
    return term


def _whole(parts: Sequence[BatchLoss], pieces: MicroBatches) -> tuple[Tensor, Tensor]:
    """Mean loss and examples of each domain over all pieces, of all processes."""
    if any(p.domains is None or p.counts is None for p in parts):
        raise needs_domains()
    counts = torch.stack([p.counts for p in parts])  # type: ignore[misc]
    sums = (torch.stack([p.domains for p in parts]).detach() * counts).sum(0)  # type: ignore[misc]
    total = counts.sum(0)
    if pieces.shared:
        all_reduce_sum_([sums, total])
    return sums / total.where(total > 0, 1), total


@contextmanager
def _ahead() -> Iterator[None]:
    """A look at the losses before a pass: its random numbers are drawn again, running statistics stay."""
    random = RandomState.now()
    with frozen_running_statistics():
        yield
    forget_casts()
    random.restore()


def needs_domains() -> UsageError:
    """The error for a loss without its domains, or several without their counts."""
    return UsageError(
        "this method needs the loss of each domain",
        "closure",
        "return BatchLoss(mean, domains, counts) without calling backward",
    )

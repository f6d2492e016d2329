"""Gradients that are there before a step: left by the last one, or accumulated outside the closure."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...base.errors import UsageError

# Both are attributes of a gradient, which live as long as it does and keep no memory alive.
_LEFT = "_version_after_step"
_THERE = "_there_before_closure"  # and the number of who watches: two may, one inside the other
_WAY_OUT = "to accumulate, return MicroBatches or go through all micro-batches inside the closure"


class Leftovers:
    """Watches, while a closure is called for the first time, what becomes of the gradients that were there before.

    A closure in torch's convention zeroes them (then they do not matter) or adds onto them. Those that it has
    replaced by new tensors were zeroed. For those that are still there, values alone could not tell: whether they
    were zero is seen at the moment when a gradient arrives at its parameter.

    Args:
        parameters: Of the optimizer.
        watch: Whether to look at these moments, which takes a hook on each parameter. Without, gradients that are
            still there count as added onto.
    """

    def __init__(self, parameters: list[nn.Parameter], watch: bool) -> None:
        self._parameters, self._watch, self._there = parameters, watch, f"{_THERE}_{id(self)}"
        self._handles: list[RemovableHandle] = []
        self._onto: dict[nn.Parameter, Tensor] = {}  # whether every gradient so far met old numbers, shape ()
        self._clean: set[nn.Parameter] = set()
        self._reached = False

    def __enter__(self) -> Leftovers:
        self.any = False
        """Whether there were gradients before."""
        for p in self._parameters:
            if p.grad is not None:
                self.any = True
                setattr(p.grad, self._there, p.grad._version)
                if self._watch and p.requires_grad:
                    self._handles.append(p.register_hook(partial(self._arrives, p)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._old, new, touched = [], [], []
        for p in self._parameters:
            if p.grad is None:
                continue
            if hasattr(p.grad, self._there):
                self._old.append(p)
                if getattr(p.grad, self._there) != p.grad._version:
                    touched.append(p)
                delattr(p.grad, self._there)
            else:
                new.append(p)
        # With create_graph the sum of an old and a new gradient is a new tensor.
        self._unclear = [p for p in new if p.grad is not None and p.grad.requires_grad] if self.any else []
        self.replaced = not self._old and not self._unclear
        """Whether none of them is left, not even in a sum."""
        self._reached |= bool(new) or _one([_any(p.grad) for p in touched])

    def _arrives(self, p: nn.Parameter, _: Tensor) -> None:
        self._reached = True
        if p.grad is None or not hasattr(p.grad, self._there):
            self._clean.add(p)
        elif p not in self._clean:
            # Zeroed in place it is clean from here on: what comes then is the closure's own.
            now = _any(p.grad)
            self._onto[p] = self._onto[p] & now if p in self._onto else now

    def require_differentiated(self, where: str) -> None:
        """Refuse a closure that has not called ``backward``.

        Raises:
            UsageError: If a trainable parameter could have got a gradient and none did.
        """
        if not self._reached and any(p.requires_grad for p in self._parameters):
            raise no_gradient(where)

    def require_zeroed(self, where: str) -> None:
        """Refuse a closure that has added onto gradients which the later passes will not see.

        Raises:
            UsageError: If it did.
        """
        doubtful = self._old + [p for p in self._unclear if p in self._onto or not self._watch]
        if _one([self._onto.get(p, _any(p.grad)) for p in doubtful if p not in self._clean]):
            raise UsageError(
                "the closure adds onto gradients that were there before step(), which its other passes lack",
                where,
                f"call zero_grad() at the start of the closure; {_WAY_OUT}",
            )

    def require_own(self, where: str) -> None:
        """Refuse to drop gradients that somebody has put there since the last step.

        Raises:
            UsageError: If there are any.
        """
        foreign = [p for p in self._old if getattr(p.grad, _LEFT, None) != p.grad._version]  # type: ignore[union-attr]
        if _one([_any(p.grad) for p in foreign]):
            raise UsageError(
                "gradients were there before step() and would be lost: the optimizer differentiates the loss itself",
                where,
                f"call zero_grad() before step(); {_WAY_OUT}",
            )


def leave(parameters: list[nn.Parameter]) -> None:
    """Note that the gradients which are there now are what a step has left, and of no use to the next."""
    for p in parameters:
        if p.grad is not None:
            setattr(p.grad, _LEFT, p.grad._version)


def no_gradient(where: str, call: str | None = None) -> UsageError:
    """The error for a closure that returns a loss and has not differentiated it, or for a ``call`` too early."""
    if call is not None:
        return UsageError(
            f"{call} without a gradient", where, "call backward() on the loss at these weights before it"
        )
    return UsageError(
        "the closure left no gradient",
        where,
        "call loss.backward() in it, or return BatchLoss(loss) without backward",
    )


def _any(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return (gradient._values() if gradient.layout == torch.sparse_coo else gradient).detach().any()


def _one(flags: list[Tensor]) -> bool:
    """Whether one is set; a single wait for the device."""
    return bool(flags) and bool(torch.stack([f.to(flags[0].device) for f in flags]).any())


def require_cleared(parameters: list[nn.Parameter], where: str) -> None:
    """Refuse gradients onto which ``backward`` has added, or may have: those that a step has left.

    Raises:
        UsageError: If one is still there.
    """
    if any(hasattr(p.grad, _LEFT) for p in parameters):
        raise UsageError(
            "gradients of the last step are still there",
            where,
            "call second_step(zero_grad=True), or zero_grad() before the first backward",
        )

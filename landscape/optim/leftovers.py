"""Gradients that are there before a step: left by the last one, or accumulated outside the closure."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UsageError

# Both are attributes of a gradient, which live as long as it does and keep no memory alive.
_LEFT = "_version_after_step"
_THERE = "_there_before_closure"
_WAY_OUT = "to accumulate, return Pieces or go through all micro-batches inside the closure"


class Leftovers:
    """Watches, while a closure is called for the first time, what becomes of the gradients that were there before.

    A closure in torch's convention zeroes them (then they do not matter) or adds onto them. Which of the two is seen
    at the moment when a gradient arrives at its parameter; values alone could not tell.

    Args:
        parameters: Of the optimizer.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._handles: list[RemovableHandle] = []
        self._onto: dict[nn.Parameter, Tensor] = {}  # whether every gradient so far met old numbers, shape ()
        self._clean: set[nn.Parameter] = set()
        self.reached = False
        """Whether any parameter got a gradient from the closure."""

    def __enter__(self) -> Leftovers:
        for p in self._parameters:
            if p.grad is not None:
                setattr(p.grad, _THERE, True)
                if p.requires_grad:
                    self._handles.append(p.register_hook(partial(self._arrives, p)))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._old = [p for p in self._parameters if p.grad is not None and hasattr(p.grad, _THERE)]
        for p in self._old:
            delattr(p.grad, _THERE)
        old = set(self._old)
        self.reached |= any(p.grad is not None and p not in old for p in self._parameters)

    def _arrives(self, p: nn.Parameter, _: Tensor) -> None:
        self.reached = True
        if p.grad is None or not hasattr(p.grad, _THERE):
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
        if not self.reached and any(p.requires_grad for p in self._parameters):
            raise no_gradient(where)

    def require_zeroed(self, where: str) -> None:
        """Refuse a closure that has added onto gradients which the later passes will not see.

        Raises:
            UsageError: If it did.
        """
        old = set(self._old)
        flags = []
        for p in self._parameters:
            if p in self._clean:
                continue
            if p in old:
                flags.append(self._onto.get(p, _any(p.grad)))
            elif p in self._onto and p.grad is not None and p.grad.requires_grad:
                flags.append(self._onto[p])  # with create_graph the sum is a new tensor
        if _one(flags):
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


def no_gradient(where: str) -> UsageError:
    """The error for a closure that returns a loss and has not differentiated it."""
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

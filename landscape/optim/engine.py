"""The engine under every method: passes, climb, exact restore, base step.

An optimizer here wraps any ``torch.optim.Optimizer`` and is one itself. ``step(closure)`` calls the closure once
per pass. The closure may follow torch's convention (zero the gradients, compute the loss, call ``backward``,
return the loss), or return a `BatchLoss` *without* calling ``backward``; then the optimizer differentiates what
its method needs. Methods that look at single domains (DISAM) need the second form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..ascent import EPSILON, global_norm
from ..errors import NumericalError, UsageError


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch, not yet differentiated.

    Attributes:
        mean: Mean loss over the examples of the batch, shape ``()``.
        domains: Mean loss of each domain present in the batch, shape ``(M,)``, or None.
    """

    mean: Tensor
    domains: Tensor | None = None


Closure = Callable[[], Any]  # returns a Tensor (already differentiated) or a BatchLoss


class ERM(torch.optim.Optimizer):
    """Empirical risk minimization: one pass, then the base optimizer's step.

    Args:
        base: The optimizer that makes the step. Parameter groups are shared with it, so a learning-rate
            scheduler may be attached to either.
        settings: Method parameters; each parameter group may override them.
    """

    passes = 1

    def __init__(self, base: torch.optim.Optimizer, **settings: float) -> None:
        self.base = base
        super().__init__(base.param_groups, settings)
        # Shared dictionaries: what a scheduler writes into one is what the other reads.
        self.param_groups = base.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer, with its defaults and the method's."""
        if self.param_groups is not self.base.param_groups:  # the constructor is still collecting
            super().add_param_group(param_group)
            return
        self.base.add_param_group(param_group)
        for name, value in self.defaults.items():
            self.param_groups[-1].setdefault(name, value)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Make one step and return the loss at the weights before it, shape ``()``.

        Raises:
            UsageError: If there is no closure.
        """
        if closure is None:
            raise UsageError("step() needs a closure", type(self).__name__, "pass a function that computes the loss")
        with torch.enable_grad():
            loss = self._differentiate(closure(), self.first_objective)
        self._second_pass(closure)
        self._finite_norm("update gradient")
        self.base.step()
        return loss.detach()

    @torch.no_grad()
    def _finite_norm(self, what: str) -> Tensor:
        """L2 norm over all gradients of all groups, shape ``()``; the weights have not moved yet when it fails.

        Raises:
            NumericalError: If it is NaN or infinite.
        """
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = global_norm(gradients) if gradients else torch.zeros(())
        if not torch.isfinite(norm):
            raise NumericalError(
                f"the {what} has norm {float(norm)}",
                type(self).__name__,
                "lower the learning rate; no weight was changed",
            )
        return norm

    def first_objective(self, loss: BatchLoss) -> Tensor:
        """What the first pass differentiates, shape ``()``."""
        return loss.mean

    def _second_pass(self, closure: Closure) -> None:
        """Replace the gradients by the update gradient; nothing to do for ERM."""

    def _differentiate(self, loss: Any, objective: Callable[[BatchLoss], Tensor]) -> Tensor:
        if not isinstance(loss, BatchLoss):
            return self._plain(loss)
        self.zero_grad(set_to_none=True)
        objective(loss).backward()
        return loss.mean

    def _plain(self, loss: Any) -> Tensor:
        if not isinstance(loss, Tensor):
            raise UsageError(f"the closure returned a {type(loss).__name__}", type(self).__name__, "return the loss")
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All of the state: the base optimizer's and the method's own."""
        return {"base": self.base.state_dict(), "method": self.method_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups
        self.load_method_state(state_dict["method"])

    def method_state(self) -> dict[str, Any]:
        """State of the method that outlives a step; most methods have none."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore what `method_state` gave."""


class TwoPass(ERM):
    """Climb along the gradient, take the gradient there, come back exactly, step.

    Subclasses say how far to climb (`scales`) and what the base optimizer receives (`combine`). The climb is
    ``e = scale · g`` with one scale per parameter group. The weights return into the same storage, bit for bit,
    also when the closure raises. The second pass sees the dropout masks of the first and leaves the running
    statistics of normalisation layers alone.
    """

    passes = 2
    keeps_gradient = False  # whether `combine` needs the gradient of the first pass

    def scales(self, norm: Tensor) -> list[Tensor]:
        """Factor of the gradient in the perturbation, one per parameter group, each of shape ``()``.

        Args:
            norm: L2 norm of the gradient over all parameters of all groups, shape ``()``.
        """
        return [group["rho"] / (norm + EPSILON) for group in self.param_groups]

    def combine(self, gradient: Tensor, perturbed: Tensor) -> None:
        """Turn ``perturbed`` (gradient at the perturbed weights) into the update gradient, in place."""

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Make one step and return the loss at the weights before it, shape ``()``."""
        self._random_state = _random_states(self.param_groups)
        return super().step(closure)

    @torch.no_grad()
    def _second_pass(self, closure: Closure) -> None:
        moved = [(i, p) for i, group in enumerate(self.param_groups) for p in group["params"] if p.grad is not None]
        if not moved:
            return
        gradients = [p.grad for _, p in moved]
        scales = self.scales(self._finite_norm("gradient"))
        saved = [p.clone() for _, p in moved]
        try:
            for (i, p), g in zip(moved, gradients, strict=True):
                p.addcmul_(g, scales[i].to(p.device, p.dtype))
            for _, p in moved:
                p.grad = None  # `gradients` still holds them; the closure must not overwrite or add to them
            if not self.keeps_gradient:
                gradients = []
            _set_random_states(self._random_state)
            with torch.enable_grad(), frozen_running_statistics():
                self._differentiate(closure(), lambda loss: loss.mean)
        finally:
            for (_, p), w in zip(moved, saved, strict=True):
                p.copy_(w)
        for (_, p), g in zip(moved, gradients, strict=False):
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            self.combine(g, p.grad)


@contextmanager
def frozen_running_statistics() -> Iterator[None]:
    """Leave running statistics (BatchNorm, SyncBatchNorm, InstanceNorm) as they were before the block.

    A hook on every module's forward copies the statistics of a layer the first time it is about to update
    them; afterwards they are written back. Setting momentum to 0, the known trick, would still count batches
    in ``num_batches_tracked`` and forgets InstanceNorm.
    """
    saved: dict[nn.Module, dict[str, Tensor]] = {}

    def keep(module: nn.Module, _: Any) -> None:
        if module.training and getattr(module, "track_running_stats", False) and module not in saved:
            saved[module] = {k: b.clone() for k, b in module.named_buffers(recurse=False)}

    handle = nn.modules.module.register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for module, buffers in saved.items():
                for name, value in buffers.items():
                    module.get_buffer(name).copy_(value)


def _random_states(groups: list[dict[str, Any]]) -> dict[torch.device | None, Tensor]:
    states: dict[torch.device | None, Tensor] = {None: torch.get_rng_state()}
    for device in {p.device for group in groups for p in group["params"] if p.is_cuda}:
        states[device] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[torch.device | None, Tensor]) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)

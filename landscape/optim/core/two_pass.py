"""The pattern of the sharpness-aware family: climb along the gradient, take the gradient there, come back, step."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from ...base.errors import UsageError
from ...numerics.ascent import EPSILON
from .by_hand import behind
from .engine import ERM
from .perturbation import ParamWithGrad


class TwoPass(ERM):
    """Climb, take the gradient there, come back exactly.

    Subclasses say where to climb (`perturbation`) and what the base optimizer receives (`combine`). The second
    pass sees the random numbers of the first and leaves running statistics alone, unless asked otherwise.
    """

    one_pass = False
    keeps_gradient = False
    """Whether `combine` needs the gradient of the first pass."""
    in_two_calls = True
    """Whether every step has two passes, so that `first_step` and `second_step` can make it."""
    climbs = 1
    """Ascent steps, each along the gradient at the point that the last one reached."""

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """One ascent step, tensor by tensor, so that it never exists as a whole.

        Args:
            moved: The parameters.
            gradients: The gradient where they are, one per parameter.
            home: Their values at the start of the step, one per parameter.
        """
        norm = self.gradient_norm(gradients)
        for m, g in zip(moved, gradients, strict=True):
            yield g * (m.group["rho"] / (norm + EPSILON)).to(g.device, g.dtype)

    def climb(self, moved: list[ParamWithGrad], home: list[Tensor]) -> None:
        """Add one perturbation to the weights; a function of its own, so that no part of it outlives it."""
        for m, e in zip(moved, self.perturbation(moved, [m.gradient for m in moved], home), strict=True):
            m.weights.add_(e)

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """Turn ``.grad`` (the gradient at the perturbed weights) into the update gradient, in place.

        Args:
            moved: The parameters.
            gradients: Gradient of the first pass, one per parameter; empty unless ``keeps_gradient``.
        """

    def passes(self) -> Generator[None, None, None]:
        """At the weights, and where each climb has led."""
        yield
        moved = self.moved()
        if not moved:
            return
        kept = [m.gradient for m in moved] if self.keeps_gradient else []
        with self.away(moved) as home:
            for _ in range(self.climbs):
                self.climb(moved, home)
                if not self.summed:
                    self.zero_grad(set_to_none=True)  # `kept` may hold them; the closure must not overwrite them
                yield
                self.fill_gradients(moved)
                for m in self.newcomers(moved):  # routed experts, layers that are skipped at times
                    moved.append(m)
                    home.append(m.weights.clone())
                    if self.keeps_gradient:
                        kept.append(torch.zeros_like(m.gradient))
        self.combine(moved, kept)

    # -- in two calls --------------------------------------------------------------------------------------------

    def first_step(self, zero_grad: bool = True) -> None:
        """Climb along the gradient that ``backward`` has left, in the form that davda54/sam made a habit.

            loss_of(model(x), y).backward()
            optimizer.first_step(zero_grad=True)
            loss_of(model(x), y).backward()
            optimizer.second_step(zero_grad=True)

        The same step as ``step(closure)``, but for what only a closure can give: dropout draws new masks in the
        second forward pass. Running statistics stay as the first has left them.

        Args:
            zero_grad: Accepted for the habit's sake: the gradients are kept apart and cleared in any case.

        Raises:
            UsageError: If the method has more or fewer than two passes, there is no gradient, or the last
                `first_step` has had no `second_step`.
        """
        self._require_two_calls()
        with torch.no_grad():
            self.by_hand.first_step(self)

    def second_step(self, zero_grad: bool = False) -> None:
        """Come back and step with the gradient that ``backward`` has left at the perturbed weights.

        Args:
            zero_grad: Clear ``.grad`` afterwards, which holds the update gradient.

        Raises:
            UsageError: If there was no `first_step`, or no gradient since.
            NumericalError: If a gradient is not finite (without a scaler); the weights are those before the step.
        """
        with torch.no_grad():
            behind(self).by_hand.second_step(behind(self))
        if zero_grad:
            self.zero_grad()

    def undo_first_step(self) -> None:
        """Return to the weights before `first_step`, bit for bit, and forget it: after an error between the two."""
        with torch.no_grad():
            behind(self).by_hand.undo()

    def _require_two_calls(self) -> None:
        name, fix = type(self).__name__, "call step(closure)"
        if behind(self) is not self:
            raise UsageError(
                "Lightning counts only steps that it is asked for", name, f"{fix}, with manual_backward in it"
            )
        if not self.in_two_calls or self.climbs != 1 or getattr(self, "order", 1) != 1:
            raise UsageError("first_step() and second_step() are for methods of exactly two gradients", name, fix)
        if self.micro_batches or (self.ddp is not None and self.per_replica):
            raise UsageError("two calls cannot serve micro_batches=True nor per-replica perturbations", name, fix)

    @staticmethod
    def fill_gradients(moved: list[ParamWithGrad]) -> None:
        """A parameter that a later pass did not reach has a zero gradient there."""
        for m in moved:
            if m.parameter.grad is None:
                m.parameter.grad = torch.zeros_like(m.parameter)

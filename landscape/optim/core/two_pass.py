"""The pattern of the sharpness-aware family: climb along the gradient, take the gradient there, come back, step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...numerics.ascent import EPSILON, real_view
from .closures import ClosurePasses
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

    def update_gradient(self, work: ClosurePasses) -> Tensor:
        """All passes; the update gradient is left in ``.grad``."""
        loss = self.differentiate(work)
        moved = self.moved()
        if not moved:
            return loss
        kept = [m.gradient for m in moved] if self.keeps_gradient else []
        with self.away(moved) as home:
            for _ in range(self.climbs):
                self.climb(moved, home)
                self.zero_grad(set_to_none=True)  # `kept` may hold them; the closure must not overwrite them
                self.differentiate(work, first=False)
                self.fill_gradients(moved)
                for m in self.newcomers(moved):  # routed experts, layers that are skipped at times
                    moved.append(m)
                    home.append(m.weights.clone())
                    if self.keeps_gradient:
                        kept.append(torch.zeros_like(m.gradient))
        self.combine(moved, kept)
        return loss

    @staticmethod
    def fill_gradients(moved: list[ParamWithGrad]) -> None:
        """A parameter that a later pass did not reach has a zero gradient there."""
        for m in moved:
            if m.parameter.grad is None:
                m.parameter.grad = torch.zeros_like(m.parameter)


def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product over all tensors as real vectors, shape ``()``, summed in float32 or wider."""
    parts = []
    for x, y in zip(map(real_view, a), map(real_view, b), strict=True):
        wide = torch.promote_types(x.dtype, torch.float32)
        parts.append(torch.dot(x.reshape(-1).to(wide), y.reshape(-1).to(wide)))
    return torch.stack([p.to(parts[0].device) for p in parts]).sum()

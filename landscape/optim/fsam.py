"""F-SAM: friendly SAM (Li et al. 2024, arXiv 2403.12350; nblt/F-SAM)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ..numerics.ascent import EPSILON, norm_one_by_one
from .core.perturbation import ParamWithGrad, placed
from .core.shared_options import SharedOptions, require_finite
from .core.two_pass import TwoPass
from .core.wrapper import by_place


class FSAM(TwoPass):
    """SAM whose climb leaves out the part of the gradient that all batches share.

    With m an average of past gradients (their full-batch part), r = g − sigma·m is the batch's own noise:

        e = rho · r / (‖r‖ + 1e-12),   G = ∇L(w + e),   then m ← lam·m + (1 − lam)·g.

    The first step has no m yet and equals SAM's. Cost: 2 gradients per step; memory: two copies besides m.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (0.05).
        sigma: Share of m that is taken away (1; 0 gives SAM).
        lam: Decay of m (0.9).
        **common: See `landscape.optim.core.engine.SharedOptions`; ``micro_batches`` is not defined for it.

    Example:
        >>> import torch
        >>> from landscape.optim import FSAM, BatchLoss
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = FSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    keeps_gradient = True

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        sigma: float = 1.0,
        lam: float = 0.9,
        **common: Unpack[SharedOptions],
    ) -> None:
        require_finite(lam=lam)
        super().__init__(base, common, rho=rho, sigma=sigma)
        self.lam = lam
        if self.micro_batches:
            raise self.no_micro_batches()
        self._mean: dict[nn.Parameter, Tensor] = {}
        self._last: dict[nn.Parameter, Tensor] = {}

    def passes(self) -> Generator[None, None, None]:
        """Both; a step without any gradient, or one that was skipped, leaves nothing to remember."""
        self._last = {}
        yield from super().passes()

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """The step along r."""
        self.gradient_norm(gradients)

        def own(m: ParamWithGrad, g: Tensor) -> Tensor:
            mean = self._mean.get(m.parameter)
            return g if mean is None else g - m.group["sigma"] * mean

        norm = norm_one_by_one(own(m, g) for m, g in zip(moved, gradients, strict=True))
        for m, g in zip(moved, gradients, strict=True):
            yield own(m, g) * (m.group["rho"] / (norm + EPSILON)).to(g.device, g.dtype)

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """G is the gradient there; the one here is remembered for the average."""
        self._last = dict(zip((m.parameter for m in moved), gradients, strict=True))

    def base_step(self) -> None:
        """The base step; then m takes in the raw gradient."""
        super().base_step()
        for parameter, g in self._last.items():
            if parameter in self._mean:
                self._mean[parameter].mul_(self.lam).add_(g, alpha=1 - self.lam)
            else:
                self._mean[parameter] = g  # not in use elsewhere: the base has stepped with g'
        self._last = {}

    def method_state(self) -> dict[str, Any]:
        """m, by position of the parameter."""
        return {"mean": by_place(self._mean, self.parameters())}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore m."""
        parameters = self.parameters()
        self._mean = {parameters[i]: placed(m, parameters[i]) for i, m in state["mean"].items()}

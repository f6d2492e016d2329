"""LookSAM: SAM every k-th step (Liu et al. 2022, arXiv 2203.02714)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from .core.inner_product import inner
from .core.perturbation import ParamWithGrad, placed
from .core.shared_options import SharedOptions, require_count
from .core.two_pass import TwoPass
from .core.wrapper import by_place


class LookSAM(TwoPass):
    """SAM at every k-th step; between, its sideways part is used again.

    At a SAM step G = g' and gv = g' − ‖g'‖·cos(g, g')·g/‖g‖ is kept, the part of g' orthogonal to g. At the others

        G = g + alpha · ‖g‖ · gv / (‖gv‖ + 1e-8).

    Norms and cosines are over all parameters, as in the paper (some implementations take them per tensor).
    Cost: 1 + 1/k gradients per step; memory: two copies besides gv.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (kozistr/pytorch_optimizer: 0.1).
        alpha: Weight of the kept part (0.7).
        sam_every: k (10); 1 gives SAM.
        **common: See `landscape.optim.core.engine.SharedOptions`; ``micro_batches`` is not defined for it.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss, LookSAM
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = LookSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    keeps_gradient = True
    in_two_calls = False

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.1,
        alpha: float = 0.7,
        *,
        sam_every: int = 10,
        **common: Unpack[SharedOptions],
    ) -> None:
        require_count("sam_every", sam_every)
        super().__init__(base, common, rho=rho, alpha=alpha)
        self.sam_every = sam_every
        if self.micro_batches:
            raise self.no_micro_batches()
        self._steps = 0
        self._sideways: dict[nn.Parameter, Tensor] = {}

    def passes(self) -> Generator[None, None, None]:
        """Two at a SAM step, else one."""
        self._next: dict[nn.Parameter, Tensor] | None = None
        if self._steps % self.sam_every == 0:
            yield from super().passes()
            return
        yield
        moved = self.moved()
        norm = self.gradient_norm([m.gradient for m in moved])
        length = self.gradient_norm([self._sideways[m.parameter] for m in moved if m.parameter in self._sideways])
        for m in moved:
            if m.parameter in self._sideways:
                factor = (m.group["alpha"] * norm / (length + 1e-8)).to(m.gradient.device, m.gradient.dtype)
                m.gradient.add_(self._sideways[m.parameter] * factor)

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """G is g'; its part orthogonal to g is kept."""
        there = [m.gradient for m in moved]
        squared = inner(gradients, gradients)
        along = inner(gradients, there) / squared.clamp(min=torch.finfo(squared.dtype).tiny)
        self._next = {}
        for m, g in zip(moved, gradients, strict=True):
            self._next[m.parameter] = g.mul_(-along.to(g.device, g.dtype)).add_(m.gradient)

    def base_step(self) -> None:
        """The base step; then the step counts and gv is kept."""
        super().base_step()
        self._steps += 1
        if self._next is not None:
            self._sideways, self._next = self._next, None

    def method_state(self) -> dict[str, object]:
        """The count of steps, and gv by position of the parameter."""
        return {"steps": self._steps, "sideways": by_place(self._sideways, self.parameters())}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore both."""
        parameters = self.parameters()
        self._steps = state["steps"]
        self._sideways = {parameters[i]: placed(v, parameters[i]) for i, v in state["sideways"].items()}

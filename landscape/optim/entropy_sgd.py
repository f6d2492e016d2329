"""Entropy-SGD (Chaudhari et al. 2017, arXiv 1611.01838, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Unpack

import torch
from torch import Tensor

from ..runtime.devices import sent
from .core.engine import ERM
from .core.perturbation import ParamWithGrad
from .core.shared_options import SharedOptions, require_count, require_finite


class EntropySGD(ERM):
    """Descend along the local entropy, whose gradient gamma·(w − ⟨x⟩) is estimated by Langevin dynamics.

    From x = mu = w, L times, with z standard normal noise:

        x ← x − lr_x·[∇L(x) + gamma·(x − w)] + sqrt(lr_x)·noise·z,   mu ← (1 − alpha)·mu + alpha·x,

    and then G = gamma·(w − mu) is handed to the base optimizer. Wide valleys pull mu further than sharp ones. All
    L gradients are of the step's batch (the paper draws a new one for each). Running statistics move in the first
    of them only. Cost: L gradients per step; memory: two copies of the weights.

    Args:
        base: Makes the step with G.
        gamma: Strength of the coupling to w, in units of 1/loss-curvature scale. Default 1/(lr_x·L) rounded, 0.5:
            with it G is about the mean gradient where noise and coupling are small, so that the base's learning
            rate keeps its meaning (ours; the paper tunes lr·gamma).
        langevin_steps: L (paper: 20).
        langevin_lr: lr_x (paper: 0.1).
        alpha: Weight of the newest x in mu (0.75).
        noise: Thermal noise (paper: 1e-4).
        **common: See `landscape.optim.core.engine.SharedOptions`; ``micro_batches`` is not defined for it.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss, EntropySGD
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = EntropySGD(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    one_pass = False

    def __init__(
        self,
        base: torch.optim.Optimizer,
        gamma: float = 0.5,
        alpha: float = 0.75,
        *,
        langevin_steps: int = 20,
        langevin_lr: float = 0.1,
        noise: float = 1e-4,
        **common: Unpack[SharedOptions],
    ) -> None:
        require_count("langevin_steps", langevin_steps)
        require_finite(langevin_lr=langevin_lr, noise=noise)
        super().__init__(base, common, gamma=gamma, alpha=alpha)
        self.langevin_steps, self.langevin_lr, self.noise = langevin_steps, langevin_lr, noise
        if self.micro_batches:
            raise self.no_micro_batches()
        # Noise of its own stream: replaying the closure's random numbers must not repeat it.
        self._seed, self._steps = int(torch.randint(2**62, ())), 0

    def passes(self) -> Generator[None, None, None]:
        """L, of Langevin dynamics around w; gamma·(w − mu) is left in ``.grad``."""
        yield
        moved = self.moved()
        if not moved:
            return
        generator = torch.Generator().manual_seed(self._seed + self._steps)  # on the host: alike on every device
        with self.away(moved) as home:
            mu = [w.clone() for w in home]
            for step in range(self.langevin_steps):
                if step:
                    self.zero_grad(set_to_none=True)
                    yield
                    for m in self.newcomers(moved):
                        moved.append(m)
                        home.append(m.weights.clone())
                        mu.append(m.weights.clone())
                self.gradient_norm([m.gradient for m in self.moved()])
                self._langevin_step(moved, home, mu, generator)
        for m, w, average in zip(moved, home, mu, strict=True):
            m.gradient = (w - average).mul_(m.group["gamma"])

    def _langevin_step(
        self,
        moved: list[ParamWithGrad],
        home: list[Tensor],
        mu: list[Tensor],
        generator: torch.Generator,
    ) -> None:
        for m, w, average in zip(moved, home, mu, strict=True):
            x = m.weights
            z = sent(torch.empty_like(x, device="cpu").normal_(generator=generator), x.device, x.dtype)
            pull = m.group["gamma"] * (x - w)
            if m.parameter.grad is not None:
                pull += m.gradient
            x.sub_(pull, alpha=self.langevin_lr).add_(z, alpha=self.langevin_lr**0.5 * self.noise)
            average.lerp_(x, m.group["alpha"])

    def base_step(self) -> None:
        """The base step; the noise of the next step is another."""
        super().base_step()
        self._steps += 1

    def method_state(self) -> dict[str, Any]:
        """Where the stream of noise stands."""
        return {"seed": self._seed, "steps": self._steps}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._seed, self._steps = state["seed"], state["steps"]

"""What every optimizer of the family has to keep, whatever it descends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..optim.core.closures import BatchLoss
from ..runtime.random_state import preserved_random_state, seed_everything
from .requiring import require

_STEPS = 4
Make = Callable[[Iterable[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


def check_optimizer(make: Make) -> None:
    """Try an optimizer on a small network with BatchNorm, dropout and three domains, in float64.

    Checked: both kinds of closure give the same weights to 1e-12; every pass of a step sees the same random numbers,
    and what is drawn after a step does not depend on how many passes it had; running statistics are those of one
    pass; weights stay finite, and those without a gradient stay; a copy that loads the state goes on to the same
    bits; the loss falls.

    Args:
        make: From named parameters to the optimizer, as ``lambda p: MySAM(torch.optim.SGD(p, lr=0.1))``.

    Raises:
        AssertionError: Naming what does not hold.

    Example:
        >>> import torch
        >>> from landscape.optim import SAM
        >>> from landscape.testing import check_optimizer
        >>> check_optimizer(lambda parameters: SAM(torch.optim.SGD(parameters, lr=0.05), rho=0.05))
    """
    with preserved_random_state():
        batch, differentiated = _trained(make, kind="batch"), _trained(make, kind="differentiated")
        worst = max(float((a - b).abs().max()) for a, b in zip(batch.weights, differentiated.weights, strict=True))
        require(worst <= 1e-12, f"a closure that calls backward ends {worst:.1e} from one that returns a BatchLoss")
        require(all(bool(w.isfinite().all()) for w in batch.weights), "weights are not finite")
        require(torch.equal(batch.model[0].unused, torch.ones(2).double()), "a weight without a gradient has moved")
        plain = _trained(lambda p: torch.optim.SGD(p, lr=0.0), kind="differentiated")
        require(batch.drawn == plain.drawn, "what is drawn after the steps depends on how many passes they had")
        passes = int(batch.model[1].num_batches_tracked)
        require(passes == _STEPS, f"running statistics saw {passes} passes in {_STEPS} steps")
        for seen in batch.masks:
            require(len(set(seen)) == 1, "the passes of one step drop different units")
        first, last = batch.losses[0], _trained(make, kind="batch", steps=40).losses[-1]
        require(last < first, f"the loss rose from {first:.4g} to {last:.4g} in 40 steps")
        _check_state(make)


class _First(nn.Linear):
    """A layer with a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__(5, 8, dtype=torch.float64)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))


class _Noted(nn.Module):
    """Dropout that notes what it drops."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.rand(x.shape[1], dtype=torch.float64) > 0.3
        self.seen.append(hash(tuple(mask.tolist())))
        return x * mask


class _Trained:
    """A network, its optimizer and batch, and what was seen of them."""

    def __init__(self, make: Make) -> None:
        seed_everything(0, "check_optimizer")
        layers = (_First(), nn.BatchNorm1d(8).double(), nn.ReLU(), _Noted(), nn.Linear(8, 3).double())
        self.model: Any = nn.Sequential(*layers)
        self.x, self.y = torch.randn(24, 5, dtype=torch.float64), torch.arange(24) % 3
        self.domain = torch.arange(24) % 3
        self.optimizer = make(self.model.named_parameters())
        self.losses: list[float] = []
        self.masks: list[list[int]] = []
        self.drawn = 0.0

    @property
    def weights(self) -> list[Tensor]:
        return [p.detach() for p in self.model.parameters()]

    def step(self, kind: str) -> None:
        self.model[3].seen = []

        def loss() -> BatchLoss:
            each = nn.functional.cross_entropy(self.model(self.x), self.y, reduction="none")
            domains = torch.stack([each[self.domain == i].mean() for i in range(3)])
            return BatchLoss(each.mean(), domains, torch.full((3,), 8))

        def differentiated() -> Tensor:
            self.optimizer.zero_grad()
            value = loss().mean
            value.backward()
            return value

        needs = getattr(self.optimizer, "needs_domains", False)  # those cannot differentiate by themselves
        closure: Any = loss if kind == "batch" or needs else differentiated
        found: Any = self.optimizer.step(closure)
        self.losses.append(float(found.detach()))
        self.masks.append(self.model[3].seen)


def _trained(make: Make, *, kind: str, steps: int = _STEPS) -> _Trained:
    found = _Trained(make)
    for _ in range(steps):
        found.step(kind)
    found.drawn = float(torch.rand(()))
    return found


def _check_state(make: Make) -> None:
    """A copy with the state of the first half goes on to the same bits."""
    whole, half = _Trained(make), _Trained(make)
    for k in range(2 * _STEPS):
        seed_everything(k, "step")
        whole.step("batch")
    for k in range(_STEPS):
        seed_everything(k, "step")
        half.step("batch")
    again = _Trained(make)
    again.model.load_state_dict(half.model.state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(half.optimizer.state_dict()))
    for k in range(_STEPS, 2 * _STEPS):
        seed_everything(k, "step")
        again.step("batch")
    same = all(torch.equal(a, b) for a, b in zip(whole.weights, again.weights, strict=True))
    require(same, "with the saved state it does not go on to the same bits")

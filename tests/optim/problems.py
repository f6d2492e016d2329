"""Small problems, closures and every method, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.optim import (
    ASAM,
    DISAM,
    DISAMGSAM,
    DISAMSAGM,
    ERM,
    FSAM,
    GSAM,
    SAGM,
    SAM,
    USAM,
    WSAM,
    BatchLoss,
    EntropySGD,
    LookSAM,
    MicroBatches,
    VREx,
)  # fmt: skip

# Every method with a radius (or a coupling) that matters on these problems.
METHODS: dict[str, Callable[..., ERM]] = {
    "erm": lambda base, rho=0.3, **common: ERM(base, common),
    "sam": SAM,
    "sam adaptive": lambda base, rho=0.3, **common: SAM(base, rho, adaptive=True, **common),
    "sam p=1": lambda base, rho=0.3, **common: SAM(base, rho, p="1", **common),
    "sam p=inf": lambda base, rho=0.3, **common: SAM(base, rho / 5, p="inf", **common),
    "sam three steps": lambda base, rho=0.3, **common: SAM(base, rho, ascent_steps=3, **common),
    "usam": USAM,
    "asam": ASAM,
    "gsam": GSAM,
    "sagm": SAGM,
    "disam": DISAM,
    "disam-gsam": DISAMGSAM,
    "disam-sagm": DISAMSAGM,
    "vrex": lambda base, rho=0.3, **common: VREx(base, 0.5, **common),
    "fsam": FSAM,
    "looksam": lambda base, rho=0.3, **common: LookSAM(base, rho, sam_every=2, **common),
    "wsam": WSAM,
    "wsam coupled": lambda base, rho=0.3, **common: WSAM(base, rho, decouple=False, **common),
    "entropy-sgd": lambda base, rho=0.3, **common: EntropySGD(base, langevin_steps=4, noise=0.0, **common),
}
NEED_DOMAINS = {"disam", "disam-gsam", "disam-sagm", "vrex"}
ONE_PASS = {"erm", "vrex"}
# Methods whose update depends on nothing but the batch: the others remember, or step twice.
MICRO = [m for m in METHODS if m not in (*ONE_PASS, "fsam", "looksam", "wsam", "entropy-sgd")]


def network(seed: int = 0) -> nn.Sequential:
    """Dropout, BatchNorm and InstanceNorm with running statistics; float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.4),
        nn.Linear(8, 3),
    ).double()


def batch(domains: tuple[int, ...] = (9, 4, 3)) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    n = sum(domains)
    domain = torch.repeat_interleave(torch.arange(len(domains)), torch.tensor(domains))
    return (
        torch.randn(n, 6, generator=g, dtype=torch.float64) * (1 + domain[:, None]),
        torch.randint(0, 3, (n,), generator=g),
        domain,
    )


def closure_of(model: nn.Module, domains: tuple[int, ...] = (9, 4, 3)) -> Callable[[], BatchLoss]:
    x, y, domain = batch(domains)

    def closure() -> BatchLoss:
        each = F.cross_entropy(model(x), y, reduction="none")
        return BatchLoss(
            each.mean(), torch.stack([each[domain == i].mean() for i in domain.unique()]), torch.bincount(domain)
        )

    return closure


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.named_parameters(), lr=lr, momentum=0.9)


def ends(make: Callable[[nn.Module], ERM], domains: tuple[int, ...] = (9, 4, 3), steps: int = 4) -> dict[str, Tensor]:
    """State after some steps, the losses, and the next random number."""
    model = network().train()
    optimizer = make(model)
    torch.manual_seed(7)
    losses = torch.stack([optimizer.step(closure_of(model, domains)) for _ in range(steps)])
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return {**state, "losses": losses, "random": torch.rand(1)}


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def torch_closure(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None) -> Any:
    """The closure of torch's own convention."""
    x, y, _ = batch()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    return closure


def pieces_closure(model: nn.Module, sizes: tuple[int, ...] = (5, 5, 6)) -> Any:
    """The batch in pieces, each with its part of every domain."""
    x, y, domain = batch()
    starts = [sum(sizes[:k]) for k in range(len(sizes))]

    def piece(start: int, size: int) -> Any:
        def call() -> BatchLoss:
            rows = slice(start, start + size)
            each = F.cross_entropy(model(x[rows]), y[rows], reduction="none")
            members = torch.stack([domain[rows] == i for i in range(3)]).double()
            counts = members.sum(1)
            return BatchLoss(each.mean(), members @ each / counts.clamp(min=1), counts)

        return call

    return lambda: MicroBatches([piece(a, n) for a, n in zip(starts, sizes, strict=True)], sizes)


def smooth(model_seed: int = 0) -> nn.Sequential:
    """Without batch statistics and dropout, so that pieces and the whole are the same function."""
    torch.manual_seed(model_seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def close(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class Nothing(torch.optim.Optimizer):
    """A base optimizer that keeps the gradients it is handed and moves nothing."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.0})
        self.seen: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> None:
        self.seen.append([p.grad.clone() for g in self.param_groups for p in g["params"] if p.grad is not None])

"""One problem for every loop, and what our own step makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from optim.problems import METHODS, NEED_DOMAINS, network
from torch import Tensor, nn

from landscape.optim import BatchLoss, MicroBatches

Batch = tuple[Tensor, Tensor, Tensor]  # inputs, targets, domains

# Pieces of one batch, whatever the method: its own closure that goes through them is the same.
PLAIN = [m for m in METHODS if m not in NEED_DOMAINS]
DEFAULT_K = 4
# One of each kind, where what is tested is the loop's and not the method's: one pass, two, more, both gradients
# kept, memory from step to step, two gradients handed on, domains in the first pass.
KINDS = (
    "erm",
    "sam",
    "sam three steps",
    "gsam",
    "sagm",
    "disam-sagm",
    "vrex",
    "fsam",
    "looksam",
    "wsam",
    "entropy-sgd",
)


def micro_batches(method: str, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """Ten, in steps of four: the last step has two, and the last of all is shorter. Not all hold every domain.

    For methods of domains eight: a step that a loop scales down as a whole has no counterpart among ours.
    """
    g = torch.Generator().manual_seed(5)
    sizes = [6] * 8 if method in NEED_DOMAINS else [6] * 9 + [4]
    made = []
    for k, n in enumerate(sizes):
        domain = torch.randint(0, 2, (n,), generator=g) + k % 2
        x = torch.randn(n, 6, generator=g, dtype=torch.float64).to(dtype) * (1 + domain[:, None])
        made.append((x, torch.randint(0, 3, (n,), generator=g), domain))
    return made


def steps(batches: list[Batch], k: int) -> Iterator[list[Batch]]:
    """As the loops form them: k at a time, the last with what is left."""
    for start in range(0, len(batches), k):
        yield batches[start : start + k]


def domain_losses(each: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and count of each of three domains, zero where one is missing."""
    members = torch.stack([domain == i for i in range(3)]).to(each.dtype)
    counts = members.sum(1)
    return members @ each / counts.clamp(min=1), counts


def batch_loss(model: nn.Module, batch: Batch) -> BatchLoss:
    """Of one micro-batch, with its domains."""
    x, y, domain = batch
    each = F.cross_entropy(model(x), y, reduction="none")
    return BatchLoss(each.mean(), *domain_losses(each, domain))


def optimizer_of(method: str, model: nn.Module, **common: Any) -> Any:
    """Two groups, the second slower, and a frozen parameter."""
    named = list(model.named_parameters())
    named[-1][1].requires_grad_(False)
    groups = [{"params": named[:4]}, {"params": named[4:], "lr": 0.05}]
    torch.manual_seed(11)  # Entropy-SGD draws the seed of its noise
    return METHODS[method](torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-3), rho=0.2, **common)


def scheduler_of(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


def ours(
    method: str,
    k: int = DEFAULT_K,
    *,
    epochs: int = 1,
    scaled_by: str = "k",
    autocast: torch.dtype | None = None,
    dtype: torch.dtype = torch.float64,
    per_epoch: bool = False,
    **common: Any,
) -> dict[str, Tensor]:
    """State after the epochs of our own loop: one closure per step over all its micro-batches."""
    model = network().to(dtype).train()
    optimizer = optimizer_of(method, model, **common)
    scheduler = scheduler_of(optimizer)
    seed = 0

    def forward(batch: Batch) -> BatchLoss:
        with torch.autocast("cpu", autocast) if autocast else nullcontext():
            return batch_loss(model, batch)

    for _ in range(epochs):
        for step in steps(micro_batches(method, dtype), k):
            torch.manual_seed(seed)
            seed += 1
            if method in NEED_DOMAINS:
                pieces = [lambda b=b: forward(b) for b in step]
                optimizer.step(lambda pieces=pieces: MicroBatches(pieces, [1] * len(pieces)))
            else:
                divide = k if scaled_by == "k" else len(step)
                scaler = common.get("scaler")

                def closure(step: list[Batch] = step, divide: int = divide, scaler: Any = scaler) -> Tensor:
                    optimizer.zero_grad()
                    losses = []
                    for batch in step:
                        loss = forward(batch).mean / divide
                        (loss if scaler is None else scaler.scale(loss)).backward()
                        losses.append(loss.detach())
                    return torch.stack(losses).sum()

                optimizer.step(closure)
            if not per_epoch:
                scheduler.step()
        if per_epoch:
            scheduler.step()
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-9) -> None:
    """Equal states, and not those of the start."""
    start = network().to(expected["5.weight"].dtype).state_dict()
    assert float((start["5.weight"] - expected["5.weight"]).abs().max()) > 2e-4
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name].double() - value.double()).abs().max())
        assert error <= within, f"{name}: {error:.1e}"

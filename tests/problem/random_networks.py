"""Networks at random, with their dense Hessians: for statements about how often something holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import dense
from torch import Tensor, nn

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.Tanh, nn.GELU, nn.Softplus, nn.SiLU, nn.LeakyReLU)


@dataclass(frozen=True)
class Drawn:
    """One network in its type, its examples, its loss, and the Hessian of the mean loss in float64.

    Attributes:
        options: Of `Problem`.
        matrix: ``(n, n)``, at the very weights and examples of the network, also where these are float32.
    """

    model: nn.Module
    data: tuple[Tensor, Tensor]
    loss: str
    options: dict[str, Any]
    matrix: Tensor


def drawn(seed: int) -> Drawn:
    """A network of a seed: its kind, width, activation, size of weights, type, loss, examples, penalty."""
    random = np.random.default_rng([seed, 0xD1FF])
    torch.manual_seed(seed)
    width = int(random.integers(4, 9))

    def activation() -> nn.Module:
        return ACTIVATIONS[int(random.integers(len(ACTIVATIONS)))]()

    kinds: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.Sequential(nn.Linear(6, width), activation(), nn.Linear(width, width), activation()),
        lambda: nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width), activation()),
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), activation(), nn.Flatten()
        ),
        lambda: nn.Sequential(nn.Linear(6, 2 * width), nn.GLU(), activation()),
    )
    body = kinds[int(random.integers(len(kinds)))]()
    with torch.no_grad():
        features = body.eval()(torch.zeros(2, 6)).shape[1]
    loss = ("cross_entropy", "mse")[int(random.integers(2))]
    model = nn.Sequential(body, nn.Linear(features, 3)).eval()
    dtype = (torch.float32, torch.float64)[int(random.integers(2))]
    scale = float(np.exp(random.normal(0, 0.5)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    model.to(dtype)
    n = int(random.integers(20, 300))
    x = torch.randn(n, 6).to(dtype)
    y = torch.randint(0, 3, (n,)) if loss == "cross_entropy" else torch.randn(n, 3).to(dtype)
    decay = float(random.choice([0.0, 0.01]))
    options = {"batch_size": int(random.integers(10, 400)), "weight_decay": decay}
    exact = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}[loss]
    given = y.double() if y.is_floating_point() else y
    double = nn.Sequential(body, model[1]).double()
    matrix = dense(double, x.double(), given, exact)[2]
    model.to(dtype)
    return Drawn(model, (x, y), loss, options, matrix + decay * torch.eye(len(matrix), dtype=torch.float64))

"""Small problems with known answers, and dense references that share no code with the library."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.problem.problem import Problem

OUT_OF_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
)


def problem_of(model: nn.Module, data: Any, loss: Any = "cross_entropy", **options: Any) -> Problem:
    """A problem on the CPU, in the model's own type."""
    return Problem(model, data, loss, device="cpu", **options)


# -- dense references ---------------------------------------------------------------------------------------------


def flat_function(model: nn.Module, call: Callable[[nn.Module], Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The scalar ``call(model)`` as a function of all trainable weights in one vector, and that vector."""
    model = copy.deepcopy(model).eval()
    named = {k: p.detach().clone() for k, p in model.named_parameters() if p.requires_grad}

    def function(vector: Tensor) -> Tensor:
        parts, at = {}, 0
        for name, value in named.items():
            parts[name] = vector[at : at + value.numel()].view(value.shape)
            at += value.numel()
        return torch.func.functional_call(_Called(model, call), {f"model.{k}": v for k, v in parts.items()}, ())

    return function, torch.cat([v.reshape(-1) for v in named.values()])


class _Called(nn.Module):
    def __init__(self, model: nn.Module, call: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self) -> Tensor:
        return self.call(self.model)


def dense(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Any = F.cross_entropy
) -> tuple[float, Tensor, Tensor]:
    """Mean loss over all examples in one batch, its gradient, and its Hessian as a matrix."""
    function, weights = flat_function(model, lambda m: loss(m(inputs), targets))
    weights.requires_grad_()
    value = function(weights)
    (gradient,) = torch.autograd.grad(value, weights)
    return float(value.detach()), gradient, torch.autograd.functional.hessian(function, weights.detach())


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the random generators that an analysis must not change."""
    return {
        "state": {k: v.detach().clone() for k, v in model.state_dict().items()},
        "grad": {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "pointers": [p.data_ptr() for p in model.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    """Compare with a `snapshot`, bit for bit."""
    after = snapshot(model)
    for kind in ("state", "grad"):
        assert before[kind].keys() == after[kind].keys()
        for name, value in before[kind].items():
            now = after[kind][name]
            assert (value is None) == (now is None), name
            assert value is None or torch.equal(value.to_dense(), now.to_dense()), name
    assert torch.equal(before["torch"], after["torch"])
    for kind in ("training", "requires_grad", "pointers", "numpy"):
        assert before[kind] == after[kind], kind


# -- oracle 4: an MLP 6-8-3 with tanh on 70 examples --------------------------------------------------------------


def _mlp683() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def oracle_4a() -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Model, inputs, targets and a vector from torch's generator (reference/curvature.md, case 4a)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        inputs = torch.randn(70, 6, dtype=torch.float64)
        targets = torch.randint(0, 3, (70,))
        torch.manual_seed(0)
        model = _mlp683().double()
        vector = torch.randn(83, dtype=torch.float64)
    return model, inputs, targets, vector


def oracle_4b() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Model, inputs and targets without any generator (case 4b)."""

    def table(rows: int, columns: int, factor: float, rate: float, phase: float, wave: Any = np.sin) -> Tensor:
        r, c = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        return torch.from_numpy(factor * wave(rate * (columns * r + c) + phase))

    inputs = table(70, 6, 2.0, 1.7, 0.3)
    targets = torch.tensor([(7 * r // 5) % 3 for r in range(70)])
    model = _mlp683().double()
    with torch.no_grad():
        model[0].weight.copy_(table(8, 6, 0.5, 0.9, 0.1))
        model[0].bias.copy_(torch.from_numpy(0.1 * np.cos(np.arange(8))))
        model[2].weight.copy_(table(3, 8, 0.5, 1.3, 0.2, np.cos))
        model[2].bias.copy_(torch.from_numpy(0.1 * np.sin(np.arange(3) + 1)))
    return model, inputs, targets


# -- other problems -----------------------------------------------------------------------------------------------


class Coordinates(nn.Module):
    """A model without function: weights in 2-D parameters, which losses below read from its output."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(values.clone())

    def forward(self, x: Tensor) -> Tensor:
        """All weights for every example, ``(n, number of weights)``."""
        return self.w.reshape(1, -1).expand(len(x), -1)


def domain_data(
    counts: tuple[int, ...] = (9, 20, 13), inputs: int = 5, classes: int = 3, seed: int = 0
) -> dict[str, Any]:
    """Domains of unequal size, float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(n, inputs, generator=generator, dtype=torch.float64) * (1 + 0.5 * i) + 0.3 * i,
            torch.randint(0, classes, (n,), generator=generator),
        )
        for i, (name, n) in enumerate(zip(("art", "cartoon", "photo", "sketch"), counts, strict=False))
    }


def small_mlp(inputs: int = 5, hidden: int = 6, classes: int = 3, seed: int = 0) -> nn.Sequential:
    """A tanh network in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()


def mean_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """A user's loss that returns only the mean."""
    return F.cross_entropy(output, target)


class Limited(nn.Module):
    """A network that runs out of memory, in torch's words, for more than ``limit`` examples at once."""

    def __init__(self, inner: nn.Module, limit: int) -> None:
        super().__init__()
        self.inner, self.limit = inner, limit

    def forward(self, x: Tensor) -> Tensor:
        """The inner network's output."""
        if len(x) > self.limit:
            raise RuntimeError(OUT_OF_MEMORY)
        return self.inner(x)


def relu_study_net(alpha: float = 1.0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The trained ReLU network of reference/studies.md section 3, rescaled by ``alpha`` (same function)."""
    if not _STUDY:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inputs = torch.randn(64, 6, dtype=torch.float64)
            targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
            model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)).double()
        for _ in range(5):
            optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60)

            def closure(optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                decay = sum(p.square().sum() for p in model.parameters())
                loss = F.cross_entropy(model(inputs), targets) + 1e-3 * decay
                loss.backward()
                return loss

            optimizer.step(closure)
        model.zero_grad()
        _STUDY.append((model, inputs, targets))
    model, inputs, targets = copy.deepcopy(_STUDY[0])
    with torch.no_grad():
        model[0].weight.mul_(alpha)
        model[0].bias.mul_(alpha)
        model[2].weight.div_(alpha)
    return model, inputs, targets


_STUDY: list[tuple[nn.Sequential, Tensor, Tensor]] = []

"""How a network is put together: checkpoints, compilers, ties, custom functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .network import add, layer

# -- how a network is put together ---------------------------------------------------------------------------------


class _Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class _Cubed(torch.autograd.Function):
    """A custom function whose backward can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _CubedOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _CubedDetached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.detach()
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.kept**2 * g


class _Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.compile(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def _inner_gradient(x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(y.pow(3).sum(), y, create_graph=True)[0]


layer("checkpoint", lambda: _Checkpointed(reentrant=False))
layer("checkpoint, reentrant", lambda: _Checkpointed(reentrant=True))
layer("a compiled part", _Compiled, slow=True)
layer("tied weights", _Tied)
add("custom function", _Cubed.apply)
add("custom function, once_differentiable", _CubedOnce.apply)
add("custom function, saving a detached tensor", _CubedDetached.apply)
add("torch.func.vmap", torch.func.vmap(lambda a: torch.sin(a).cumsum(0)))
add("a gradient inside", _inner_gradient)
add(
    "segment_reduce", lambda x: torch.stack([torch.segment_reduce(a, "sum", lengths=torch.tensor([2, 4])) for a in x])
)

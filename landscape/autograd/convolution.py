"""Convolutions whose second derivative costs what it must, and takes the BatchNorm behind them along.

A Hessian product differentiates a convolution's backward pass. Torch does that with a convolution whose kernel is as
large as an image; here it is two convolutions and one more backward pass, which have fast kernels. A ResNet's product
takes a quarter less time for it.

BatchNorm with frozen statistics is a scale and a shift of each channel, and

    scale · (w ∗ x) + shift  =  (scale · w) ∗ x + shift.

The value is computed as the network asks for it, in two steps; its derivatives are those of the right-hand side, in
which scale and weight meet as small tensors. One activation less is saved, and a second derivative does not walk the
activations for BatchNorm. Whoever else looks at the convolution sees what it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})


class Geometry(NamedTuple):
    """How the kernel walks."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``weight ∗ x + bias``."""
        stride, padding, dilation, groups = self
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    def backward(self, g: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Sequence[Any]:
        """What ``g`` at the output means at input, weight and bias; None for what is not wanted."""
        stride, padding, dilation, groups = self
        rest = stride, padding, dilation, False, [0] * len(stride), groups
        found: Sequence[Any] = torch.ops.aten.convolution_backward(g, x, weight, [len(weight)], *rest, wanted)
        return found


@dataclass(frozen=True)
class Convolution:
    """A call of ``conv1d``, ``conv2d`` or ``conv3d``, and what it gave."""

    output: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    versions: tuple[int, int]

    @classmethod
    def call(cls, func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Convolution | None:
        """Make a call; None where it is left to torch.

        That is where no weight moves, for complex weights, examples without a batch and padding by name, and inside
        ``torch.func`` (`vmap`, `grad`), which takes functions apart that it does not know.
        """
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return None
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        call: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        call |= dict(zip(names, args, strict=False)) | dict(kwargs)
        x, weight, bias = call["input"], call["weight"], call["bias"]
        moves = torch.is_grad_enabled() and weight.requires_grad
        if not moves or weight.is_complex() or x.ndim != weight.ndim or isinstance(call["padding"], str):
            return None
        stride, padding, dilation = (_each(call[n], x.ndim - 2) for n in ("stride", "padding", "dilation"))
        geometry = Geometry(stride, padding, dilation, call["groups"])
        output = _valued(lambda: func(*args, **kwargs), x, weight, bias, geometry)
        return cls(output, x, weight, bias, geometry, (x._version, weight._version))

    def made(self, output: Any) -> bool:
        """Whether this gave ``output``, and nothing was written since into it or into what it was made of."""
        unchanged = self.output._version == 0 and self.versions == (self.x._version, self.weight._version)
        return output is self.output and unchanged

    def scaled(self, scale: Tensor, shift: Tensor) -> Tensor:
        """``scale`` · output + ``shift``, both ``(channels,)``."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        bias = shift if self.bias is None else shift + scale * self.bias
        return _valued(lambda: scaled(self.output, scale, shift), self.x, weight, bias, self.geometry)


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale`` · x + ``shift``, both ``(channels,)`` and broadcast over the second dimension."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


def _each(size: int | Sequence[int], dimensions: int) -> Sequence[int]:
    sizes = [size] if isinstance(size, int) else list(size)
    return sizes * dimensions if len(sizes) == 1 else sizes


Value = Callable[[], Tensor]


def _valued(value: Value, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    found: Tensor = _Valued.apply(value, x, weight, bias, geometry)  # type: ignore[no-untyped-call]
    return found


class _Valued(torch.autograd.Function):
    """What ``value`` gives, with the derivatives of the convolution that it is the value of."""

    @staticmethod
    def forward(ctx: Any, value: Value, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return value()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        wanted = ctx.needs_input_grad[1:4]
        found = _Backward.apply(*gradients, *ctx.saved_tensors, ctx.geometry, wanted)  # type: ignore[no-untyped-call]
        return None, *found, None


class _Backward(torch.autograd.Function):
    """A convolution's backward pass. It is linear in ``g``, in ``x`` and in ``weight``."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Sequence[bool]) -> Any:
        ctx.save_for_backward(g, x, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return tuple(geometry.backward(g, x, weight, wanted))

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> Any:
        g, x, weight = ctx.saved_tensors
        at_x, at_weight, at_bias = vectors  # as long as what backward gave for each
        at_g: Tensor | None = None
        if at_x is not None:
            at_g = ctx.geometry.forward(at_x, weight, at_bias)
        if at_weight is not None:
            more = ctx.geometry.forward(x, at_weight, at_bias if at_g is None else None)
            at_g = more if at_g is None else at_g.add_(more)
        if at_g is None and at_bias is not None:
            at_g = at_bias.view(1, -1, *[1] * (g.ndim - 2)).expand_as(g)
        wanted = (
            at_weight is not None and ctx.needs_input_grad[1],
            at_x is not None and ctx.needs_input_grad[2],
            False,
        )
        if not any(wanted):
            return at_g, None, None, None, None
        by_x, by_weight = x if at_x is None else at_x, weight if at_weight is None else at_weight
        found = ctx.geometry.backward(g, by_x, by_weight, wanted)
        return at_g, found[0], found[1], None, None

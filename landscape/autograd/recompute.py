"""Less memory for deep networks: the activations inside repeated blocks are computed again where they are needed.

Torch's own activation checkpointing, also its non-reentrant form, saves nothing in a Hessian-vector product: the
first backward pass is kept to be differentiated again, and with it everything that was computed a second time. Here
the gradient of a block is an operation of its own that is computed again, too. So a product keeps what enters
each block, forward and backward, and the inside of one block at a time. Values are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..numerics.tensors import continuous
from .functional import called_with
from .substitutes import twice_differentiable

Run = Callable[..., tuple[Tensor, ...]]


def recompute_blocks(model: nn.Module) -> int:
    """Make the repeated blocks of ``model``, in place, keep nothing between passes but what enters them.

    Blocks are the members with parameters of every outermost ``ModuleList`` or ``Sequential`` of two or more; a
    block must be a function of its tensor arguments (eval mode, no cache that grows).

    Returns:
        The number of blocks; those that do it already are not counted.
    """
    blocks: list[nn.Module] = []
    _collect(model, blocks)
    blocks = [b for b in blocks if not isinstance(b.forward, _Recomputing)]
    for block in blocks:
        block.forward = _Recomputing(block)
    return len(blocks)


def _collect(module: nn.Module, blocks: list[nn.Module]) -> None:
    members = [m for m in module.children() if next(m.parameters(), None) is not None]
    if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(members) > 1:
        blocks += [m for m in members if m not in blocks]
        return
    for member in members:
        _collect(member, blocks)


class _Recomputing:
    """The forward of one block."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.original = block, block.forward
        self.parameters = dict(block.named_parameters())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        flat, shape = pytree.tree_flatten((args, kwargs))
        places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
        names = list(self.parameters)
        returned: list[Any] = []  # the structure of what the block returns, known after its first run

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            values = list(flat)
            for place, tensor in zip(places, tensors, strict=False):
                values[place] = tensor
            inner_args, inner_kwargs = pytree.tree_unflatten(values, shape)
            self.block.forward = self.original
            try:
                with twice_differentiable(set()):
                    parameters = dict(zip(names, tensors[len(places) :], strict=True))
                    output = called_with(self.block, parameters, inner_args, inner_kwargs)
            finally:
                self.block.forward = self
            leaves, structure = pytree.tree_flatten(output)
            returned[:] = [leaves, structure]
            return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

        tensors = [flat[i] for i in places] + list(self.parameters.values())
        outputs = iter(_Value.apply(run, *tensors))  # type: ignore[no-untyped-call]
        leaves, structure = returned
        rebuilt = [next(outputs) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(rebuilt, structure)


class _Value(torch.autograd.Function):
    """A block's outputs; keeps its inputs only."""

    @staticmethod
    def forward(ctx: Any, run: Run, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*tensors)
        outputs = run(*tensors)
        # An output that is an input would tie the two into a circle.
        outputs = tuple(o.view_as(o) if any(o is t for t in tensors) else o for o in outputs)
        ctx.mark_non_differentiable(*(o for o in outputs if not continuous(o)))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        found = iter(_Gradient.apply(ctx.run, needed, *tensors, *gradients))  # type: ignore[no-untyped-call]
        return (None, *(next(found) if n else None for n in needed))


class _Gradient(torch.autograd.Function):
    """The gradient of a block with respect to its inputs; keeps the inputs and the incoming gradients only."""

    @staticmethod
    def forward(ctx: Any, run: Run, needed: Sequence[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run, ctx.needed = run, needed
        ctx.save_for_backward(*tensors)
        with torch.enable_grad():
            return tuple(_block_gradient(run, needed, tensors, keep=False)[0])

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> Any:
        with torch.enable_grad():
            first, inputs = _block_gradient(ctx.run, ctx.needed, ctx.saved_tensors, keep=True)
            pairs = [(g, d) for g, d in zip(first, directions, strict=True) if g.requires_grad]
            asked = [t for t, n in zip(inputs, ctx.needs_input_grad[2:], strict=True) if n]
            found: Any = [None] * len(asked)
            if pairs and asked:
                found = torch.autograd.grad([g for g, _ in pairs], asked, [d for _, d in pairs], allow_unused=True)
        result = iter(found)
        return (None, None, *(next(result) if n else None for n in ctx.needs_input_grad[2:]))


def _block_gradient(
    run: Run, needed: Sequence[bool], tensors: Sequence[Tensor], *, keep: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of a block's outputs, weighted with the incoming gradients, and the fresh leaves they depend on."""
    count = len(needed)
    inputs = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=False)]
    weights = [t.detach().requires_grad_(keep and continuous(t)) for t in tensors[count:]]
    outputs = run(*inputs)
    used = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    asked = [t for t, n in zip(inputs, needed, strict=True) if n]
    found: Any = [None] * len(asked)
    if used:
        found = torch.autograd.grad(
            [o for o, _ in used], asked, [w for _, w in used], create_graph=keep, allow_unused=True
        )
    gradients = [torch.zeros_like(t) if g is None else g for g, t in zip(found, asked, strict=True)]
    return gradients, [*inputs, *weights]

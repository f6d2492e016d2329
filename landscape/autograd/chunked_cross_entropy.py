"""Cross-entropy over a large vocabulary without its logits: the head and the loss, over chunks of positions.

A language model's logits, (positions, tokens), outgrow its weights, and double backward of a cross-entropy keeps
about ten arrays of their size. With z = hWᵀ + b and p = softmax(z) the loss of a position is log Σ exp z − z_y, its
slope s = p − e_y, and everything up to the second derivative is closed form in h, W and b:

    gradient           g_h = s W,          g_W = sᵀ h,          g_b = Σ s
    along (u, U, c)    t = u Wᵀ + h Uᵀ + c,       r = p ∘ t − p (p·t)
    second derivative  d_h = r W + s U,    d_W = rᵀ h + sᵀ u,    d_b = Σ r

A chunk of positions is computed, used and forgotten, in the forward pass and in both backward ones. The numbers are
torch's own to rounding. Without the terms in s it is the Gauss-Newton matrix of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100


class Counted(NamedTuple):
    """How positions are counted.

    Attributes:
        ignored: The target that counts for nothing.
        chunk: Positions at once.
        gauss_newton: Leave out of the second derivative what the slope of the loss multiplies.
    """

    ignored: int
    chunk: int
    gauss_newton: bool = False


def _pieces(positions: int, chunk: int) -> Iterator[slice]:
    for start in range(0, positions, chunk):
        yield slice(start, start + chunk)


def _slope(z: Tensor, target: Tensor, each: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """Probabilities ``(k, V)`` and the scaled slopes ``(k, V)`` of the positions' losses."""
    p = z.softmax(1)
    counted = target != ignored
    s = p.clone()
    s[torch.arange(len(s), device=s.device), target.where(counted, 0)] -= 1
    return p, s.mul_(each[:, None])


def scale(target: Tensor, weight: Tensor | None, ignored: int) -> Tensor:
    """What the loss of each position is multiplied by: its class's weight, 0 where it is ignored."""
    counted = target != ignored
    return counted.to(torch.get_default_dtype()) if weight is None else weight[target.where(counted, 0)] * counted


class ChunkedCrossEntropy(torch.autograd.Function):
    """Losses of positions, ``(N,)``, from hidden states ``(N, d)``, the head's weight ``(V, d)`` and bias ``(V,)``.

    Arguments:
        h, W, b: Hidden states, weight and bias (or None).
        target: Class numbers ``(N,)``.
        weight: Of classes ``(V,)``, or None.
        how: See `Counted`.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, *others: Any) -> Tensor:
        """The losses."""
        W, b, target, weight, how = others
        ctx.save_for_backward(h, W, b, target, weight)
        ctx.how = how
        losses = h.new_empty(len(h))
        for at in _pieces(len(h), how.chunk):
            z = F.linear(h[at], W, b)
            losses[at] = F.cross_entropy(z, target[at], weight, ignore_index=how.ignored, reduction="none")
        return losses

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        """Their gradient, in `_Gradient`."""
        h, W, b, target, weight = ctx.saved_tensors
        apply: Any = _Gradient.apply
        found = apply(slopes[0], h, W, b, target, weight, ctx.how)
        return *found, None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient of Σ g·loss with respect to h, W and b, differentiable once more."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, h: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        W, b, target, weight, how = others
        ctx.save_for_backward(g, h, W, b, target, weight)
        ctx.how = how
        ctx.set_materialize_grads(False)
        each = g * scale(target, weight, how.ignored).to(g)
        of_h, of_w = torch.empty_like(h), torch.zeros_like(W)
        of_b = None if b is None else torch.zeros_like(b)
        for at in _pieces(len(h), how.chunk):
            _, s = _slope(F.linear(h[at], W, b), target[at], each[at], how.ignored)
            of_h[at] = s @ W
            of_w.addmm_(s.t(), h[at])
            if of_b is not None:
                of_b += s.sum(0)
        return of_h, of_w, of_b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, big_u: Tensor | None, c: Tensor | None) -> Any:
        g, h, W, b, target, weight = ctx.saved_tensors
        how: Counted = ctx.how
        own = scale(target, weight, how.ignored).to(g)
        of_g, of_h, of_w = torch.zeros_like(g), torch.zeros_like(h), torch.zeros_like(W)
        of_b = None if b is None else torch.zeros_like(b)
        if u is None and big_u is None and c is None:
            return of_g, of_h, of_w, of_b, None, None, None
        for at in _pieces(len(h), how.chunk):
            p, s = _slope(F.linear(h[at], W, b), target[at], own[at], how.ignored)
            t = torch.zeros_like(p) if c is None else c.expand_as(p).clone()
            if u is not None:
                t.addmm_(u[at], W.t())
            if big_u is not None:
                t.addmm_(h[at], big_u.t())
            of_g[at] = (s * t).sum(1)
            t -= (p * t).sum(1, keepdim=True)
            r = t.mul_(p).mul_((g * own)[at, None])
            of_h[at] = r @ W
            of_w.addmm_(r.t(), h[at])
            if of_b is not None:
                of_b += r.sum(0)
            if not how.gauss_newton:
                s.mul_(g[at, None])
                if big_u is not None:
                    of_h[at] += s @ big_u
                if u is not None:
                    of_w.addmm_(s.t(), u[at])
        return of_g, of_h, of_w, of_b, None, None, None

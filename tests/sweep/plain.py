"""What plain torch says about a network: gradients, differences of gradients, dense matrices. No landscape here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = (1e-5, 3e-6, 1e-6, 3e-7, 1e-7)


def logits(output: Any) -> Tensor:
    """The prediction inside what a network returns."""
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.logits


class Plain:
    """A copy of a network with its loss over some examples.

    Args:
        model: In eval mode.
        inputs: A tensor, a tuple (positional) or a dictionary (keywords).
        targets: Classes, or token ids where the loss is ``causal_lm``.
        loss: ``cross_entropy`` or ``causal_lm``.
    """

    def __init__(self, model: nn.Module, inputs: Any, targets: Tensor, loss: str) -> None:
        self.model, self.inputs, self.targets, self.loss_name = copy.deepcopy(model), inputs, targets, loss
        self.named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.start = {n: p.detach().clone() for n, p in self.named.items()}

    def output(self) -> Tensor:
        """Logits, with the loss's targets beside them: rows of classes."""
        self.model.train().eval()  # some keep in eval mode what they made of their weights, until they are trained
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            if isinstance(self.inputs, dict):
                found = self.model(**self.inputs)
            else:
                found = self.model(*self.inputs) if isinstance(self.inputs, tuple) else self.model(self.inputs)
        values = logits(found)
        return values[:, :-1].flatten(0, 1) if self.loss_name == "causal_lm" else values

    @property
    def labels(self) -> Tensor:
        """The class of each row; -100 where a text has ended."""
        if self.loss_name != "causal_lm":
            return self.targets
        return self.targets.masked_fill(self.inputs["attention_mask"] == 0, -100)[:, 1:].flatten()

    def loss(self) -> Tensor:
        """The mean loss."""
        return F.cross_entropy(self.output(), self.labels)

    def gradient(self, names: Sequence[str]) -> Tensor:
        """With respect to some parameters, as one vector."""
        tensors = [self.named[n] for n in names]
        found = torch.autograd.grad(self.loss(), tensors, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(t) if g is None else g).reshape(-1) for g, t in zip(found, tensors, strict=True)]
        )

    @contextmanager
    def moved(self, names: Sequence[str], by: Tensor) -> Iterator[None]:
        """Somewhere else inside the block."""
        pieces = by.split([self.named[n].numel() for n in names])
        with torch.no_grad():
            for name, piece in zip(names, pieces, strict=True):
                self.named[name].copy_(self.start[name] + piece.view_as(self.named[name]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name in names:
                    self.named[name].copy_(self.start[name])

    def difference(self, names: Sequence[str], v: Tensor, step: float) -> Tensor:
        """A Hessian product as a central difference of gradients, over ``step`` times the weights' length."""
        size = torch.cat([self.start[n].reshape(-1) for n in names]).norm() / v.norm()
        h = float(step * size)
        with self.moved(names, h * v):
            up = self.gradient(names)
        with self.moved(names, -h * v):
            down = self.gradient(names)
        return (up - down) / (2 * h)

    def differences(self, names: Sequence[str], v: Tensor) -> tuple[Tensor, float]:
        """The product on which two neighbouring steps agree best, and how far they agree, relatively.

        Kinks (ReLU, maxima) spoil long steps, rounding the short ones.
        """
        found, best, before = v, float("inf"), None
        for step in STEPS:
            product = self.difference(names, v, step)
            if before is not None and relative(product, before) < best:
                found, best = product, relative(product, before)
            before = product
            if best < 1e-7:
                break
        return found, best

    def doubled(self, names: Sequence[str], v: Tensor | None = None) -> Tensor | None:
        """The dense Hessian (or its product with v) by torch's own double backward; None where it has none."""
        tensors = [self.named[n] for n in names]
        sizes = [t.numel() for t in tensors]
        try:
            gradient = torch.autograd.grad(self.loss(), tensors, create_graph=True, materialize_grads=True)
            rows = torch.eye(sum(sizes), dtype=tensors[0].dtype) if v is None else v[None]
            products = []
            for row in rows:  # in pieces of their own: torch reads complex numbers only from even places
                pieces = [c.clone().view_as(t) for c, t in zip(row.split(sizes), tensors, strict=True)]
                live = [i for i, g in enumerate(gradient) if g.requires_grad]
                outer, inner = [gradient[i] for i in live], [pieces[i] for i in live]
                products.append(torch.autograd.grad(outer, tensors, inner, retain_graph=True, materialize_grads=True))
        except RuntimeError as error:
            if "is not implemented" in str(error):
                return None
            raise
        found = torch.stack([torch.cat([p.reshape(-1) for p in row]) for row in products])
        return found if v is None else found[0]

    def hessian(self, names: Sequence[str]) -> Tensor:
        """Dense: by double backward where torch has it and differences agree with it, else by differences."""
        n = sum(self.named[name].numel() for name in names)
        v = torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        reference, error = self.differences(names, v)
        found = self.doubled(names)
        if found is None or relative(found @ v, reference) > max(1e-6, 3 * error):
            found = torch.stack([self.differences(names, row)[0] for row in torch.eye(n, dtype=torch.float64)])
        assert relative(found @ v, reference) < max(1e-6, 3 * error), "the dense reference is none"
        return (found + found.T) / 2

    def gauss_newton(self, names: Sequence[str]) -> Tensor:
        """JᵀBJ with the Jacobian row by row, and B of the softmax by hand."""
        tensors = [self.named[n] for n in names]
        output = self.output()
        counted = self.labels != -100
        output = output[counted]
        rows = [
            torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(o, tensors, retain_graph=True, materialize_grads=True)]
            )
            for o in output.flatten()
        ]
        jacobian = torch.stack(rows).view(*output.shape, -1)
        p = output.detach().softmax(-1)
        inner = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return torch.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian) / len(output)


def relative(a: Tensor, b: Tensor) -> float:
    """How far a is from b, in lengths of b."""
    return float((a - b).norm() / b.norm().clamp(min=1e-300))

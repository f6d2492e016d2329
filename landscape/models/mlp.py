"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..base.names import unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus}


def activation(name: str) -> nn.Module:
    """The activation module called ``name``.

    Raises:
        UsageError: If there is none.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


class MLP(nn.Module):
    """Linear layers with an activation between them; the input is flattened.

    Args:
        widths: Number of inputs, of units in each hidden layer, and of outputs.
        act: Name of the activation.
    """

    def __init__(self, widths: Sequence[int], act: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, outputs)`` of inputs ``(n, ...)``."""
        x = torch.flatten(x, 1)
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


def mlp(
    input_shape: Sequence[int], classes: int, hidden: Sequence[int] | int = (64, 64), activation: str = "relu"
) -> MLP:
    """A fully connected network.

    Args:
        input_shape: Shape of one example; taken from the data when left out on the command line.
        classes: Number of outputs; taken from the data likewise.
        hidden: Units of each hidden layer.
        activation: relu, tanh, gelu or softplus.
    """
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    if any(h < 1 for h in hidden) or classes < 1:
        raise UsageError(f"hidden={list(hidden)}, classes={classes}", "`model_arg=`", "expected positive numbers")
    return MLP((math.prod(input_shape), *hidden, classes), activation)

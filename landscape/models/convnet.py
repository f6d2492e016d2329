"""A small convolutional network that trains in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..base.errors import UsageError
from .mlp import activation as make_activation


class ConvNet(nn.Module):
    """3x3 convolutions, the resolution halved after each but the last (down to 4 pixels), one linear layer.

    Args:
        channels: Input channels, then the channels of each convolution.
        size: Height and width of the images.
        classes: Number of outputs.
        batchnorm: Put a BatchNorm layer after each convolution.
        activation: Name of the activation.
    """

    def __init__(
        self, channels: Sequence[int], size: Sequence[int], classes: int, batchnorm: bool, activation: str
    ) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=not batchnorm) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs) if batchnorm else None
        self.act = make_activation(activation)
        self.pool = nn.MaxPool2d(2)
        height, width = size
        self.halvings = 0
        while self.halvings < len(pairs) - 1 and min(height, width) > 4:
            height, width, self.halvings = height // 2, width // 2, self.halvings + 1
        self.linear = nn.Linear(channels[-1] * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, channels, height, width)``."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms is not None:
                x = self.norms[i](x)
            x = self.act(x)
            if i < self.halvings:
                x = self.pool(x)
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def convnet(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32, 32),
    batchnorm: bool = False,
    activation: str = "relu",
) -> ConvNet:
    """A small convolutional network.

    Args:
        input_shape: Shape of one image ``(channels, height, width)``; taken from the data when left out.
        classes: Number of outputs; taken from the data likewise.
        channels: Channels of each 3x3 convolution.
        batchnorm: Put a BatchNorm layer after each convolution (then without bias).
        activation: relu, tanh, gelu or softplus.
    """
    if len(input_shape) != 3:
        raise UsageError(f"convnet needs images, one example has shape {tuple(input_shape)}", "`model=`", "use mlp")
    if not channels or any(c < 1 for c in channels):
        raise UsageError(f"channels={list(channels)}", "`model_arg=`", "expected a list of positive numbers")
    return ConvNet((input_shape[0], *channels), input_shape[1:], classes, batchnorm, activation)

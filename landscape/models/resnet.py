"""The CIFAR ResNets of He et al. 2015 (arXiv 1512.03385, section 4.2), with parameter-free shortcuts.

Depth 6n+2: a 3x3 stem with 16 channels, three stages of n blocks with 16, 32 and 64 channels, global average
pooling, one linear layer. Where a stage halves the resolution the shortcut takes every second pixel and pads
the new channels with zeros, half on each side (option A). Parameter names are those of the networks that
akamaster/pytorch_resnet_cifar10 publishes, so that their checkpoints load.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, outputs, height/stride, width/stride)``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """A ResNet of depth ``6 * blocks + 2`` for small images."""

    def __init__(self, blocks: int, classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, in_channels, height, width)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def resnet20(classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-20; 269,722 parameters with 10 classes and colour images."""
    return CifarResNet(3, classes, in_channels)


def resnet32(classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-32; 464,154 parameters with 10 classes and colour images."""
    return CifarResNet(5, classes, in_channels)


def resnet44(classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-44; 658,586 parameters with 10 classes and colour images."""
    return CifarResNet(7, classes, in_channels)


def resnet56(classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-56; 853,018 parameters with 10 classes and colour images."""
    return CifarResNet(9, classes, in_channels)

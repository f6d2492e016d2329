"""A small vision transformer, for asking of attention what is asked of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import UsageError


class Block(nn.Module):
    """Pre-norm self-attention and a feed-forward layer of four times the width (GPT-2, ViT).

    Args:
        width: Features of a token.
        heads: Attention heads; divides ``width``.
        causal: A token sees itself and those before it only.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(n, tokens, width)`` to the same shape."""
        query, key, value = self.mix(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        moved: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return moved


class ViT(nn.Module):
    """Patches to tokens, learned positions, blocks, the mean token to logits (Dosovitskiy et al. 2021; mean pooling).

    Args:
        input_shape: ``(channels, height, width)`` of an image.
        classes: Number of outputs.
        patch: Side of a patch in pixels; divides height and width.
        width: Features of a token.
        depth: Number of blocks.
        heads: Attention heads.
    """

    def __init__(
        self, input_shape: Sequence[int], classes: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        channels, height, across = input_shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn((height // patch) * (across // patch), width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, channels, height, width)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.linear(self.norm(self.blocks(tokens)).mean(1))
        return logits


def vit(
    input_shape: Sequence[int], classes: int, patch: int = 4, width: int = 48, depth: int = 3, heads: int = 4
) -> ViT:
    """A small vision transformer.

    Args:
        input_shape: Shape of one image ``(channels, height, width)``; taken from the data when left out.
        classes: Number of outputs; taken from the data likewise.
        patch: Side of a patch in pixels.
        width: Features of a token.
        depth: Number of blocks.
        heads: Attention heads.
    """
    if len(input_shape) != 3:
        raise UsageError(f"vit needs images, one example has shape {tuple(input_shape)}", "`model=`", "use mlp")
    if patch < 1 or any(side % patch for side in input_shape[1:]):
        sides = "x".join(str(side) for side in input_shape[1:])
        raise UsageError(f"patch={patch} does not divide images of {sides}", "`model_arg=`", "choose another patch")
    if depth < 1 or heads < 1 or width < 1 or width % heads:
        facts = f"width={width}, depth={depth}, heads={heads}"
        raise UsageError(facts, "`model_arg=`", "expected positive numbers, heads dividing width")
    return ViT(input_shape, classes, patch, width, depth, heads)

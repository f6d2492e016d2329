"""Augmentation of training batches: flips and crops, cutout, mixup; a function of (seed, step) like all else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.errors import UsageError
from ..data.examples import Batch
from ..numerics.tensors import continuous
from ..numerics.trees import leaves, map_tensors, take_rows


@dataclass(frozen=True)
class MixupBatch:
    """A batch whose inputs are blended with others: its loss is ``share·loss(y) + (1 − share)·loss(partner)``.

    Attributes:
        batch: Inputs, first targets and domains.
        partner: Targets of the other part, or None where nothing is mixed.
        share: Weight of the first targets.
    """

    batch: Batch
    partner: Any = None
    share: float = 1.0

    def piece(self, start: int, stop: int) -> MixupBatch:
        """Some of its examples."""
        rows = torch.arange(start, stop, device=self.batch.domain.device)
        batch = Batch(
            take_rows(self.batch.inputs, rows), take_rows(self.batch.targets, rows), self.batch.domain[start:stop]
        )
        return MixupBatch(batch, None if self.partner is None else take_rows(self.partner, rows), self.share)


def augment(batch: Batch, names: Sequence[str], seed: int) -> MixupBatch:
    """Augment a batch on the CPU.

    Args:
        batch: Images ``(n, channels, height, width)``; mixup takes any floating inputs.
        names: ``flip-crop`` (random mirror, and a crop after zero padding by an eighth), ``cutout`` (a zero square
            of half the side, arXiv 1708.04552), ``mixup`` (arXiv 1710.09412 with alpha = 1); in this order.
        seed: Seed of the choices.

    Raises:
        UsageError: If the inputs are no images.
    """
    generator = torch.Generator().manual_seed(seed)
    if "flip-crop" in names:
        batch = replace(batch, inputs=_flip_crop(_images(batch), generator))
    if "cutout" in names:
        batch = replace(batch, inputs=_cutout(_images(batch), generator))
    if "mixup" not in names:
        return MixupBatch(batch)
    if not all(map(continuous, leaves(batch.inputs))):
        raise UsageError("mixup blends inputs and these are no numbers", "`augment='mixup'`", "drop it")
    share = float(torch.rand((), generator=generator))
    partner = torch.randperm(len(batch), generator=generator)
    inputs = map_tensors(batch.inputs, lambda t: share * t + (1 - share) * t[partner])
    return MixupBatch(replace(batch, inputs=inputs), take_rows(batch.targets, partner), share)


def _images(batch: Batch) -> Tensor:
    if not isinstance(batch.inputs, Tensor) or batch.inputs.ndim != 4:
        raise UsageError("flip-crop and cutout are for images (n, channels, height, width)", "`augment=`", "drop it")
    return batch.inputs


def _flip_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    mirrored = torch.rand(n, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, right = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (right, right, down, down))
    top = torch.randint(0, 2 * down + 1, (n,), generator=generator)
    left = torch.randint(0, 2 * right + 1, (n,), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    taken = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).contiguous()


def _cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    middle_row = torch.randint(0, height, (n, 1), generator=generator)
    middle_column = torch.randint(0, width, (n, 1), generator=generator)

    def inside(middle: Tensor, side: int) -> Tensor:
        offset = torch.arange(side) - middle
        return (offset >= -(side // 4)) & (offset < side // 2 - side // 4)

    hole = inside(middle_row, height)[:, :, None] & inside(middle_column, width)[:, None, :]
    return images.masked_fill(hole[:, None], 0.0)

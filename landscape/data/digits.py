"""The optical digits that scikit-learn ships: 1,797 real 8x8 images, plain or as rotation domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from .splits import holdout_split


def _images() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target.astype(np.int64)


def _check(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise UsageError(f"test_fraction={test_fraction}", "--data-arg", "expected a number between 0 and 1")


def _tensors(images: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(images[:, None])), torch.from_numpy(labels)


def digits(split_seed: int = 0, test_fraction: float = 0.2) -> dict[str, Any]:
    """The digits as one domain.

    Args:
        split_seed: Seed of the split into train and test.
        test_fraction: Share held out as ``"test"``.

    Returns:
        Splits of images ``(n, 1, 8, 8)`` in [0, 1] and labels 0 to 9.
    """
    _check(test_fraction)
    images, labels = _images()
    kept, held = holdout_split(len(labels), test_fraction, split_seed, 0)
    return {"train": _tensors(images[kept], labels[kept]), "test": _tensors(images[held], labels[held])}


def digits_rotated(
    angles: Sequence[float] = (0, 15, 30, 45, 60, 75), split_seed: int = 0, test_fraction: float = 0.2
) -> dict[str, Any]:
    """The digits as rotation domains; each image stands in one domain only, as in DomainBed's RotatedMNIST.

    Args:
        angles: Rotation of each domain in degrees (bilinear, same size).
        split_seed: Seed of the assignment to domains and of each domain's split.
        test_fraction: Share of each domain held out as ``"test"``.

    Returns:
        Splits of domains (named after their angle) of images ``(n, 1, 8, 8)`` and labels 0 to 9.
    """
    from scipy import ndimage

    _check(test_fraction)
    names = [f"{a:g}" for a in angles]
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"angles={list(angles)}", "--data-arg", "expected distinct angles")
    images, labels = _images()
    order = np.random.default_rng([split_seed, 0xD0]).permutation(len(labels))
    splits: dict[str, Any] = {"train": {}, "test": {}}
    for i, (name, angle) in enumerate(zip(names, angles, strict=True)):
        rows = order[i :: len(names)]
        turned = ndimage.rotate(images[rows], angle, axes=(2, 1), reshape=False, order=1).clip(0, 1)
        kept, held = holdout_split(len(rows), test_fraction, split_seed, i)
        splits["train"][name] = _tensors(turned[kept], labels[rows][kept])
        splits["test"][name] = _tensors(turned[held], labels[rows][held])
    return splits

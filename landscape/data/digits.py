"""The optical digits that scikit-learn ships: 1,797 real 8x8 images, plain or as rotation domains."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.errors import UsageError
from .splits import holdout_split


def optical_digits() -> tuple[Any, Any]:
    """Images ``(1797, 8, 8)`` float32 in [0, 1] and labels.

    Read from scikit-learn's own file: importing it for this costs a second, most of it for scipy's distributions.
    A release that keeps the file elsewhere is asked for the images.
    """
    package = find_spec("sklearn")
    places = package.submodule_search_locations if package else None
    files = [Path(p) / "datasets" / "data" / "digits.csv.gz" for p in places or ()]
    if files and files[0].is_file():
        with gzip.open(files[0], "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",")
        images, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8).astype(np.float32) / 16, labels.astype(np.int64)


def digits(split_seed: int = 0, test_fraction: float = 0.2) -> dict[str, Any]:
    """The digits as one domain.

    Args:
        split_seed: Seed of the split into train and test.
        test_fraction: Share held out as ``"test"``.

    Returns:
        Splits of images ``(n, 1, 8, 8)`` in [0, 1] and labels 0 to 9.
    """
    splits = split_domains({"digits": optical_digits()}, split_seed, test_fraction)
    return {name: domains["digits"] for name, domains in splits.items()}


def digits_rotated(
    angles: Sequence[float] = (0, 15, 30, 45, 60, 75),
    split_seed: int = 0,
    test_fraction: float = 0.2,
    corruption: float = 0.0,
) -> dict[str, Any]:
    """The digits as rotation domains; each image stands in one domain only, as in DomainBed's RotatedMNIST.

    Args:
        angles: Rotation of each domain in degrees (bilinear, same size).
        split_seed: Seed of the assignment to domains and of each domain's split.
        test_fraction: Share of each domain held out as ``"test"``.
        corruption: Standard deviation of Gaussian noise on the test images, as a further split ``"corrupted"``.

    Returns:
        Splits of domains (named after their angle) of images ``(n, 1, 8, 8)`` and labels 0 to 9.
    """
    splits = rotation_domains(*optical_digits(), angles, split_seed, test_fraction)
    if corruption:
        splits["corrupted"] = {
            name: (_noisy(images, corruption, split_seed, i), labels)
            for i, (name, (images, labels)) in enumerate(splits["test"].items())
        }
    return splits


def _noisy(images: torch.Tensor, spread: float, seed: int, domain: int) -> torch.Tensor:
    """Images in [0, 1] with Gaussian noise of standard deviation ``spread``, cut at the range."""
    noise = np.random.default_rng([seed, 0xC0, domain]).standard_normal(images.shape).astype(np.float32)
    return (images + spread * torch.from_numpy(noise)).clamp(0, 1)


def rotation_domains(
    images: Any, labels: Any, angles: Sequence[float], split_seed: int, test_fraction: float
) -> dict[str, Any]:
    """Deal images ``(n, side, side)`` out to domains and turn each domain by its angle."""
    from scipy import ndimage

    names = [f"{a:g}" for a in angles]
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"angles={list(angles)}", "`data_arg=`", "expected distinct angles")
    order = np.random.default_rng([split_seed, 0xD0]).permutation(len(labels))
    domains = {}
    for i, (name, angle) in enumerate(zip(names, angles, strict=True)):
        rows = order[i :: len(names)]
        turned = ndimage.rotate(images[rows], angle, axes=(2, 1), reshape=False, order=1).clip(0, 1)
        domains[name] = (turned, labels[rows])
    return split_domains(domains, split_seed, test_fraction)


def split_domains(domains: Mapping[str, tuple[Any, Any]], split_seed: int, test_fraction: float) -> dict[str, Any]:
    """Hold out a share of each domain: ``{"train": {name: (images (n, 1, side, side), labels)}, "test": ...}``.

    Raises:
        UsageError: If the share is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise UsageError(f"test_fraction={test_fraction}", "`data_arg=`", "expected a number between 0 and 1")
    splits: dict[str, Any] = {"train": {}, "test": {}}
    for i, (name, (images, labels)) in enumerate(domains.items()):
        for split, rows in zip(splits, holdout_split(len(labels), test_fraction, split_seed, i), strict=True):
            pixels = np.ascontiguousarray(images[rows][:, None])
            splits[split][name] = (torch.from_numpy(pixels), torch.from_numpy(labels[rows]))
    return splits

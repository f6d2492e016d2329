"""CIFAR-10 as the published networks were trained on it, from a NumPy archive of original pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cifar(file: str, split_seed: int | None = None) -> dict[str, Any]:
    """Splits of normalised images ``(n, 3, 32, 32)`` and classes; ``file`` has ``x_train`` as bytes, ``y_train``.

    Args:
        file: An archive of numpy.
        split_seed: Deal all images anew to splits of the same sizes; None: as CIFAR-10 does, and as published
            networks were trained.
    """
    with np.load(file, allow_pickle=False) as archive:
        splits = {s: (archive[f"x_{s}"], archive[f"y_{s}"].reshape(-1)) for s in ("train", "test")}
    if split_seed is not None:
        pixels, classes = (np.concatenate([splits["train"][i], splits["test"][i]]) for i in (0, 1))
        order = np.random.default_rng(split_seed).permutation(len(classes))
        dealt = np.split(order, [len(splits["train"][1])])
        splits = {s: (pixels[rows], classes[rows]) for s, rows in zip(("train", "test"), dealt, strict=True)}
    return {s: (images(x), labels(y)) for s, (x, y) in splits.items()}


def images(pixels: Any) -> torch.Tensor:
    """``(n, 32, 32, 3)`` bytes as the networks want them."""
    scaled = (pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def labels(classes: Any) -> torch.Tensor:
    """Class indices."""
    return torch.from_numpy(classes.astype(np.int64).reshape(-1))

"""CIFAR-10 as the published networks were trained on it, from a NumPy archive of original pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cifar(file: str) -> dict[str, Any]:
    """Splits of normalised images ``(n, 3, 32, 32)`` and classes; ``file`` has ``x_train`` as bytes, ``y_train``."""
    with np.load(file, allow_pickle=False) as archive:
        return {s: (images(archive[f"x_{s}"]), labels(archive[f"y_{s}"])) for s in ("train", "test")}


def images(pixels: Any) -> torch.Tensor:
    """``(n, 32, 32, 3)`` bytes as the networks want them."""
    scaled = (pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def labels(classes: Any) -> torch.Tensor:
    """Class indices."""
    return torch.from_numpy(classes.astype(np.int64).reshape(-1))

"""Synthetic domains with boundaries as clear, or as blurred, as one likes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..base.errors import UsageError


def gaussian_domains(
    n: int = 200,
    dims: int = 8,
    classes: int = 3,
    domains: int = 3,
    overlap: float = 0.0,
    noise: float = 1.0,
    shift: float = 3.0,
    test_fraction: float = 0.5,
    seed: int = 0,
) -> dict[str, object]:
    """Gaussian classes whose centres are shared by all domains, each domain shifted along a direction of its own.

    Args:
        n: Examples per domain, before the split.
        dims: Number of inputs, at least ``domains``.
        classes: Number of classes.
        domains: Number of domains.
        overlap: Share of each domain's examples drawn from another domain instead: 0 keeps the boundaries
            clear, 1 makes all domains the same mixture.
        noise: Standard deviation around the class centre.
        shift: Length of a domain's shift.
        test_fraction: Share of each domain held out as ``"test"``.
        seed: Seed of everything.

    Returns:
        Splits of domains (``d0``, ``d1``, ...) of inputs ``(n, dims)`` and labels.
    """
    if not 0 <= overlap <= 1:
        raise UsageError(f"overlap={overlap}", "`data_arg=`", "expected a number from 0 to 1")
    if min(n, dims, classes, domains) < 1 or not 0 < test_fraction < 1 or dims < domains:
        raise UsageError(
            "gaussian-domains cannot be made", "`data_arg=`", "expected positive sizes and dims >= domains"
        )
    generator = np.random.default_rng([seed, 0x6A])
    centres = 2 * generator.standard_normal((classes, dims))
    shifts = shift * np.linalg.qr(generator.standard_normal((dims, dims)))[0][:domains]
    held = int(test_fraction * n)
    splits: dict[str, Any] = {"train": {}, "test": {}}
    for i in range(domains):
        labels = np.arange(n) % classes
        generator.shuffle(labels)
        # With overlap 1 an example comes from any domain with equal chance, its own included.
        strays = generator.random(n) < overlap
        origin = np.where(strays, generator.integers(domains, size=n), i)
        inputs = centres[labels] + shifts[origin] + noise * generator.standard_normal((n, dims))
        pair = torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
        splits["train"][f"d{i}"] = tuple(t[held:] for t in pair)
        splits["test"][f"d{i}"] = tuple(t[:held] for t in pair)
    return splits

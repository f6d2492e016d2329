"""Random directions and noise: the same for every network of a size, whatever its device and type."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ...problem.problem import Problem


def draws(problem: Problem, count: int, seed: int, purpose: str, *, uniform: bool = False) -> Iterator[Tensor]:
    """``count`` vectors ``(n_parameters,)`` of standard normal entries, or uniform ones on [-1, 1].

    Each comes from a generator of its own, seeded by ``(seed, purpose, number)``: the first ones do not depend on
    how many are drawn, and two networks that are compared are moved along the same vectors.
    """
    for number in range(count):
        generator = torch.Generator().manual_seed(_key(seed, purpose, number))
        drawn = problem.space.draws()
        vector = drawn.uniform(generator) if uniform else drawn.normal(generator)
        yield vector.to(problem.device, problem.dtype)


def signs(count: int, seed: int, purpose: str, number: int) -> Tensor:
    """A vector ``(count,)`` of random signs, float64."""
    generator = torch.Generator().manual_seed(_key(seed, purpose, number))
    return torch.randint(0, 2, (count,), generator=generator, dtype=torch.float64) * 2 - 1


def _key(*parts: int | str) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "little")

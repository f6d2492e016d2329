"""Python's, NumPy's and torch's global random states: set from a seed, given back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..base.process_state import one_at_a_time
from .accelerators import generator_state, generators, may_appear, set_generator_state


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give Python's, NumPy's and torch's global random states back afterwards; one thread at a time."""
    with one_at_a_time(), _random_state_afterwards():
        yield


@contextmanager
def _random_state_afterwards() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the legacy state is what users' code draws from
    own = {device: generator_state(device) for device in generators()}
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for device, state in own.items():
            set_generator_state(device, state)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def seed_everything(*key: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators from ``key`` (a seed and what it is for)."""
    import hashlib

    number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
    _seed_torch(number % 2**63)


def _seed_torch(number: int) -> None:
    """As `torch.manual_seed`, for the devices that are there.

    For those that are not it would note, with a traceback each time, what to do once they are: a fifth of a small
    network's step, and a list that grows.
    """
    if may_appear():
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)

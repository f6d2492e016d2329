"""Tests of this folder run where torch can have a device written in Python, on it, and say elsewhere why not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .pretend import Device, pretending, reason_against, register

# Before any test of this process: autograd counts the devices at its first backward pass.
_REASON = reason_against()
if _REASON is None:
    register()


@pytest.fixture(scope="session")
def _registered() -> None:
    if _REASON is not None:
        pytest.skip(_REASON)


@pytest.fixture
def device(_registered: None) -> Iterator[Device]:
    """The pretend device, as good as any."""
    with pretending() as found:
        yield found


@pytest.fixture
def without_float64(_registered: None) -> Iterator[Device]:
    """One without double precision, as Apple's."""
    with pretending(float64=False) as found:
        yield found

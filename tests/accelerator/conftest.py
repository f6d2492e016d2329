"""Tests of this folder run where torch can have a device written in Python, on it, and say elsewhere why not.

Once there is another device autograd starts threads, and no process that has them can fork: so `test_accelerator.py`
above runs these files in processes of their own, where ``PRETEND_DEVICE`` is set; elsewhere they are not collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .pretend import Device, pretending, reason_against, register

# Before any test of this process: autograd counts the devices at its first backward pass.
_REASON = reason_against()
collect_ignore_glob = [] if os.environ.get("PRETEND_DEVICE") else ["test_*.py"]
if _REASON is None and not collect_ignore_glob:
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

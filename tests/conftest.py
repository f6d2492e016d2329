"""One thread per test process: two processes with two spinning threads each are far slower on two cores.

And, as in every command, freed memory is kept. What a test says of hostile names is made sayable, and whatever
result a test stores is read again at once.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from libraries import libraries  # noqa: F401 - a fixture for all

from landscape.base.allocator import keep_freed_memory
from landscape.results.result import Result

keep_freed_memory()


def _sayable(data: Any) -> Any:
    """The same report with lone surrogates spelled out: the channel between test processes refuses them."""
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {_sayable(key): _sayable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(_sayable(value) for value in data)
    return data


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    return _sayable((yield))


@pytest.fixture(scope="session", autouse=True)
def _what_is_stored_can_be_read() -> Iterator[None]:
    """The reader refuses results of any other form than the known ones: it must know all that are made."""
    plain = Result.save

    def save(self: Result, path: Path) -> Path:
        written = plain(self, path)
        Result.load(written)
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Result, "save", save)
        yield

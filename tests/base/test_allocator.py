"""Freed memory that the process keeps."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from landscape.base.allocator import keep_freed_memory

COUNT = """
import json, resource, sys, torch
from landscape.base.allocator import keep_freed_memory

def faults():  # pages asked for while five blocks of 16 MB are filled and freed ten times
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.empty(2**22).fill_(1.0) for _ in range(5)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, kept = faults(), keep_freed_memory()
faults()  # asks for the memory that is kept from then on
print(json.dumps([first, kept, faults()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_is_freed_again_and_again_is_asked_for_once():
    first, kept, then = json.loads(
        subprocess.run([sys.executable, "-c", COUNT], capture_output=True, check=True).stdout
    )
    assert kept is True
    assert then < first / 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert keep_freed_memory() is False

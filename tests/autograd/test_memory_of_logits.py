"""A vocabulary of 50,257 costs a product its weights, not its logits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("gpt2_shaped.py")


def peak(vocabulary: int, chunk: int) -> tuple[int, int]:
    process = subprocess.run(
        [sys.executable, SCRIPT, str(vocabulary), str(chunk)], capture_output=True, text=True, timeout=600, check=True
    )
    parameters, held = map(int, process.stdout.split())
    return parameters, held


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_a_large_vocabulary_takes_little_more_memory_than_a_small_one() -> None:
    (few, small), (many, large) = peak(1000, 32), peak(50257, 32)
    assert many / few == pytest.approx(1.437, abs=0.001)  # GPT-2's 124 million, and 49,257 rows of 768 fewer
    assert large <= 1.5 * small

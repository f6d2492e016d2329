"""Two processes train as one: every optimizer, and every way in which a batch is taken apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from landscape.registry import OPTIMIZERS

from .launch import answers
from .test_together import distance


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path):
    """Batches of 7 of 37 examples in three domains, so that parts are uneven and the last one is of 2."""
    first, second = answers("training.py", tmp_path)
    assert first["together"] == second["together"]
    assert set(OPTIMIZERS) < set(first["one"])
    for name, one in first["one"].items():
        together = first["together"][name]
        assert distance(one["weights"], together["weights"]) < 1e-10, name
        assert distance(one["log"], together["log"]) < 1e-9, name
        assert distance(one["final"], together["final"]) < 1e-10, name
        assert one["gradients"] == together["gradients"], name
        assert one["files"] == together["files"], name

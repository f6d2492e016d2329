"""A GPU says what the CPU says."""

from __future__ import annotations

import pytest

from .agreement import ANALYSES, distance, limit


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("analysis", [name for name in ANALYSES if name != "train"])
def test_every_analysis(analysis: str, dtype: str):
    here, there = (ANALYSES[analysis](device, dtype) for device in ("cpu", "cuda"))
    for name, value in here.items():
        assert distance(value, there[name]) <= limit(analysis, dtype), name


def test_every_optimizer():
    here, there = (ANALYSES["train"](device, "float64") for device in ("cpu", "cuda"))
    for name, weights in here.items():
        assert distance(weights, there[name]) <= limit("train", "float64"), name

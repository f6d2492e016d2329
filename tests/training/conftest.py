"""A problem of three domains that trains in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import landscape

PROBLEM = """
import torch
from torch import nn


def data(n=48, test=True):
    g = torch.Generator().manual_seed(0)

    def domain(i, count):
        y = torch.arange(count) % 3
        return torch.randn(count, 4, generator=g) + 2 * torch.eye(3, 4)[y] * (1 + 0.5 * i), y

    made = {"train": {"abc"[i]: domain(i, n - 12 * i) for i in range(3)}}
    return {**made, "test": {"abc"[i]: domain(i, 12) for i in range(3)}} if test else made


def images():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(36) % 3
    x = torch.randn(36, 1, 8, 8, generator=g)
    return {"train": (x, y), "test": (x[:9], y[:9])}


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def convnet():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
"""


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with data and network."""
    file = tmp_path_factory.mktemp("problem") / "problem.py"
    file.write_text(PROBLEM)
    return file


@pytest.fixture
def train(problem_file: Path, tmp_path: Path) -> Callable[..., list[landscape.Run]]:
    """Train on it; the folder is ``out`` under the test's own."""

    def call(out: str = "runs", *, resume: bool = False, **options: Any) -> list[landscape.Run]:
        given = {"steps": 6, "batch_size": 16, **options}
        if "epochs" in options:
            del given["steps"]
        return landscape.train(
            tmp_path / out,
            resume=resume,
            **{"data": f"{problem_file}:data", "model": f"{problem_file}:network", **given},
        )

    return call

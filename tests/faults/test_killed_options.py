"""Trainings whose steps carry more than weights and momenta: killed and stopped, they end in the same bits."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Landscape, assert_same_run, steps, wait_for

pytestmark = pytest.mark.slow  # every case starts processes of its own

# BatchNorm and dropout: state and randomness beside the weights. A step takes a while if it is told to.
PLUGIN = """
import os, time, torch
from torch import nn
PACE = "PACE"
class Paced(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get(PACE, "0")))
        return x
def data():
    x = torch.sin(torch.arange(480.0)).reshape(120, 4)
    parts = {"a": (x[:70], torch.arange(70) % 3), "b": (x[70:], torch.arange(50) % 3)}
    return {"train": parts, "test": parts}
def network():
    return nn.Sequential(nn.Linear(4, 16), Paced(), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
"""
TRAIN = (
    "train", "--data", "plug.py:data", "--model", "plug.py:network", "--batch-size", "24", "--epochs", "8",
    "--schedule", "cosine", "--save-every", "3steps", "--out", "runs",
)  # fmt: skip
# What each option keeps between steps, and a kill could lose.
KEPT = {
    "groups of m examples": ("--optimizer", "asam", "--m", "5"),
    "bfloat16, a gradient of some steps ago": (
        "--optimizer", "looksam", "--sam-every", "4", "--base", "adam", "--amp", "bfloat16",
    ),
    "float16 and its scale, an average over epochs": ("--optimizer", "sgd", "--amp", "float16", "--average", "swa"),
    "an average that the validation chooses, mixed labels": (
        "--optimizer", "sam", "--average", "swad", "--label-noise", "0.2", "--augment", "mixup",
    ),
    "losses of domains, probes": (
        "--optimizer", "disam", "--sampler", "balanced", "--lam", "0.5", "--probe", "eigenvalues@every=4",
    ),
    "a mean gradient, clipped, of pieces of a batch": ("--optimizer", "fsam", "--clip", "0.5", "--accumulate", "3"),
    "inner steps with noise": ("--optimizer", "entropy-sgd"),
}  # fmt: skip


@pytest.mark.parametrize("kept", [pytest.param(n, marks=pytest.mark.case(103 + (i > 3))) for i, n in enumerate(KEPT)])
def test_killed_anywhere_it_ends_in_the_same_bits(kept: str, landscape: Landscape, record_property: Any) -> None:
    landscape.file("plug.py", PLUGIN)
    words = (*TRAIN, *KEPT[kept])
    whole = landscape(*words, "--out", "whole", "--json")
    (run,) = (Path(r["path"]) for r in whole.json["runs"])
    killed = landscape.folder / "runs" / run.name
    draws = random.Random(kept)
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = landscape.start(*words, "--resume", PACE="0.03")
        before = steps(killed)
        wait_for(lambda before=before: steps(killed) > before + 2, process)
        time.sleep(draws.uniform(0, 0.1))
        os.killpg(process.pid, number)
        _, said = process.communicate()
        assert process.returncode == (75 if number == signal.SIGTERM else -number), said
    record_property("kills", 1)
    assert steps(killed) < steps(run)
    assert landscape(*words, "--resume").code == 0
    assert_same_run(run, killed)

"""Studies that are killed or stopped while a model is being made: what is finished is never touched again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Landscape, wait_for

pytestmark = pytest.mark.slow  # every case starts processes of its own

PLUGIN = """
import os, time, torch
from torch import nn
class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    def forward(self, x):
        time.sleep(float(os.environ.get("PACE", "0")))
        return self.map(x)
"""
STUDY = """
name = "tiny"
[train]
data = "gaussian-domains"
data_arg = ["n=20"]
model = "plug.py:Slow"
steps = 4
batch_size = 16
[grid]
optimizer = ["sgd", "sam"]
[seeds]
init = [0, 1, 2]
[[analyses]]
kind = "sharpness"
measure = ["m-sharpness"]
m = [8]
rho = [0.1]
"""
RUN = ("study", "run", "tiny.toml", "--out", "study", "--json")


@pytest.fixture
def plug(landscape: Landscape) -> Landscape:
    landscape.file("plug.py", PLUGIN)
    landscape.file("tiny.toml", STUDY)
    return landscape


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The numbers of every model that is finished, by its name."""
    found = {}
    for file in folder.glob("jobs/*/record.json"):
        facts = json.loads(file.read_text())
        entries = list(facts.get("analyses", {}).values())
        if entries and all(e["status"] == "done" for e in entries):
            found[file.parent.name] = facts
    return found


def stamps(folder: Path, models: dict[str, Any]) -> dict[str, tuple[int, bytes]]:
    """Every file of these models: when it was written, and what."""
    files = [f for m in models for f in (folder / "runs" / m).rglob("*") if f.is_file()]
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in files}


def numbers(folder: Path) -> dict[str, Any]:
    """What a study found: the weights of each model, and its measured values."""
    hashes = {f.parent.name: json.loads(f.read_text())["weights_hash"] for f in folder.glob("runs/*/run.json")}
    values = {m: [e.get("values") for e in facts["analyses"].values()] for m, facts in records(folder).items()}
    return {"weights": hashes, "values": values}


@pytest.mark.case(53)
def test_finished_models_are_left_alone(
    plug: Landscape, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole = plug(*RUN[:3], "--out", "whole", "--json")
    assert whole.json["status"]["done"] == 6
    process = plug.start(*RUN, PACE="0.05")
    wait_for(lambda: len(records(tmp_path / "study")) >= 2, process)
    time.sleep(0.3)  # into the next model
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    record_property("kills", 1)
    finished = records(tmp_path / "study")
    before = stamps(tmp_path / "study", finished)
    assert 2 <= len(finished) < 6
    stopped = plug.start(*RUN, PACE="0.05")
    wait_for(lambda: len(records(tmp_path / "study")) > len(finished), stopped)
    os.killpg(stopped.pid, signal.SIGTERM)
    outcome = plug.finish(stopped)
    assert outcome.code in (0, 75), outcome.err  # 0: the last model was finished before it was heard
    last = plug(*RUN)
    assert last.json["status"]["done"] == 6
    assert stamps(tmp_path / "study", finished) == before, "a finished model was touched"
    assert numbers(tmp_path / "study") == numbers(tmp_path / "whole")
    assert not [p for p in (tmp_path / "study").rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.case(53, 57)
def test_one_process_per_study(plug: Landscape, tmp_path: Path) -> None:
    first = plug.start(*RUN, PACE="0.2")
    wait_for((tmp_path / "study/study.json").exists, first)
    second = plug(*RUN)
    assert second.code == 2
    assert f"process {first.pid}" in second.error
    looked = plug("study", "status", "tiny.toml", "--out", "study", "--json")
    assert looked.json["status"]["models"] == 6
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

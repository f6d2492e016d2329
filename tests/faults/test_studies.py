"""A study whose main process or worker is killed goes on, and repeats nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

# Every step takes a while, so that kills fall into trainings.
PLUGIN = """
import time
import torch

class Slow(torch.utils.data.Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(n)
        self.x, self.y = torch.randn(n, 6, generator=g), torch.randint(0, 3, (n,), generator=g)
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        time.sleep(0.0004)
        return self.x[i], self.y[i]

def data():
    return {"train": Slow(64), "test": Slow(32)}

def deadly():
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
STUDY = """
name = "killed"
[train]
data = "plug.py:data"
model = "mlp"
model_arg = ["hidden=[8]"]
batch_size = 8
epochs = 6
[grid]
optimizer = ["sgd", "sam"]
lr = [0.05, 0.1]
[seeds]
init = [0, 1, 2]
[[analyses]]
kind = "sharpness"
measure = ["m-sharpness", "fisher-rao"]
m = [8]
rho = [0.1]
"""
MODELS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plug.py").write_text(PLUGIN)
    (tmp_path / "killed.toml").write_text(STUDY)
    return tmp_path


def records(folder: Path) -> dict[str, dict]:
    found = {}
    for file in (folder / "studies" / "killed" / "jobs").glob("*/record.json"):
        found[file.parent.name] = json.loads(file.read_text())
    return found


def finished(folder: Path) -> dict[str, float]:
    """When each finished training was written, by model."""
    done = {k for k, r in records(folder).items() if r["training"] and r["training"]["status"] == "done"}
    runs = folder / "studies" / "killed" / "runs"
    return {k: max(p.stat().st_mtime for p in (runs / k / "checkpoints").iterdir()) for k in done}


def wait_for(folder: Path, count: int, process) -> None:
    end = time.monotonic() + 240
    while len(finished(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the study does not get on"
        time.sleep(0.05)


def numbers(folder: Path) -> dict[str, object]:
    """Everything that a study says of its models, but for the seconds."""
    told = {}
    for name, record in records(folder).items():
        training = {k: v for k, v in record["training"].items() if "seconds" not in k}
        told[name] = [training, {k: a["values"] for k, a in record["analyses"].items()}]
    return told


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "plug.py").write_text(PLUGIN)
    (folder / "killed.toml").write_text(STUDY)
    outcome = Landscape(folder)("study", "run", "killed.toml")
    assert outcome.code == 0, outcome.err
    assert len(numbers(folder)) == MODELS
    return numbers(folder)


def children(pid: int) -> list[int]:
    """Worker processes: children of ``pid`` that were spawned to compute."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["in-process", "workers"])
def test_a_killed_study_goes_on_and_repeats_nothing(landscape: Landscape, folder: Path, undisturbed, words):
    process = landscape.start("study", "run", "killed.toml", *words)
    wait_for(folder, MODELS // 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(folder)
    outcome = landscape("study", "run", "killed.toml", *words)
    assert outcome.code == 0, outcome.err
    after = finished(folder)
    assert len(after) == MODELS
    assert {k: after[k] for k in before} == before
    assert numbers(folder) == undisturbed


def test_a_killed_worker_s_job_is_done_again(landscape: Landscape, folder: Path, undisturbed):
    process = landscape.start("study", "run", "killed.toml", "--workers", "2", "--json")
    wait_for(folder, MODELS // 3, process)
    workers = children(process.pid)
    assert len(workers) == 2
    before = finished(folder)
    os.kill(workers[0], signal.SIGKILL)
    outcome = landscape.finish(process)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["status"]["done"] == MODELS
    after = finished(folder)
    assert {k: after[k] for k in before} == before
    assert numbers(folder) == undisturbed


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["in-process", "workers"])
def test_a_signal_ends_a_study_with_75_and_it_goes_on(landscape: Landscape, folder: Path, undisturbed, words):
    process = landscape.start("study", "run", "killed.toml", *words)
    wait_for(folder, 2, process)
    process.send_signal(signal.SIGTERM)
    outcome = landscape.finish(process)
    assert outcome.code == 75
    assert "run the same command again" in outcome.error or "continue" in outcome.error
    outcome = landscape("study", "run", "killed.toml")
    assert outcome.code == 0, outcome.err
    assert numbers(folder) == undisturbed


def test_a_job_that_kills_its_workers_is_given_up_and_the_others_are_done(landscape: Landscape, folder: Path):
    text = STUDY.replace('optimizer = ["sgd", "sam"]\n', 'data = ["plug.py:data", "plug.py:deadly"]\n')
    (folder / "killed.toml").write_text(text.replace('data = "plug.py:data"\n', "").replace("[0, 1, 2]", "[0]"))
    outcome = landscape("study", "run", "killed.toml", "--workers", "2", "--json")
    assert outcome.code == 0, outcome.err
    now = json.loads(outcome.out)["status"]
    assert (now["done"], now["failed"]) == (2, 2)
    assert all("workers died" in f["reason"] for f in now["failures"])


def test_a_cluster_of_others_does_the_jobs(landscape: Landscape, folder: Path, undisturbed):
    """A scheduler and a worker started by hand, as on a cluster."""
    import subprocess
    import sys

    environment = landscape.env
    address = folder / "scheduler.json"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
             "--no-dashboard", "--scheduler-file", str(address)],
            cwd=folder, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
    ]  # fmt: skip
    landscape.started += started
    end = time.monotonic() + 60
    while not address.is_file():
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(0.5)
    place = json.loads(address.read_text())["address"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", place, "--nthreads", "1", "--no-dashboard"],
        cwd=folder, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    landscape.started.append(worker)
    outcome = landscape("study", "run", "killed.toml", "--scheduler", place, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["status"]["done"] == MODELS
    assert numbers(folder) == undisturbed


def test_a_scheduler_that_does_not_answer(landscape: Landscape, folder: Path):
    outcome = landscape("study", "run", "killed.toml", "--scheduler", "tcp://127.0.0.1:9")
    assert outcome.code == 2
    assert "the scheduler does not answer" in outcome.error

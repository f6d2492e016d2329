"""Training that is interrupted, killed, raced for, or runs out of disk always continues to the same weights."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Landscape, assert_same_run, steps, wait_for

pytestmark = pytest.mark.slow  # every case starts processes of its own

# A data set read by worker processes, with augmentation drawn from all three global generators, a network
# with BatchNorm and dropout. With SLOW set, every sync takes a while, so that kills often fall into a save.
PLUGIN = """
import os, random, time
import numpy as np
import torch

if os.environ.get("SLOW"):
    plain = os.fsync
    def slow(descriptor):
        time.sleep(float(os.environ["SLOW"]))
        plain(descriptor)
    os.fsync = slow

class Noisy(torch.utils.data.Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(n)
        self.x, self.y = torch.randn(n, 6, generator=g), torch.randint(0, 3, (n,), generator=g)
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        if torch.utils.data.get_worker_info():  # a batch, not the look at all examples before the first
            time.sleep(float(os.environ.get("PACE", "0")))
        return self.x[i] + 0.1 * torch.randn(6) + 0.1 * np.random.randn() + 0.1 * random.random(), self.y[i]

def data():
    return {"train": {"a": Noisy(40), "b": Noisy(56)}, "test": {"a": Noisy(16), "b": Noisy(17)}}

def network():
    n = torch.nn
    return n.Sequential(n.Linear(6, 16), n.BatchNorm1d(16), n.ReLU(), n.Dropout(0.3), n.Linear(16, 3))
"""
TRAIN = (
    "train", "--data", "plug.py:data", "--model", "plug.py:network", "--optimizer", "disam", "--batch-size", "16",
    "--workers", "2", "--schedule", "cosine", "--save-every", "7steps", "--out", "runs", "--json",
)  # fmt: skip
RUN = Path("runs/disam-seed0")
STEPS = ("--steps", "90")


def record(folder: Path) -> dict:
    return json.loads((folder / RUN / "run.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "plug.py").write_text(PLUGIN)
    outcome = Landscape(folder)(*TRAIN, *STEPS)
    assert outcome.code == 0, outcome.err
    return folder


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    assert_same_run(undisturbed / RUN, folder / RUN)


@pytest.mark.case(50)
def test_twenty_kills_end_in_the_same_weights(
    landscape: Landscape, tmp_path: Path, undisturbed: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    draws = random.Random(7)
    kills = 0
    while kills < 20:
        process = landscape.start(*TRAIN, *STEPS, "--resume", SLOW="0.05", PACE="0.002")
        before = steps(tmp_path / RUN)
        # Wait until it makes steps again, then strike at a random moment: in a step, a save, or between.
        wait_for(lambda before=before: steps(tmp_path / RUN) != before, process)
        time.sleep(draws.uniform(0, 0.35))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        if record(tmp_path)["status"] == "finished":
            pytest.fail(f"the run was over after {kills} kills; make it longer")
    record_property("kills", kills)
    assert record(tmp_path)["status"] != "finished"
    outcome = landscape(*TRAIN, *STEPS, "--resume")
    assert outcome.code == 0, outcome.err
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.case(c)) for n, c in {"SIGINT": 47, "SIGTERM": 48, "SIGUSR1": 49}.items()],
)
def test_a_signal_to_the_group_saves_and_resumes(
    name: str, landscape: Landscape, tmp_path: Path, undisturbed: Path
) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    process = landscape.start(*TRAIN, *STEPS, PACE="0.003")
    wait_for(lambda: steps(tmp_path / RUN) > 10, process)
    os.killpg(process.pid, getattr(signal, name))
    outcome = landscape.finish(process)
    assert outcome.code == 75, outcome.err
    assert f"stopped by {name}" in outcome.error
    assert "--resume" in outcome.error
    assert record(tmp_path)["status"] == "interrupted"
    assert landscape(*TRAIN, *STEPS, "--resume").code == 0
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.case(54)
def test_a_second_ctrl_c_leaves_at_once(landscape: Landscape, tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    process = landscape.start(*TRAIN, *STEPS, PACE="0.2")  # a step takes long: the first signal has to wait
    wait_for(lambda: steps(tmp_path / RUN) > 2, process)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    started = time.monotonic()
    process.wait(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - started < 3
    os.killpg(process.pid, signal.SIGKILL)  # its workers
    process.communicate()
    assert landscape(*TRAIN, *STEPS, "--resume").code == 0
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.case(58)
def test_a_reader_never_sees_half_a_file(landscape: Landscape, tmp_path: Path) -> None:
    from landscape.results.run import Run
    from landscape.weights.checkpoint import read_weights

    (tmp_path / "plug.py").write_text(PLUGIN)
    process = landscape.start(*TRAIN, *STEPS, "--save-every", "1steps", SLOW="0.01")
    run = Run(tmp_path / RUN)
    reads, faults = 0, []

    def read() -> None:
        nonlocal reads
        while process.poll() is None:
            if not Run.is_run(run.path):
                continue
            try:
                assert run.record["spec"]["steps"] == 90
                steps = [line["step"] for line in run.metrics()]
                assert steps == list(range(len(steps)))
                for path in list(run.checkpoints().values())[-3:]:
                    read_weights(path)
                    reads += 1
            except Exception as error:
                faults.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert landscape.finish(process).code == 0
    thread.join()
    assert faults == []
    assert reads > 50


@pytest.mark.case(57)
def test_one_writer_per_folder(landscape: Landscape, tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    first = landscape.start(*TRAIN, *STEPS, PACE="0.003")
    wait_for(lambda: steps(tmp_path / RUN) > 2, first)
    second = landscape(*TRAIN, *STEPS, "--resume")
    assert second.code == 2
    assert f"process {first.pid} on host {socket.gethostname()}" in second.error
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = landscape(*TRAIN, *STEPS, "--resume")
    assert third.code == 0, third.err
    assert f"taking over the lock that process {first.pid}" in third.err
    assert_same_end(tmp_path, undisturbed)


SMALL = ("train", "--data", "gaussian-domains", "--model", "mlp", "--steps", "6", "--out", "runs")


@pytest.mark.case(70)
def test_no_space_leaves_the_old_checkpoint(landscape: Landscape, tmp_path: Path) -> None:
    assert landscape(*SMALL, "--save-every", "2steps").code == 0
    run = tmp_path / "runs/sgd-seed0"
    old = {p: p.read_bytes() for p in (run / "checkpoints").iterdir()}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    outcome = landscape(*SMALL, "--save-every", "2steps", "--out", "other", preexec=limit)
    assert outcome.code == 5, outcome.err
    assert "no space left" in outcome.error
    assert list((tmp_path / "other").rglob("*.tmp")) == []
    assert {p: p.read_bytes() for p in (run / "checkpoints").iterdir()} == old
    assert landscape(*SMALL, "--save-every", "2steps", "--out", "other", "--resume").code == 0


@pytest.mark.case(55)
def test_stale_temporaries_and_lock_are_cleaned_with_a_notice(landscape: Landscape, tmp_path: Path) -> None:
    run = tmp_path / "runs/sgd-seed0"
    (run / "checkpoints").mkdir(parents=True)
    host = socket.gethostname().replace("-", "_").replace(".", "_")
    stale = run / "checkpoints" / f".step-00000001.safetensors.{host}-999999999-0123abcd.tmp"
    stale.write_bytes(b"half")
    (run / ".lock-owner").write_text(json.dumps({"pid": 999999999, "host": "elsewhere"}))
    outcome = landscape(*SMALL, "--force")
    assert outcome.code == 0, outcome.err
    assert not stale.exists()
    assert "taking over the lock that process 999999999 on host elsewhere left" in outcome.err


@pytest.mark.case(20, 45)
def test_the_folder_of_another_run_is_refused(landscape: Landscape, tmp_path: Path) -> None:
    assert landscape(*SMALL).code == 0
    other = landscape(*SMALL, "--lr", "0.2")
    assert other.code == 2
    assert "a run of another configuration" in other.error
    assert landscape(*SMALL, "--lr", "0.2", "--resume").code == 2
    assert landscape(*SMALL, "--lr", "0.2", "--force").code == 0
    same = landscape(*SMALL, "--lr", "0.2")
    assert same.code == 0
    assert "is finished already" in same.err


@pytest.mark.case(46)
@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_an_output_path_that_is_a_file(where: str, landscape: Landscape, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("mine")
    out = "occupied" if where == "a file" else "occupied/below"
    outcome = landscape(*SMALL, "--out", out)
    assert outcome.code == 2
    assert "occupied" in outcome.error
    assert (tmp_path / "occupied").read_text() == "mine"


def test_a_damaged_state_is_named(landscape: Landscape, tmp_path: Path) -> None:
    assert landscape(*SMALL).code == 0
    run = tmp_path / "runs/sgd-seed0"
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "status": "running"}))
    (run / "state").mkdir(exist_ok=True)
    (run / "state" / "resume.pt").write_bytes(b"PK\x03\x04 nothing")
    outcome = landscape(*SMALL, "--resume")
    assert outcome.code == 3
    assert "resume.pt" in outcome.error
    (run / "run.json").write_text("{ half")
    assert landscape(*SMALL, "--resume").code == 3


@pytest.mark.case(64)
def test_a_loss_that_is_not_finite_stops_with_step_and_examples(landscape: Landscape) -> None:
    outcome = landscape(*SMALL, "--steps", "400", "--lr", "1e9", "--save-every", "1steps")
    assert outcome.code == 4
    # Which of the three is seen first hangs on how the processor rounds.
    assert re.search(
        r"the training loss is (nan|inf)|gradient has norm (nan|inf)|the gradient is not finite", outcome.error
    )
    assert "step" in outcome.error
    assert "examples [" in outcome.error
    kept = landscape("info", "runs/sgd-seed0@step=0")
    assert kept.code == 0

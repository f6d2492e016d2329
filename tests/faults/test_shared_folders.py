"""Two terminals, ten commands, a clock set back, files that vanish: what is left is whole, and says the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape.results.result import Result

from .conftest import Landscape, assert_same_run, steps, wait_for
from .test_stopped_studies import PLUGIN as STUDY_PLUGIN
from .test_stopped_studies import STUDY, numbers, records

pytestmark = pytest.mark.slow  # every case starts processes of its own

PLUGIN = """
import os, time, torch
from torch import nn
PACE = "PACE"
class Paced(nn.Module):
    def forward(self, x):
        time.sleep(float(os.environ.get(PACE, "0")))
        return x
def data():
    x = torch.sin(torch.arange(240.0)).reshape(60, 4)
    parts = {"a": (x[:35], torch.arange(35) % 3), "b": (x[35:], torch.arange(25) % 3)}
    return {"train": parts, "test": parts}
def network():
    return nn.Sequential(nn.Linear(4, 6), Paced(), nn.Tanh(), nn.Linear(6, 3))
"""
# Every sync takes a while, so that a kill or a second process often falls into a save.
SLOW_DISK = "import os, time\nplain = os.fsync\ndef slow(d):\n    time.sleep(0.1)\n    plain(d)\nos.fsync = slow\n"
CLOCK_BACK = "import time\nplain = time.time\ntime.time = lambda: plain() - 86_400 * 400\n"
TRAIN = (
    "train", "--data", "plug.py:data", "--model", "plug.py:network", "--optimizer", "sgd", "--steps", "12",
    "--batch-size", "16", "--save-every", "4steps", "--json",
)  # fmt: skip
RUN = "runs/sgd-seed0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results stored in it."""
    folder = tmp_path_factory.mktemp("trained")
    usual = Landscape(folder)
    usual.file("plug.py", PLUGIN)
    for words in (TRAIN, ("hessian", RUN, "--top", "2"), ("domains", RUN)):
        outcome = usual(*words)
        assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def here(landscape: Landscape, trained: Path) -> Landscape:
    """A folder with a copy of that run."""
    landscape.file("plug.py", PLUGIN)
    shutil.copytree(trained / "runs", landscape.folder / "runs")
    return landscape


def with_site(landscape: Landscape, code: str) -> dict[str, str]:
    """The environment in which this code runs before any other."""
    landscape.file("site/sitecustomize.py", code)
    return {"PYTHONPATH": str(landscape.folder / "site")}


def temporary(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.name.endswith((".tmp", ".rows")) or p.name == ".lock-owner"]


def same_arrays(one: Path, other: Path) -> None:
    a, b = Result.load(one).data, Result.load(other).data
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        assert np.array_equal(a[name].values, b[name].values), name


@pytest.mark.case(110)
def test_ten_identical_commands_at_once(here: Landscape, trained: Path) -> None:
    shutil.rmtree(here.folder / RUN / "results")
    words = ("hessian", RUN, "--top", "2", "--trust-run", "--json")
    outcomes = [here.finish(p) for p in [here.start(*words) for _ in range(10)]]
    said = {json.dumps(o.json["result"]) for o in outcomes}
    assert len(said) == 1
    (stored,) = (here.folder / RUN / "results").glob("*.nc")
    (same,) = (trained / RUN / "results").glob("hessian-*.nc")
    same_arrays(stored, same)
    assert temporary(here.folder) == []


@pytest.mark.case(110)
def test_two_terminals_on_one_folder(here: Landscape) -> None:
    """Other analyses, figures, pages and a training write into it at the same time."""
    slow = with_site(here, SLOW_DISK)
    commands = [
        (*TRAIN, "--out", "other"),
        (*TRAIN, "--out", "other", "--seed", "1"),
        ("sharpness", RUN, "--trust-run"),
        ("surface", RUN, "--points", "5", "--dim", "1", "--trust-run"),
        ("plot", RUN, "--kind", "training", "domains", "--out", "drawn"),
        ("plot", RUN, "--kind", "training", "domains", "--out", "drawn", "--format", "png"),
    ]
    outcomes = [here.finish(p) for p in [here.start(*words, **slow) for words in commands]]
    for words, outcome in zip(commands, outcomes, strict=True):
        assert outcome.code == 0, (words, outcome.err)
    for path in (here.folder / RUN / "results").glob("*.nc"):
        Result.load(path)
    assert sorted(p.name for p in (here.folder / "drawn").glob("*.png")) == ["domains.png", "training.png"]
    assert_same_run(here.folder / RUN, here.folder / "other/sgd-seed0")
    assert temporary(here.folder) == []


@pytest.mark.case(111)
def test_a_clock_that_was_set_back(landscape: Landscape, trained: Path) -> None:
    """In the middle of a training, and between analyses: files from the future are as good as others."""
    landscape.file("plug.py", PLUGIN)
    process = landscape.start(*TRAIN, PACE="0.2")
    wait_for(lambda: steps(landscape.folder / RUN) > 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    back = with_site(landscape, CLOCK_BACK)
    assert landscape(*TRAIN, "--resume", **back).code == 0
    assert_same_run(trained / RUN, landscape.folder / RUN)
    words = ("hessian", RUN, "--top", "2", "--json", "--trust-run")
    first = landscape(*words)
    stored = Path(first.json["result"])
    for path in (landscape.folder / RUN).rglob("*"):
        os.utime(path, (time.time() + 10**7,) * 2)
    before = stored.read_bytes()
    again = landscape(*words, **back)
    assert again.code == 0, again.err
    assert stored.read_bytes() == before, "computed anew, though nothing but the clock changed"
    (same,) = (trained / RUN / "results").glob("hessian-*.nc")
    same_arrays(stored, same)


@pytest.mark.case(111)
def test_a_lock_of_the_future_and_of_another_machine(landscape: Landscape, trained: Path) -> None:
    """What a dead process left is no lock, whatever its date says."""
    landscape.file("plug.py", PLUGIN)
    run = landscape.folder / RUN
    run.mkdir(parents=True)
    owner = run / ".lock-owner"
    owner.write_text(json.dumps({"pid": 2**22 - 1, "host": "elsewhere", "time": time.time() + 10**8}))
    os.utime(owner, (time.time() + 10**8,) * 2)
    outcome = landscape(*TRAIN)
    assert outcome.code == 0, outcome.err
    assert_same_run(trained / RUN, run)


@pytest.mark.case(112)
@pytest.mark.parametrize("gone", ["results", "checkpoints", "run"])
def test_what_vanishes_midway_is_made_again_or_named(gone: str, here: Landscape) -> None:
    run = here.folder / RUN
    shutil.rmtree(run / "results")
    process = here.start("surface", RUN, "--points", "9", "--trust-run", PACE="0.05")
    wait_for(lambda: any(run.glob("results/*.rows/rows-*")), process)
    for path in {"results": [run / "results"], "rows": list(run.glob("results/*.rows")),
                 "checkpoints": [run / "checkpoints"], "run": [run]}[gone]:  # fmt: skip
        shutil.rmtree(path, ignore_errors=True)
    outcome = here.finish(process)
    assert "Traceback" not in outcome.err
    if outcome.code:
        assert outcome.code in (2, 4), outcome.err
        assert "(unexpected)" not in outcome.error
        return
    (stored,) = run.glob("results/surface-*.nc")
    assert not np.isnan(Result.load(stored).data["loss"].values).any()


@pytest.mark.case(112)
def test_checkpoints_that_vanish_from_a_training(landscape: Landscape, trained: Path) -> None:
    landscape.file("plug.py", PLUGIN)
    process = landscape.start(*TRAIN, PACE="0.05")
    checkpoints = landscape.folder / RUN / "checkpoints"
    wait_for(lambda: steps(landscape.folder / RUN) > 5, process)
    shutil.rmtree(checkpoints)
    outcome = landscape.finish(process)
    assert outcome.code == 0, outcome.err
    ours, theirs = (json.loads((f / RUN / "run.json").read_text()) for f in (landscape.folder, trained))
    assert ours["weights_hash"] == theirs["weights_hash"]


@pytest.mark.case(113)
@pytest.mark.parametrize(
    "words",
    [("report", f"{RUN}/results", "--page", "out/page.html"), ("plot", RUN, "--kind", "domains", "--out", "out"),
     ("export", RUN, "--format", "csv", "npz", "--out", "out")],
    ids=lambda w: w[0],
)  # fmt: skip
def test_killed_while_it_writes(words: tuple[str, ...], here: Landscape, record_property: Any) -> None:
    """Whatever is there afterwards is the old file or the new one, never a part; the next command makes them all."""
    assert here(*words).code == 0
    out = here.folder / "out"
    index, lock = out / "figures.json", out / ".figures.lock"  # whose figures these are; their names are no output
    shown = index.read_bytes() if index.exists() else b""
    whole = {p.name: p.stat().st_size for p in out.iterdir() if p not in (index, lock)}
    slow, draws = with_site(here, SLOW_DISK), random.Random(5)
    old = b"old"
    for _ in range(3):
        for name in whole:
            (out / name).write_bytes(old)
        process = here.start(*words, **slow)
        last = list(whole)[draws.randrange(len(whole))]
        wait_for(lambda last=last: any(out.glob("*.tmp")) or (out / last).read_bytes() != old, process)
        time.sleep(draws.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for name, size in whole.items():
            found = (out / name).read_bytes()
            assert found == old or abs(len(found) - size) < 200 + size // 50, (name, len(found), size)
        assert not index.exists() or index.read_bytes() == shown
    record_property("kills", 3)
    assert here(*words).code == 0
    left = {p for p in out.iterdir() if not p.name.endswith(".tmp")}
    assert {p.name for p in left - {index, lock}} == set(whole)
    assert temporary(here.folder) == []


@pytest.mark.case(113)
def test_a_study_with_two_workers(landscape: Landscape, record_property: Any) -> None:
    """Its whole group is stopped, then killed."""
    landscape.file("plug.py", STUDY_PLUGIN)
    landscape.file("tiny.toml", STUDY)
    run = ("study", "run", "tiny.toml", "--workers", "2", "--json")
    assert landscape(*run, "--out", "whole").json["status"]["done"] == 6
    folder = landscape.folder / "study"
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = len(records(folder))
        process = landscape.start(*run, "--out", "study", PACE="0.05")
        wait_for(lambda before=before: len(records(folder)) > before, process)
        os.killpg(process.pid, number)
        outcome = landscape.finish(process)
        assert outcome.code == (75 if number == signal.SIGTERM else -number), outcome.err
    record_property("kills", 1)
    assert landscape(*run, "--out", "study").json["status"]["done"] == 6
    assert numbers(folder) == numbers(landscape.folder / "whole")
    assert temporary(folder) == []

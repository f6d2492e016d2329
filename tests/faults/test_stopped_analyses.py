"""Analyses killed, stopped or run twice at once: only what is missing is computed again, to the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape.results.result import Result

from .conftest import Landscape, wait_for

pytestmark = pytest.mark.slow  # every case starts processes of its own

# Each pass, forward or backward, leaves a byte in a file, and takes a while if it is told to.
PLUGIN = """
import os, time, torch
from torch import nn
class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))
    def forward(self, x):
        note()
        output = self.map(x)
        if output.requires_grad:
            output.register_hook(note)
        return output
# Named where they are no part of the function's code: what that asks of the environment is part of what it computes.
COUNT, PACE = "COUNT", "PACE"
def note(gradient=None):
    if os.environ.get(COUNT):
        with open(os.environ[COUNT], "ab") as file:
            file.write(b".")
    time.sleep(float(os.environ.get(PACE, "0")))
# Of somebody's own loss every point is a pass by itself, which is what is counted, paced and struck here.
def loss(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")
def data():
    x = torch.sin(torch.arange(160.0)).reshape(40, 4)
    parts = {"a": (x[:25], torch.arange(25) % 3), "b": (x[25:], torch.arange(15) % 3)}
    return {"train": parts, "test": parts}
"""
POINT = ("c.pt", "--model", "plug.py:Counted", "--data", "plug.py:data", "--json")
SURFACE = ("surface", *POINT, "--loss", "plug.py:loss", "--points", "13", "--out", "results")
HESSIAN = ("hessian", *POINT, "--top", "3", "--bottom", "1", "--tol", "1e-6", "--out", "results")


@pytest.fixture
def plug(landscape: Landscape, tmp_path: Path) -> Landscape:
    landscape.file("plug.py", PLUGIN)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
    torch.save({f"map.{k}": v for k, v in model.state_dict().items()}, tmp_path / "c.pt")
    return landscape


def passes(folder: Path, name: str) -> int:
    """Passes that the processes with COUNT=name made."""
    return (folder / name).stat().st_size if (folder / name).exists() else 0


def arrays(path: str | Path) -> dict[str, bytes]:
    """The bytes of every array of a stored result."""
    data = Result.load(Path(path)).data
    return {
        str(k): np.ascontiguousarray(v.values).tobytes() for k, v in (*data.coords.items(), *data.data_vars.items())
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.endswith((".tmp", ".rows"))]


@pytest.mark.case(51)
def test_a_killed_surface_computes_only_what_is_missing(plug: Landscape, tmp_path: Path, record_property) -> None:
    whole = plug(*SURFACE, "--out", "whole", COUNT="whole.count")
    draws = random.Random(3)
    kills = 0
    for _ in range(3):
        before = len(list((tmp_path / "results").glob("*.rows/rows-*")))
        process = plug.start(*SURFACE, PACE="0.06", COUNT="killed.count")
        wait_for(lambda b=before: len(list((tmp_path / "results").glob("*.rows/rows-*"))) > b, process)
        time.sleep(draws.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    record_property("kills", kills)
    stored = sum(len(np.load(p).files) for p in (tmp_path / "results").glob("*.rows/rows-*"))
    assert 0 < stored < 13
    last = plug(*SURFACE, COUNT="last.count")
    assert f"going on after {stored} stored rows" in last.err
    saved = passes(tmp_path, "whole.count") - passes(tmp_path, "last.count")
    assert saved == 13 * stored, "a stored row was computed again"
    assert arrays(last.json["result"]) == arrays(whole.json["result"])
    directions = [Path(found.json["directions"]).read_bytes() for found in (last, whole)]
    assert directions[0] == directions[1]
    assert leftovers(tmp_path / "results") == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.case(51)
def test_a_stopped_surface_keeps_every_row(name: str, plug: Landscape, tmp_path: Path) -> None:
    process = plug.start(*SURFACE, PACE="0.03", COUNT="count")
    wait_for(lambda: passes(tmp_path, "count") > 40, process)
    os.killpg(process.pid, getattr(signal, name))
    outcome = plug.finish(process)
    assert outcome.code == 75, outcome.err
    assert "run the same command again" in outcome.error
    stored = sum(len(np.load(p).files) for p in (tmp_path / "results").glob("*.rows/rows-*"))
    assert stored >= 2, "rows that waited in memory are written before the end"
    assert plug(*SURFACE).code == 0


@pytest.mark.case(52)
def test_a_killed_krylov_run_finds_the_same(plug: Landscape, tmp_path: Path, record_property) -> None:
    whole = plug(*HESSIAN, "--out", "whole").json
    draws = random.Random(5)
    kills = 0
    for _ in range(3):
        process = plug.start(*HESSIAN, PACE="0.1", COUNT="count")
        before = passes(tmp_path, "count")
        wait_for(lambda b=before: passes(tmp_path, "count") > b + 8, process)
        time.sleep(draws.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    record_property("kills", kills)
    assert not list((tmp_path / "results").glob("*.nc")), "an unfinished result must not look like one"
    again = plug(*HESSIAN).json
    assert again["eigenvalues"] == pytest.approx(whole["eigenvalues"], rel=1e-5)
    assert again["smallest"] == pytest.approx(whole["smallest"], rel=1e-5)
    assert leftovers(tmp_path / "results") == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.case(52, 54)
def test_a_signal_stops_any_analysis_and_a_second_ctrl_c_at_once(name: str, plug: Landscape, tmp_path: Path) -> None:
    process = plug.start(*HESSIAN, PACE="0.05", COUNT="count")
    wait_for(lambda: passes(tmp_path, "count") > 5, process)
    os.kill(process.pid, getattr(signal, name))
    outcome = plug.finish(process)
    assert outcome.code == 75, outcome.err
    assert f"stopped by {name}" in outcome.error
    assert outcome.out == ""
    slow = plug.start(*HESSIAN, PACE="30", COUNT="slow")  # so slow that the first signal is still being heeded
    wait_for(lambda: passes(tmp_path, "slow") > 0, slow)
    for _ in range(20):
        if slow.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(slow.pid, signal.SIGINT)
            time.sleep(0.002)
    slow.communicate(timeout=60)
    # At the very end the interpreter's own handler is in force again; a shell calls that 130, too.
    assert slow.returncode in (75, 130, -signal.SIGINT)


@pytest.mark.case(55)
def test_what_a_dead_process_left_is_cleaned(plug: Landscape, tmp_path: Path) -> None:
    host = socket.gethostname().replace("-", "_").replace(".", "_")
    results = tmp_path / "results"
    results.mkdir()
    stale = results / f".surface-0123.nc.{host}-999999999-0123abcd.tmp"
    stale.write_bytes(b"half")
    foreign = results / f".surface-0123.nc.elsewhere-{os.getpid()}-0123abcd.tmp"
    foreign.write_bytes(b"another machine is writing this")
    outcome = plug(*SURFACE)
    assert outcome.code == 0, outcome.err
    assert not stale.exists()
    assert "unfinished" in outcome.err
    assert foreign.exists()


# -- several at once ------------------------------------------------------------------------------------------------


@pytest.mark.case(59)
def test_two_processes_share_a_surface(plug: Landscape, tmp_path: Path) -> None:
    alone = plug(*SURFACE, "--out", "alone", COUNT="alone.count")
    place = {"WORLD_SIZE": "2", "PACE": "0.01", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [plug.start(*SURFACE, RANK=str(r), COUNT=f"{r}.count", **place) for r in (0, 1)]
    first, second = map(plug.finish, started)
    assert second.code == 0, second.err
    assert second.out == "", "of several processes one speaks"
    assert arrays(first.json["result"]) == arrays(alone.json["result"])
    counts = [passes(tmp_path, f"{r}.count") for r in (0, 1)]
    assert min(counts) > 3 * 13
    assert leftovers(tmp_path / "results") == []


@pytest.mark.case(60)
def test_two_processes_want_the_same_result(plug: Landscape, tmp_path: Path) -> None:
    """The stored results are the cache here: both finish, and what is stored is whole."""
    for words in (SURFACE, HESSIAN):
        started = [plug.start(*words, PACE="0.005") for _ in (0, 1)]
        both = [plug.finish(p) for p in started]
        assert [o.code for o in both] == [0, 0], [o.err for o in both]
        assert both[0].json["result"] == both[1].json["result"]
        assert arrays(both[0].json["result"])
        again = plug(*words)
        assert "stored result, same weights, network, data and options" in again.err
    assert leftovers(tmp_path / "results") == []


@pytest.mark.case(60)
def test_two_processes_remember_plug_ins_at_once(plug: Landscape, tmp_path: Path) -> None:
    for name in "abcd":
        landscape_file = plug.file(f"{name}.py", PLUGIN)
        assert landscape_file.exists()
    started = [
        plug.start("domains", "c.pt", "--model", f"{n}.py:Counted", "--data", f"{n}.py:data", "--json")
        for n in "abcd"
    ]
    assert [plug.finish(p).code for p in started] == [0] * 4
    (store,) = (tmp_path / "state").rglob("trusted-plugins.json")
    known = {Path(t["path"]).name for t in json.loads(store.read_text())["plugins"]}
    assert known == {"a.py", "b.py", "c.py", "d.py"}


TRAIN = ("train", "--data", "plug.py:data", "--model", "plug.py:Counted", "--steps", "60", "--save-every", "1steps",
         "--batch-size", "8", "--out", "runs")  # fmt: skip


@pytest.mark.case(58)
def test_looking_at_a_run_that_is_being_trained(plug: Landscape, tmp_path: Path) -> None:
    process = plug.start(*TRAIN, PACE="0.2")
    wait_for(lambda: len(list((tmp_path / "runs").glob("*/checkpoints/*"))) > 2, process)
    looks = (
        ("info", "runs/sgd-seed0", "--json"),
        ("plot", "runs/sgd-seed0", "--kind", "training", "--format", "svg", "--out", "drawn", "--json"),
        ("domains", "runs/sgd-seed0", "--json"),
        ("domains", "runs/sgd-seed0@best", "--out", "elsewhere", "--json"),
    )
    for words in looks:
        outcome = plug(*words)
        assert outcome.json, outcome.err
    assert process.poll() is None, "the training was over before it was looked at"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

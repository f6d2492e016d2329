"""No file and no plug-in makes a command immortal, and a signal loses no more than it must."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

# A data plug-in that says when it is there, and then blocks in one way or another.
BLOCKING = {
    "swallows": "while True:\n        try: time.sleep(0.05)\n        except BaseException: pass",
    "own handlers": "[signal.signal(s, lambda *_: None) for s in STOP]\n    while True: time.sleep(0.05)",
    "blocked signals": "signal.pthread_sigmask(signal.SIG_BLOCK, STOP)\n    while True: time.sleep(0.05)",
    "C that lets others run": "ctypes.CDLL(None).sleep(1000); time.sleep(1000)",
    "C that lets nobody run": "[ctypes.PyDLL(None).sleep(1000) for _ in range(9)]",
    "a lock": "lock = threading.Lock()\n    while 1:\n        try: lock.acquire()\n        except BaseException: 0",
    "an endless match": "re.match(r'(a+)+$', 'a' * 60 + 'b')",
}
PLUGIN = """
import ctypes, os, re, signal, threading, time, torch
STOP = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
def data():
    x = torch.randn(40, 4)
    open("here", "w").close()
    {how}
    return {{"train": (x, torch.arange(40) % 3)}}
"""
SOON = "import landscape_cli.watchdog as w\nw.SECONDS = 1.5\n"


def started(landscape: Landscape, how: str, **env: str) -> subprocess.Popen[str]:
    """A command that is inside of its plug-in."""
    landscape.file("plug.py", PLUGIN.format(how=how))
    landscape.file("site/sitecustomize.py", SOON)
    (landscape.folder / "here").unlink(missing_ok=True)
    words = ("train", "--data", "plug.py:data", "--steps", "2", "--optimizer", "sgd")
    process = landscape.start(*words, PYTHONPATH=str(landscape.folder / "site"), **env)
    end = time.monotonic() + 90
    while not (landscape.folder / "here").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)
    return process


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    _, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err
    return process.returncode, err


@pytest.mark.case(98)
@pytest.mark.parametrize("how", BLOCKING)
def test_what_blocks_is_ended_after_a_while(how: str, landscape: Landscape, record_property: Any) -> None:
    process = started(landscape, BLOCKING[how])
    process.send_signal(signal.SIGTERM)
    code, said = ended(process, 30)
    record_property("kills", 1)
    assert code in (75, -signal.SIGKILL)
    assert (code == 75) or how in ("C that lets nobody run", "an endless match")  # no thread of it could run
    assert said.count("error: ") == 1
    assert "stopped by SIGTERM" in said


@pytest.mark.case(99)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_second_request_ends_it_at_once(number: signal.Signals, landscape: Landscape, record_property: Any) -> None:
    landscape.file("site/sitecustomize.py", SOON)
    process = started(landscape, BLOCKING["swallows"])
    process.send_signal(number)
    time.sleep(1.2)
    process.send_signal(number)
    code, said = ended(process, 10)
    record_property("kills", 1)
    assert code == 75
    assert f"stopped by {number.name}" in said


@pytest.mark.case(100)
def test_a_second_ctrl_c_ends_what_swallows_it(landscape: Landscape, record_property: Any) -> None:
    process = started(landscape, BLOCKING["own handlers"])
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    assert ended(process, 10)[0] == 130
    record_property("kills", 1)


STEPS = """
import os, time, torch
from torch import nn
class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 3)
    def forward(self, x):
        if self.training and os.path.exists("slow"):
            open("here", "w").close()
            time.sleep(float(open("slow").read()))
        return self.map(x)
def data():
    x = torch.sin(torch.arange(160.0)).reshape(40, 4)
    return {"train": (x, torch.arange(40) % 3)}
"""
TRAIN = ("train", "--data", "plug.py:data", "--model", "plug.py:Slow", "--optimizer", "sam", "--steps", "6",
         "--batch-size", "10", "--save-every", "2steps", "--json")  # fmt: skip


@pytest.mark.case(101, 102)
@pytest.mark.parametrize("step_takes", [0.3, 30.0], ids=["short steps", "steps longer than the watch"])
def test_training_stops_by_sighup_and_goes_on_to_the_same_bits(
    step_takes: float, landscape: Landscape, record_property: Any
) -> None:
    landscape.file("plug.py", STEPS)
    landscape.file("site/sitecustomize.py", SOON)
    whole = landscape(*TRAIN, "--out", "whole").json["runs"][0]
    landscape.file("slow", str(step_takes))
    process = landscape.start(*TRAIN, "--out", "cut", PYTHONPATH=str(landscape.folder / "site"))
    end = time.monotonic() + 90
    while not (landscape.folder / "here").exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    code, said = ended(process, 30)
    record_property("kills", 1)
    assert code == 75
    assert "stopped by SIGHUP" in said
    (landscape.folder / "slow").unlink()
    again = landscape(*TRAIN, "--out", "cut", "--resume").json["runs"][0]
    assert again["steps"] == whole["steps"]
    last = "checkpoints/step-00000006.safetensors"
    assert (Path(again["path"]) / last).read_bytes() == (Path(whole["path"]) / last).read_bytes()


@pytest.mark.case(102)
def test_nohup_keeps_its_meaning(landscape: Landscape) -> None:
    landscape.file("plug.py", STEPS)
    landscape.file("slow", "0.2")

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = landscape.start(*TRAIN, "--out", "runs", preexec=ignore)
    while not (landscape.folder / "here").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["runs"][0]["steps"] == 6


@pytest.mark.case(99)
def test_two_requests_at_once_are_one(landscape: Landscape) -> None:
    """A scheduler signals the whole group, and a launcher passes the same signal on."""
    landscape.file("plug.py", STEPS)
    landscape.file("slow", "1.5")
    process = landscape.start(*TRAIN, "--out", "runs")
    while not (landscape.folder / "here").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    code, said = ended(process, 30)
    assert code == 75
    assert "continue with --resume" in said  # it came to its safe point


@pytest.mark.case(98)
def test_nothing_is_left_behind(landscape: Landscape) -> None:
    """The process that watches ends with the one that it watches, also after SIGKILL."""
    process = started(landscape, BLOCKING["swallows"])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.communicate()
    end = time.monotonic() + 8
    while any(Path(f"/proc/{c}").exists() for c in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{c}").exists() for c in children)

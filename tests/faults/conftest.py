"""The real command as a process, and what is left on disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .ready import COMMAND, ready


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    peak_mb: float

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout of a command that succeeded, read as strict JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=_no_constant)

    @property
    def error(self) -> str:
        """The error line; there must be exactly one, and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def _no_constant(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


class Landscape:
    """Runs ``landscape`` in a folder, with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.env = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}

    def file(self, name: str, content: str | bytes) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def start(self, *words: object, preexec: object = None, **env: str) -> subprocess.Popen[str]:
        """The command as a process: a new one if it is to have limits or an environment of its own."""
        if preexec is None and not env:
            process = ready().start([str(w) for w in words], self.folder, self.env)
            self.started.append(process)
            return process
        process = subprocess.Popen(
            [COMMAND, *map(str, words)],
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=preexec,  # noqa: PLW1509 - no thread of this process is running yet
        )
        self.started.append(process)
        return process

    def __call__(self, *words: object, preexec: object = None, **env: str) -> Outcome:
        return self.finish(self.start(*words, preexec=preexec, **env))

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Outcome:
        """Wait, and watch the peak memory of this very process.

        ``wait4`` would report the larger of the child's peak and that of the process that started it.
        """
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
        out, err = process.communicate()
        watcher.join()
        return Outcome(process.returncode, out, err, peak[0])


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                peak[0] = float(line.split()[1]) / 1024
        time.sleep(0.005)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    """Until the process has brought something about; it must neither end nor hang before."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def steps(run: Path) -> int:
    """How many lines a training has logged."""
    log = run / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines that a training has logged, without the times."""
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, every checkpoint, and the whole log are the same, and nothing else lies about."""
    records = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    assert [r["status"] for r in records] == ["finished"] * 2
    assert records[0]["weights_hash"] == records[1]["weights_hash"]
    names = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (one / "checkpoints" / name).read_bytes() == (other / "checkpoints" / name).read_bytes(), name
    assert logged(one) == logged(other)
    left = [p for p in other.rglob("*") if p.name.endswith(".tmp") or p.name == ".lock-owner"]
    assert left == []


@pytest.fixture
def landscape(tmp_path: Path) -> Iterator[Landscape]:
    made = Landscape(tmp_path)
    yield made
    for process in made.started:  # also what a failed test left behind, with its workers
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):  # its pipes are closed already
            process.communicate()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole folder is run apart from the quick line: by CI after it, or by ``tally.py``."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)

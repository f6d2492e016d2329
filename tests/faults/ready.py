"""The command as a process that need not wait for torch: forked off one that has imported other people's libraries.

A command of these tests does little, and two thirds of its time would be the import of torch. Here one process per
test worker imports the libraries (nothing of ours), and forks for each command. The fork gets a session, a folder,
streams, an environment and arguments of its own, becomes a child of the tests (`PR_SET_CHILD_SUBREAPER`), and runs
the command's entry point from its first import on. Tests of limits, environments and interpreters start real ones.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("landscape"))
_LIBRARIES = (
    *("torch", "numpy", "scipy.linalg", "scipy.stats", "xarray", "msgspec", "safetensors.torch", "filelock"),
    *("tyro", "rich.progress", "rich.table", "platformdirs", "jinja2", "PIL.Image", "sklearn.datasets"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)
_PR_SET_CHILD_SUBREAPER = 36


class Ready:
    """A process that waits to fork."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        words = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        theirs.close()

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """The command with these words, as ``subprocess.Popen`` with pipes for stdout and stderr gives it."""
        out, out_theirs = os.pipe()
        err, err_theirs = os.pipe()
        request = json.dumps({"words": list(words), "folder": str(folder), "environment": dict(environment)}).encode()
        with self._turn, _adopting_orphans():
            socket.send_fds(self._socket, [len(request).to_bytes(8, "little")], [out_theirs, err_theirs])
            self._socket.sendall(request)
            pid = int(self._socket.recv(64))
        os.close(out_theirs)
        os.close(err_theirs)
        process: Any = subprocess.Popen.__new__(subprocess.Popen)
        process.__dict__.update(
            args=[COMMAND, *words],
            pid=pid,
            returncode=None,
            stdin=None,
            stdout=io.open(out, encoding="utf-8"),  # noqa: SIM115, UP020 - open for as long as the process
            stderr=io.open(err, encoding="utf-8"),  # noqa: SIM115, UP020
            encoding=None,
            errors=None,
            text_mode=True,
            universal_newlines=True,
            pipesize=-1,
            process_group=-1,
            _input=None,
            _communication_started=False,
            _child_created=True,
            _closed_child_pipe_fds=True,
            _waitpid_lock=threading.Lock(),
            _sigint_wait_secs=0.25,
        )
        return process  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the waiting process."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()


@functools.cache
def ready() -> Ready:
    """The one of this test worker."""
    made = Ready()
    atexit.register(made.close)
    return made


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Let processes whose parent ends become children of this one."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _serve(requests: socket.socket) -> None:
    """Fork for every request; returns in the fork, with everything set up for the command."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    while True:
        head, streams, _, _ = socket.recv_fds(requests, 8, 2)
        if not head:
            os._exit(0)
        request = json.loads(requests.recv(int.from_bytes(head, "little")))
        reader, writer = os.pipe()
        between = os.fork()
        if between:
            os.waitpid(between, 0)  # from now on the command is an orphan, and has fallen to the tests
            requests.send(os.read(reader, 64))
            for number in (*streams, reader, writer):
                os.close(number)
            continue
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
            os._exit(0)
        os.close(reader)
        os.close(writer)
        requests.close()
        _become(request, streams)
        return


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """What a new process would find."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=False)
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [COMMAND, *request["words"]]
    sys.path[0] = str(Path(COMMAND).parent)
    main = sys.modules["__main__"]
    main.__file__, main.__spec__ = COMMAND, None


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from landscape_cli.app import main as command

    sys.exit(command())

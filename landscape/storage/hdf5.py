"""Arrays out of HDF5 files, read by a process of its own that is watched.

The HDF5 library trusts what it reads: a flipped bit can make it walk in circles without end, allocate what was never
written, or open other files of the machine. So another process opens such files, with limits on its memory and
processor time; it refuses what results never hold, and is ended where it does not answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .netcdf import Arrays

_MAGIC = b"\x89HDF\r\n\x1a\n"
_PROGRAM = "from landscape.storage.hdf5_process import main; main()"
SECONDS = 8.0  # to read one file, and a second more for every so many bytes
_BYTES_PER_SECOND = 20_000_000
_START = 120.0  # to start Python and import h5py, on a busy machine
_WIDE = 1_000_000
_KINDS = frozenset("fiub")


def read_hdf5(path: Path) -> Arrays:
    """The arrays and attributes at the root of a file: numbers and texts, stored whole in the file itself.

    Raises:
        ValueError: If the file holds anything else (links to other places, data in other files, compressed data, data
            that were never written), is damaged, or is not read in time.
    """
    with _LOCK[-1]:
        header, content = _reader().ask(path, SECONDS + path.stat().st_size / _BYTES_PER_SECOND)
    return _arrays(header, content)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does."""
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _arrays(header: dict[str, Any], content: bytes) -> Arrays:
    made = Arrays(attributes=header["attributes"])
    place = 0
    for name, about in header["variables"].items():
        if about["values"] is not None:
            widest = max(map(len, about["values"]), default=0)
            wide = widest * len(about["values"]) > _WIDE  # one long text among many: an array of objects
            values = np.array(about["values"], dtype=object if wide else str)
        else:
            kind = np.dtype(about["type"])
            if kind.kind not in _KINDS:
                raise ValueError(f"{name!r} holds {kind}")
            count = int(np.prod(about["shape"], dtype=np.int64))
            values = np.frombuffer(content, kind, count, place)
            place += values.nbytes
            values = values.astype(kind.newbyteorder("="))
        made.variables[name] = (tuple(about["dims"]), values.reshape(about["shape"]), about["attributes"])
    return made


class _Hdf5Reader:
    """The other process: a path goes in, a header in JSON and bytes come out."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            # -P: no module of the folder that somebody works in
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C is for those who read the answer
        )
        weakref.finalize(self, _end, self.process)
        self._within(_START, self._line)

    def ask(self, path: Path, seconds: float) -> tuple[dict[str, Any], bytes]:
        """What the process says of a file.

        Raises:
            ValueError: If it refuses, breaks off or does not answer in time.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(os.fspath(path)).encode() + b"\n")
            self.process.stdin.flush()
            header, content = self._within(seconds, self._answer)
        except (BrokenPipeError, EOFError):
            self.end()
            raise ValueError("it is damaged") from None
        if "error" in header:
            raise ValueError(header["error"])
        return header, content

    def end(self) -> None:
        """End the process, whatever it does."""
        _end(self.process)

    def _answer(self) -> tuple[dict[str, object], bytes]:
        header = json.loads(self._line())
        assert self.process.stdout is not None
        content = self.process.stdout.read(header.get("bytes", 0))
        if len(content) < header.get("bytes", 0):
            raise EOFError
        return header, content

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def _within(self, seconds: float, read: Any) -> Any:
        """The outcome of a function that may block, from a thread that may be left behind."""
        found = []

        def run() -> None:
            try:
                found.append(read())
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            thread.join(seconds)
        except BaseException:  # a signal: the answer that is under way must not be taken for that of the next file
            self.end()
            raise
        if not found:
            self.end()
            raise ValueError(f"reading it takes more than {seconds:.0f} s, so it is damaged or made to block")
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent any more
            if pipe:
                pipe.close()


_LOCK = [threading.Lock()]
_READERS: list[_Hdf5Reader] = []


def _reader() -> _Hdf5Reader:
    """The process of this one, started where there is none."""
    if _READERS and (_READERS[0].owner != os.getpid() or _READERS[0].process.poll() is not None):
        _READERS.clear()
    if not _READERS:
        try:
            _READERS.append(_Hdf5Reader())
        except EOFError:
            raise ValueError("the process that reads it did not start; is h5py installed?") from None
    return _READERS[0]


def _after_fork() -> None:
    """A child has a lock of its own: a thread that it has not may hold the one of its parent."""
    _LOCK.append(threading.Lock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""No command is immortal: where a signal does not lead to an end, another process ends it.

A handler in Python runs between two steps of Python, so code that blocks elsewhere, or that swallows every exception,
would make a process deaf to all but SIGKILL. The system's own part of a handler writes the signal's number into a
pipe at once (`signal.set_wakeup_fd`); a small process, made before anything is imported, reads it and waits. It ends
the command after a second request, or where no point was reached at which it can stop.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from landscape.base.stop_signals import on_safe_point, stop_signals

SECONDS = 10.0  # from the first signal to a point where the work can stop
_SAVING = 600.0  # from there to the end; a large checkpoint on a slow disk takes its time
_SAME = 1.0  # a launcher and a scheduler may both pass on the same request
_GRACE = 2.0  # for a thread of the process to leave with an exit code, before SIGKILL
_SAFE = 0xFF  # no signal has this number
_LINE = "error: stopped by {}, without a point to save at: run the same command again, it takes up what is stored\n"


@contextmanager
def watched() -> Iterator[None]:
    """Watch over this process until the end of the block; where there is no fork, nothing is watched."""
    if not hasattr(os, "fork") or threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = stop_signals()
    heard, tell = os.pipe()
    leave, ask = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        os.close(tell)
        os.close(leave)
        _watch(parent, heard, ask, signals)
    os.close(heard)
    os.close(ask)
    os.set_blocking(tell, False)
    threading.Thread(target=_leave_when_asked, args=(leave,), daemon=True).start()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    on_safe_point(lambda: _say(tell))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(before)
        os.close(tell)


def _say(tell: int) -> None:
    with contextlib.suppress(OSError):
        os.write(tell, bytes([_SAFE]))


def _leave_when_asked(leave: int) -> None:
    """The end with an exit code, which works wherever this thread gets to run."""
    asked = os.read(leave, 1)
    if asked:
        os._exit(asked[0])


def _watch(parent: int, heard: int, ask: int, signals: list[signal.Signals]) -> NoReturn:
    """The other process: it lives as long as the pipe has another end."""
    try:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        for stream in (0, 1):
            with contextlib.suppress(OSError):
                os.close(stream)
        _wait(parent, heard, ask)
    finally:
        os._exit(0)


def _wait(parent: int, heard: int, ask: int) -> None:
    first = deadline = 0.0
    name = ""
    while os.getppid() == parent:
        left = deadline - time.monotonic() if name else 5.0
        if left <= 0:
            return _end(parent, ask, name, 75)
        if not select.select([heard], [], [], min(left, 5.0))[0]:
            continue
        said = os.read(heard, 1)
        if not said:
            return None
        now = time.monotonic()
        if said[0] == _SAFE:
            if name:
                deadline = now + _SAVING
        elif not name:
            if said[0] in signal.valid_signals():
                first, deadline, name = now, now + SECONDS, signal.Signals(said[0]).name
        elif now - first > _SAME:
            return _end(parent, ask, name, 130 if said[0] == signal.SIGINT else 75)
    return None


def _end(parent: int, ask: int, name: str, code: int) -> None:
    """First by its own thread, with an exit code; if that cannot run, by force."""
    with contextlib.suppress(OSError):
        os.write(2, _LINE.format(name).encode())
    with contextlib.suppress(OSError):
        os.write(ask, bytes([code]))
    end = time.monotonic() + _GRACE
    while time.monotonic() < end and os.getppid() == parent:
        time.sleep(0.02)
    if os.getppid() == parent:
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent, signal.SIGKILL)

"""Which signals ask to stop, and who wants to know that work has reached a point where it can."""

from __future__ import annotations

import signal
from collections.abc import Callable

# Ctrl-C, a scheduler's end, SLURM's requeue warning, a terminal that was closed.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
_LISTENERS: list[Callable[[], None]] = []


def stop_signals() -> list[signal.Signals]:
    """The signals of this system that ask to stop; SIGHUP is none where it was ignored from the start (nohup)."""
    there = [signal.Signals[name] for name in _NAMES if hasattr(signal, name)]
    return [s for s in there if s.name != "SIGHUP" or signal.getsignal(s) != signal.SIG_IGN]


def on_safe_point(listener: Callable[[], None]) -> None:
    """Call a function whenever work that was asked to stop begins to save what it has."""
    _LISTENERS.append(listener)


def safe_point() -> None:
    """Say that the work has noticed that it shall stop, and saves."""
    for listener in _LISTENERS:
        listener()

"""Signals only raise a flag; the trainer saves at the next safe point and stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..base.stop_signals import stop_signals


class StopFlag:
    """Which signal asked to stop, if one did."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch what asks to stop inside the block; a second Ctrl-C leaves at once with exit code 130.

    Outside the main thread nothing is caught.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, _: FrameType | None) -> None:
        if flag and number == signal.SIGINT:
            os._exit(130)
        flag.signal = signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

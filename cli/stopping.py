"""The first signal stops the work where it can be taken up again; a second Ctrl-C leaves at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from landscape.base.stop_signals import stop_signals


@contextmanager
def stopped_by_signals(*, last_words: bool = False) -> Iterator[list[str]]:
    """Turn the first of the signals into a `KeyboardInterrupt`, so that what is open is closed and stored.

    The trainer has a way of its own inside: it saves at the next step. Outside the main thread nothing is caught.

    Args:
        last_words: After an error SIGTERM is ignored: a launcher sends it to all processes when one is gone, and the
            others have a line to say that.

    Yields:
        The name of the signal, once it has come.
    """
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handle(number: int, _: FrameType | None) -> None:
        if not seen:
            seen.append(signal.Signals(number).name)
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            os._exit(130)

    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield seen
    finally:
        if not seen:  # else the process is about to end, and another Ctrl-C shall end it quietly
            failing = last_words and sys.exc_info()[0] is not None
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if failing and number == signal.SIGTERM else handler)

"""The three standard streams: there, and never ended by a letter that they cannot say."""

from __future__ import annotations

import contextlib
import io
import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def provide_streams() -> None:
    """Give standard streams that the process was started without (``>&-``) a place where nothing is kept.

    Else the first file that is opened takes the number of the closed one, and whatever a library prints is
    written into it, a result perhaps.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def say_anything() -> None:
    """Let no name that the terminal cannot say end a command: its letters are spelled out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(line: str) -> None:
    """Print a line to stderr; nobody listening there is no reason to stop working."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)

"""No command is silent for long: what was heard last is said again, with since when nothing new was."""

from __future__ import annotations

import io
import logging
import sys
import time

import landscape_cli.progress as module
from landscape_cli.app import main
from landscape_cli.screen import Screen

from landscape.base.progress import Inside, report, reporting


def test_silence_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.2)
    with Screen(json=True):
        report("products", 3, 19, "residual 1e-2")
        time.sleep(1.4)
    said = capsys.readouterr()
    assert said.out == ""
    assert "products: 3/19 residual 1e-2, and nothing new for 1 s" in said.err


def test_a_short_command_says_nothing(capsys):
    with Screen(json=False):
        report("products", 3, 19)
    assert capsys.readouterr().err == ""


def test_progress_inside_a_unit_is_said_once_it_takes_a_while(monkeypatch):
    seen = []
    clock = iter([0.0, 0.5, 1.0, 2.5])
    monkeypatch.setattr("landscape.base.progress.time.monotonic", lambda: next(clock))
    with reporting(lambda task, done, total, note: seen.append((done, total))):
        inside = Inside("examples", 4)
        for done in (1, 2, 3, 4):
            inside.at(done)
    assert seen == [(3, 4), (4, 4)]


class Closed(io.StringIO):
    """What nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_command_whose_stderr_nobody_reads_goes_on(monkeypatch, capsys):
    """It ended there, unfinished and with exit code 0."""
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", Closed())
    with Screen(json=False) as screen:
        logging.getLogger("landscape").info("something")
        report("products", 3, 19)
        screen.line("done")
    assert main(["hessian", "nothing-here"]) == 2  # as ever
    assert capsys.readouterr().out == "done\n"


def test_a_notice_is_said_once_in_a_command(capsys):
    """That there is no accelerator stood there for each of the demo's eighty computations."""
    for _ in range(2):
        with Screen(json=False):
            for text in ("no accelerator", "no accelerator", "another thing"):
                logging.getLogger("landscape").info(text)
    assert capsys.readouterr().err.splitlines() == ["notice: no accelerator", "notice: another thing"] * 2

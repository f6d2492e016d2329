"""How far a command is: what is said of the time that is left, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from landscape_cli.progress import Progress, Task


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_left_follows_from_what_was_done_here_and_from_nothing_else():
    task = Task(began=0.0, at_first=10, heard=20.0, done=14, total=24, note="loss 0.1")  # ten were stored already
    assert task.left(20.0) == "about 50 s left"
    assert task.left(30.0) == "about 40 s left"  # the clock runs while a unit is under way
    assert task.line("runs", 20.0) == "runs: 14/24 about 50 s left loss 0.1"
    assert Task(0.0, 0, 20.0, 0, 24, "").left(20.0) == ""
    assert Task(0.0, 0, 20.0, 5, None, "").left(20.0) == ""


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    progress = Progress(clock)
    for done in range(5):
        progress.report("figures", done, 8, "unseen")
        clock.now += 6
    assert capsys.readouterr().err.splitlines() == [
        "figures: 2/8 about 36 s left unseen",
        "figures: 4/8 about 24 s left unseen",
    ]


def test_bars_come_back_after_something_was_printed(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    progress = Progress(clock)
    progress.show()
    progress.report("figures", 0, 4, "contour")
    clock.now += 5
    progress.report("figures", 1, 4, "unseen")
    progress.hide()
    before = len(screen.getvalue())
    clock.now += 5
    progress.report("figures", 2, 4, "domains")
    progress.hide()
    again = screen.getvalue()[before:]
    assert "2/4" in again
    assert "about 10 s left" in again
    progress.report("figures", 4, 4)
    progress.hide()
    assert "figures" not in screen.getvalue()[before + len(again) :]

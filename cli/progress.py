"""How far a command is: bars on a terminal, elsewhere a line now and then; and how long the rest will take."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .streams import tell

_SECONDS_BETWEEN_LINES = 10.0
_IDLE = "working"


def duration(seconds: float) -> str:
    """A span of time for people, no more exact than it can be known.

    Example:
        >>> duration(0.4), duration(42.3), duration(400), duration(9000)
        ('1 s', '42 s', '7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass
class Task:
    """One thing that is counted.

    Attributes:
        began: When it was first heard of.
        at_first: How much of it was done then: what was found stored took no time.
        heard: When it was last heard of.
        done: Units, then.
        total: Units in all; None: unknown.
        note: What else is known.
    """

    began: float
    at_first: int
    heard: float
    done: int
    total: int | None
    note: str

    def left(self, now: float) -> str:
        """The time that the rest takes at the pace so far; empty before a unit is done, or where none is known."""
        if not self.total or self.done <= self.at_first or self.done >= self.total:
            return ""
        pace = (self.heard - self.began) / (self.done - self.at_first)
        return f"about {duration(pace * (self.total - self.done) - (now - self.heard))} left"

    def line(self, name: str, now: float) -> str:
        """All of it in words."""
        of = f"/{self.total}" if self.total else ""
        return " ".join(part for part in (f"{name}: {self.done}{of}", self.left(now), self.note) if part)


class Progress:
    """Tasks that are under way, on stderr: nobody looks for long at a screen on which nothing happens.

    Args:
        clock: Seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tasks: dict[str, Task] = {}
        self._said = self._heard = clock()
        self._last = ""
        self._bars: Any = None
        self._rows: dict[str, Any] = {}
        self._over = threading.Event()
        self._watch: threading.Thread | None = None

    def begin(self) -> None:
        """From now on something is seen."""
        if sys.stderr.isatty():
            self.show()
        else:
            self._watch = threading.Thread(target=self._break_silence, name="silence", daemon=True)
            self._watch.start()

    def end(self) -> None:
        """Nothing is under way any more."""
        self._over.set()
        if self._watch is not None:
            self._watch.join()
        self.hide()

    def report(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Take notice, and show it."""
        now = self._clock()
        task = self._tasks.setdefault(name, Task(now, done, now, done, total, note))
        task.heard, task.done, task.total, task.note = now, done, total, note
        finished = total is not None and done >= total
        if finished:
            del self._tasks[name]
        self._heard, self._last = now, task.line(name, now)
        if sys.stderr.isatty():
            self._show(name, task, finished)
        elif now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            tell(self._last)

    def _break_silence(self) -> None:
        """Say, where nothing was said for a while, what was heard last, and since when nothing was."""
        while not self._over.wait(min(1.0, _SECONDS_BETWEEN_LINES)):
            now = self._clock()
            if now - self._said >= _SECONDS_BETWEEN_LINES:
                self._said = now
                old = now - self._heard >= _SECONDS_BETWEEN_LINES
                since = [f"nothing new for {now - self._heard:.0f} s"] if old or not self._last else []
                tell(", and ".join([*([self._last] if self._last else []), *since]))

    def show(self) -> None:
        """Let a terminal show that something is under way."""
        if sys.stderr.isatty() and self._bars is None:
            self._bars = _bars(self._clock)
            self._rows = {name: self._row(name, task) for name, task in self._tasks.items()}
            self._idle()
            self._bars.start()

    def hide(self) -> None:
        """Take the bars away, until something is reported again."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _show(self, name: str, task: Task, finished: bool) -> None:
        if self._bars is None:
            return None if finished else self.show()
        if _IDLE in self._rows:
            self._bars.remove_task(self._rows.pop(_IDLE))
        if finished:
            if name in self._rows:
                self._bars.remove_task(self._rows.pop(name))
            self._idle()
        elif name in self._rows:
            self._bars.update(self._rows[name], completed=task.done, total=task.total, note=task.note)
        else:
            self._rows[name] = self._row(name, task)
        return None

    def _idle(self) -> None:
        """Show that the command is alive where no task is."""
        if not self._rows:
            now = self._clock()
            self._rows[_IDLE] = self._row(_IDLE, Task(now, 0, now, 0, None, ""))

    def _row(self, name: str, task: Task) -> Any:
        return self._bars.add_task(name, total=task.total, completed=task.done, note=task.note, pace=task)


def _bars(clock: Callable[[], float]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(task.fields["pace"].left(clock()))

    class Done(MofNCompleteColumn):
        def render(self, task: Any) -> Text:
            return super().render(task) if task.total else Text(f"{task.completed:.0f}" if task.completed else "")

    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        Done(),
        Left(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )

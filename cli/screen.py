"""What a person sees: tables on stdout, progress and notices on stderr; with ``--json`` only the latter."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from landscape.base.errors import LandscapeError
from landscape.base.labels import shown as printable
from landscape.base.progress import reporting

from .flags import in_flags
from .progress import Progress
from .streams import tell

MOST_ROWS = 60  # of a table or a list; what is longer nobody reads on a screen
MOST_COLUMNS = 24
MOST_BLOCKS = 20  # of targets, each with its own table


def shown(text: object) -> str:
    """What the library says, in flags and letters of a terminal."""
    return in_flags(printable(text))


class _Notices(logging.Handler):
    """What the library logs, each sentence once in a command."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        said = shown(" ".join(record.getMessage().split()))
        if said not in self._told:
            self._told.add(said)
            tell(f"notice: {said}")


class Screen:
    """Output of one command; use as a context.

    Args:
        json: Stdout is reserved for one JSON object; `line` and `table` are silent.
        silent: Say nothing at all: of several processes one speaks.
    """

    def __init__(self, *, json: bool, silent: bool = False) -> None:
        self.json, self._silent = json or silent, silent
        self.failure: LandscapeError | None = None  # raised after the output was shown
        self._progress = Progress()
        self._handler: logging.Handler = logging.NullHandler() if self._silent else _Notices()
        self._reporting = reporting(self._report)

    def __enter__(self) -> Screen:
        logger = logging.getLogger("landscape")
        self._before = logger.level, logger.propagate
        logger.propagate = False
        logger.addHandler(self._handler)
        if self._silent:
            return self
        logger.setLevel(logging.INFO)
        self._reporting.__enter__()
        self._progress.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger("landscape")
        logger.setLevel(self._before[0])
        logger.propagate = self._before[1]
        logger.removeHandler(self._handler)
        if self._silent:
            return
        self._progress.end()
        self._reporting.__exit__(kind, value, trace)

    def finish(self) -> None:
        """Take the progress bars away; what is under way brings them back."""
        self._progress.hide()

    # -- stdout -------------------------------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """Print a line of text, wrapped at the terminal's width; what follows the first line is indented."""
        if not self.json:
            self.finish()
            for part in text.split("\n"):
                print(_wrapped(shown(part), _console().width))

    def lines(self, texts: Sequence[str], most: int = MOST_ROWS) -> None:
        """Print lines, and of very many the first ones and how many more there are."""
        for text in texts[:most]:
            self.line(text)
        self.left_out(len(texts) - most)

    def paths(self, label: str, found: Sequence[object]) -> None:
        """Print paths as `path` does, and of very many the first ones and how many more there are."""
        for one in found[:MOST_ROWS]:
            self.path(label, one)
        self.left_out(len(found) - MOST_ROWS)

    def left_out(self, count: int, of: str = "") -> None:
        """Say how many of what was not printed; nothing where it is none."""
        if count > 0:
            self.line(f"... and {count:,} more {of} (--json has all)".replace("  ", " "))

    def path(self, label: str, path: object) -> None:
        """Print a path, never wrapped, so that it can be copied."""
        if not self.json:
            self.finish()
            print(f"{label}: {shown(path)}")

    def facts(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Print names and values, one per line, never wrapped."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in () if self.json else pairs:
            self.finish()
            print(f"{shown(name):<{width}}  {shown(value)}")

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[object]],
        title: str = "",
        may_go: Sequence[str] = (),
    ) -> None:
        """Print a table; the first column is left-aligned, the others right-aligned.

        Of very many rows or columns the first ones are printed, and how many more there are.

        Args:
            headers: Of the columns.
            rows: Cells.
            title: A line above.
            may_go: Columns that a terminal too narrow for all does without, the first one first; it is said which.
        """
        if self.json:
            return
        self.finish()
        if title:
            self.line(title)
        console, gone = _console(), 0
        wide = console.options.update(max_width=10_000)
        while True:
            kept = [i for i, h in enumerate(headers[:MOST_COLUMNS]) if h not in may_go[:gone]]
            table = _table([headers[i] for i in kept], [[row[i] for i in kept] for row in rows[:MOST_ROWS]])
            if gone == len(may_go) or table.__rich_measure__(console, wide).maximum <= console.width:
                break
            gone += 1
        console.print(table)
        if gone:
            self.line(f"no room for {', '.join(may_go[:gone])}: a wider terminal shows them, --json has all")
        self.left_out(len(rows) - MOST_ROWS)
        self.left_out(len(headers) - MOST_COLUMNS, "columns")

    def _report(self, task: str, done: int, total: int | None, note: str = "") -> None:
        self._progress.report(task, done, total, shown(note))


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, header in enumerate(headers):
        table.add_column(Text(shown(header)), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


def _wrapped(text: str, width: int) -> str:
    from rich.cells import cell_len

    indent = text[: len(text) - len(text.lstrip())]
    lines, line = [], indent
    for word in text.split():
        longer = f"{line} {word}" if line.strip() else line + word
        if line.strip() and cell_len(longer) > width:
            lines.append(line)
            line = f"{indent}  {word}"
        else:
            line = longer
    return "\n".join([*lines, line]) if text.strip() and cell_len(text) > width else text


def _console() -> Any:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:  # rich would leave with exit code 1; nobody listening is no error
            raise BrokenPipeError

    said = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Plain(file=sys.stdout, width=None if said else 120)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table, or a dash."""
    return "–" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"

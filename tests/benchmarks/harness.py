"""What all benchmarks share: interleaved timing in one process, and a JSON and a Markdown file of the results."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from landscape.base.allocator import keep_freed_memory

HERE = Path(__file__).parent
LIBRARY = str(HERE.parent.parent / "landscape")

Spread = tuple[float, float, float]
"""Minimum, median and maximum over rounds."""

KEPT = keep_freed_memory()  # as in every command; for us and for every peer alike


def options(doc: str | None, repeat: int) -> argparse.Namespace:
    """The flags of every benchmark: ``--repeat``, ``--short``, ``--only`` and ``--out`` (else nothing is written)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--short", action="store_true", help="small work that needs no published material")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="some networks; those that were stored stay")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.short:
        asked.repeat = 9  # three rounds in each third of a `ratio`
    return asked


def interleaved(
    cases: Mapping[str, Callable[[], Any]], repeat: int, warm_up: int = 1, enough: float = 240.0
) -> dict[str, list[float]]:
    """Seconds of each case, all cases once per round, so that a slow minute of the machine hits all alike.

    With one thread on a CPU it is processor time, which other programs of the machine disturb least; else wall time.
    No round begins after ``enough`` seconds, once there are two.
    """
    import torch

    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone else time.perf_counter
    for call in cases.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    began = time.perf_counter()
    for done in range(repeat):
        if done >= 2 and time.perf_counter() - began > enough:
            break
        for name, call in cases.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, Spread]:
    """Minimum, median and maximum over the rounds of each case's time over that of ``base`` in the same round."""
    return {name: spread(ratio(values, seconds[base])) for name, values in seconds.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """How ``above`` compares with ``below``, both of the same rounds.

    ``least``, ``median`` and ``most`` are over the rounds. ``thirds`` are for `bounds`: of every third round, the
    least ``above`` over the least ``below``. Other work on the machine only adds time, to either, so the least times
    are the truest; and how the three differ is the noise that is left in them.
    """
    shares = [a / b for a, b in zip(above, below, strict=True)]
    thirds = [min(above[i::3]) / min(below[i::3]) for i in range(min(3, len(shares)))]
    return {"least": min(shares), "median": statistics.median(shares), "most": max(shares), "thirds": thirds}


def spread(found: Mapping[str, Any]) -> Spread:
    """Minimum, median and maximum of a `ratio`."""
    return found["least"], found["median"], found["most"]


def bar(
    task: str,
    *,
    floor: Mapping[str, Any] | None = None,
    most: float | None = None,
    peer: str | None = None,
    faster: Mapping[str, Any] | None = None,
    least: float | None = None,
    unit: str = "",
) -> dict[str, Any]:
    """A line of the summary: our cost over what the task needs at least, and over that of the best peer.

    Args:
        task: The work in a few words.
        floor: Our cost over what the task cannot do without, as a `ratio`; None where no floor is argued.
        most: What the median of ``floor`` may be.
        peer: The fastest peer that reached the same accuracy; None if none did or none is installed.
        faster: Its time over ours, as a `ratio`.
        least: What the median of ``faster`` shall reach.
        unit: Of ``floor`` where it is no ratio but a cost with a limit, such as seconds.
    """
    return {
        "task": task, "floor": floor, "most": most, "unit": unit, "peer": peer, "faster": faster, "least": least,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Where, when, with what, and of which commit ("+" where the library differs from it)."""
    import torch

    threads = torch.get_num_threads()
    facts: dict[str, Any] = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy")},
        "threads": threads,
        "freed_memory": "kept" if KEPT else "returned",
        "clock": "processor" if threads == 1 and not torch.cuda.is_available() else "wall",
    }
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", LIBRARY) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def beside_stored(out: Path | None, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with its date and commit, after those of other tasks that are stored already."""
    where = {k: v for k, v in machine().items() if k in ("date", "commit")}
    file = out / f"{name}.json" if out else None
    stored = json.loads(file.read_text())["rows"] if file and file.is_file() else []

    def task(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["network"], row.get("top"), row.get("tol")

    measured = {task(row) for row in rows}
    return [row for row in stored if task(row) not in measured] + [{**row, **where} for row in rows]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(out: Path | None, name: str, title: str, text: str, facts: Mapping[str, Any]) -> None:
    """Print the table; with ``out`` also write ``NAME.json`` and ``NAME.md`` there."""
    print(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    where = machine()
    (out / f"{name}.json").write_text(json.dumps({**where, **facts}, indent=1, allow_nan=False) + "\n")
    (out / f"{name}.md").write_text(f"# {title}\n\n{'; '.join(f'{k} {v}' for k, v in where.items())}\n\n{text}\n")

"""What all benchmarks share: interleaved timing in one process, and a JSON and a Markdown file of the results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Spread = tuple[float, float, float]
"""Minimum, median and maximum over rounds."""


def options(doc: str | None, repeat: int) -> argparse.Namespace:
    """The flags of every benchmark: ``--repeat``, ``--short`` and ``--out`` (a folder; else nothing is written)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--short", action="store_true", help="small work that needs no published material")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def interleaved(cases: Mapping[str, Callable[[], Any]], repeat: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each case, all cases once per round, so that a slow minute of the machine hits all alike.

    With one thread on a CPU it is processor time, which other programs of the machine disturb least; else wall time.
    """
    import torch

    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone else time.perf_counter
    for call in cases.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeat):
        for name, call in cases.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, Spread]:
    """Minimum, median and maximum over the rounds of each case's time over that of ``base`` in the same round."""
    found = {}
    for name, values in seconds.items():
        shares = [v / b for v, b in zip(values, seconds[base], strict=True)]
        found[name] = (min(shares), statistics.median(shares), max(shares))
    return found


def bar(
    task: str, *, floor: Spread | None = None, peer: str | None = None, faster: Spread | None = None, target: float
) -> dict[str, Any]:
    """A line of the summary: our cost over what the task needs at least, and over that of the best peer.

    Args:
        task: The work in a few words.
        floor: Our cost over what the task cannot do without, in the same unit; None where no floor is argued.
        peer: The fastest peer that reached the same accuracy; None if none did or none is installed.
        faster: Its time over ours.
        target: What ``faster`` shall reach.
    """
    return {"task": task, "floor": floor, "peer": peer, "faster": faster, "target": target}


def machine() -> dict[str, Any]:
    """Where and when."""
    facts: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    import torch

    threads = torch.get_num_threads()
    facts |= {"torch": str(torch.__version__), "threads": threads}
    facts["clock"] = "processor" if threads == 1 and not torch.cuda.is_available() else "wall"
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
    return facts


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
    (out / f"{name}.json").write_text(json.dumps({**where, **facts}, indent=1) + "\n")
    (out / f"{name}.md").write_text(f"# {title}\n\n{'; '.join(f'{k} {v}' for k, v in where.items())}\n\n{text}\n")

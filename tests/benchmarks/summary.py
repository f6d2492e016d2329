"""One table out of all stored benchmarks: cost over the floor, and against the best peer.

Run it with the folder: ``python tests/benchmarks/summary.py [gallery/benchmarks]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness import table


def headlines(folder: Path) -> list[dict[str, Any]]:
    """The summary lines of every stored benchmark, in the order of their files."""
    found: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.json")):
        found += json.loads(file.read_text()).get("headline", [])
    return found


def summary(folder: Path) -> str:
    """The Markdown table: task, cost over the floor, the best peer, how much slower it is, and the target."""
    rows = []
    for line in headlines(folder):
        floor = f"{line['floor'][1]:.2f}" if line["floor"] else "–"
        if line["faster"]:
            least, median, most = line["faster"]
            faster = f"{median:.2f} ({least:.2f} to {most:.2f})"
            met = "met" if median >= line["target"] else "**missed**"
        else:
            faster, met = "–", "–"
        rows.append([line["task"], floor, line["peer"] or "none", faster, f"{line['target']:g}", met])
    return table(["task", "cost / floor", "best peer of equal accuracy", "its time / ours", "target", ""], rows)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1] if len(sys.argv) > 1 else "gallery/benchmarks")))

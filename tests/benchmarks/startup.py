"""How long the command takes to say anything: ``--help`` of every command, and importing the library.

    python tests/benchmarks/startup.py [--repeat 7] [--out gallery/benchmarks]

Work: a fresh process each time. Floor: the bare interpreter, ``python -c pass``. Printed and stored are minimum,
median and maximum of wall seconds over the repetitions, interleaved. Target: every ``--help`` under 0.5 s, the
import under 0.2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from landscape_cli.app import COMMANDS

SCRIPT = str(Path(sys.executable).with_name("landscape"))


def cases() -> dict[str, list[str]]:
    help_of = {f"landscape {c} --help".replace("  ", " "): [SCRIPT, *c.split(), "--help"] for c in ("", *COMMANDS)}
    python = [sys.executable, "-c"]
    return {"python -c pass": [*python, "pass"], "import landscape": [*python, "import landscape"], **help_of}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in cases()}
    for _ in range(options.repeat):
        for name, words in cases().items():
            start = time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    rows = {n: (min(s), statistics.median(s), max(s)) for n, s in seconds.items()}
    lines = ["| case | min s | median s | max s |", "|---|---|---|---|"]
    lines += [f"| `{n}` | {a:.3f} | {b:.3f} | {c:.3f} |" for n, (a, b, c) in rows.items()]
    print("\n".join(lines))
    if options.out:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        date = datetime.now(UTC).date().isoformat()
        facts = {"machine": machine, "date": date, "repeat": options.repeat, "seconds": seconds}
        (options.out / "startup.json").write_text(json.dumps(facts, indent=1) + "\n")
        head = f"# Start-up\n\n{machine}; {date}; {options.repeat} repetitions, wall seconds of a fresh process.\n\n"
        (options.out / "startup.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

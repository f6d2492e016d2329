"""How long the command takes to say anything: ``--help`` of every command, the import, and a first small analysis.

    python tests/benchmarks startup [--repeat 7] [--out gallery/benchmarks]

Work: a fresh process each time, interleaved. With one thread the seconds are the processor's (user and system), which
other programs of the machine disturb least; wall seconds are stored beside them, and are the same on an idle machine
once files are in its memory. Floors: the bare interpreter, ``python -c pass``, and for
the analysis the import of torch. The analysis is ``landscape hessian`` of a perceptron of one hidden layer on the
embedded digits, from a checkpoint file. Targets: every ``--help`` under 0.5 s, the import of the library, which does
not import torch, under 0.2 s, the analysis under 5 s in total.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import bar, options, publish, ratio, table
from landscape_cli.app import COMMANDS

ALONE = os.environ.get("OMP_NUM_THREADS") == "1"
SCRIPT = str(Path(sys.executable).with_name("landscape"))
HESSIAN = ["hessian", "weights.pt", "--model", "mlp", "--model-arg", "hidden=[16]", "--data", "digits", "--force"]
NETWORK = "landscape.models.mlp.mlp([1, 8, 8], 10, hidden=[16])"
SAVE = f"import torch, landscape.models.mlp; torch.save({NETWORK}.state_dict(), {{!r}})"


def cases() -> dict[str, list[str]]:
    """Name and words of every process."""
    python = [sys.executable, "-c"]
    return {
        "python -c pass": [*python, "pass"],
        "import torch": [*python, "import torch"],
        "import landscape": [*python, "import landscape"],
        **{f"landscape {c} --help".replace("  ", " "): [SCRIPT, *c.split(), "--help"] for c in ("", *COMMANDS)},
        "landscape hessian, small MLP": [SCRIPT, *HESSIAN],
    }


def target(name: str) -> float | None:
    """Seconds that a case may take."""
    if name.endswith("--help"):
        return 0.5
    return {"import landscape": 0.2, "landscape hessian, small MLP": 5.0}.get(name)


def headline(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Seconds of what has a target, the slowest ``--help`` for all."""
    helps = [name for name in seconds if name.endswith("--help")]
    slowest = max(helps, key=lambda name: statistics.median(seconds[name]))
    shown = {"import landscape": "import landscape", f"{slowest} (the slowest help)": slowest}
    shown |= {"landscape hessian, small MLP, in all": "landscape hessian, small MLP"}
    ones = [1.0] * len(seconds[slowest])
    return [bar(task, floor=ratio(seconds[name], ones), most=target(name), unit="s") for task, name in shown.items()]


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 7)
    seconds: dict[str, list[float]] = {name: [] for name in cases()}
    wall: dict[str, list[float]] = {name: [] for name in cases()}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", SAVE.format(str(Path(folder) / "weights.pt"))], check=True)
        for _ in range(asked.repeat):
            for name, words in cases().items():
                start, used = time.perf_counter(), _processor_seconds()
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=folder, env={**os.environ})
                wall[name].append(time.perf_counter() - start)
                seconds[name].append(_processor_seconds() - used if ALONE else wall[name][-1])
    rows = []
    for name, values in seconds.items():
        middle, limit = statistics.median(values), target(name)
        verdict = "" if limit is None else "met" if middle <= limit else "**missed**"
        cells = [f"{v:.3f}" for v in (min(values), middle, max(values))]
        rows.append([f"`{name}`", *cells, f"{min(wall[name]):.3f}", "" if limit is None else f"{limit:g}", verdict])
    text = table(["a fresh process", "min s", "median s", "max s", "least wall s", "target s", ""], rows)
    publish(asked.out, "startup", "Start-up", text, {"seconds": seconds, "wall": wall, "headline": headline(seconds)})


if __name__ == "__main__":
    main()

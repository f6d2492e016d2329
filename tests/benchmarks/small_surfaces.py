"""Planes of a small network: several points in a pass, beside one at a time and beside bare forward passes.

    python tests/benchmarks small_surfaces [--repeat 9] [--out gallery/benchmarks]

Work: the mean loss and accuracy of the MLP at 21 x 21 points. Floor: as many bare forward passes, weights unmoved, no
loss. A pass over few examples is mostly calls, which stacked weights share; with many examples it is
multiplications, of which stacking saves none. Target: half of the bare passes, and never slower than one at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import bar, interleaved, options, publish, ratio, ratios, table
from networks import Work, mlp

import landscape
from landscape.surfaces.evaluate import grid
from landscape.surfaces.evaluate.stacked import Choice, choose

POINTS = 21
EXAMPLES = (64, 128, 256, 1000)


def measure(work: Work, repeat: int) -> dict[str, Any]:
    """Seconds of each way, in turns."""
    problem = work.problem()
    taken: list[Choice] = []

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(POINTS**2):
            work.model(work.inputs)

    def plane(singly: bool) -> None:
        grid.choose = (lambda *_: Choice(1, "asked for")) if singly else choose
        taken.append(Choice(**landscape.surface(problem, points=POINTS, range=0.5)["passes"]))

    ways = {
        "bare forward passes": forwards,
        "one at a time": partial(plane, True),
        "as chosen": partial(plane, False),
    }
    seconds = interleaved(ways, repeat)
    grid.choose = choose
    return {
        "examples": len(work.targets),
        "rounds": seconds,
        "forwards": {k: list(v) for k, v in ratios(seconds, "bare forward passes").items()},
        "at_once": [c.at_once for c in taken if c.because != "asked for"],
        "floor": ratio(seconds["as chosen"], seconds["bare forward passes"]),
        "singly": ratio(seconds["one at a time"], seconds["as chosen"]),
    }


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 9)
    rows = [measure(mlp(n), asked.repeat) for n in EXAMPLES]
    lines = [
        bar(
            f"surface of 21 x 21, MLP 64-64-64-10, {r['examples']} examples",
            floor=r["floor"],
            most=0.5,
            peer="one point at a time",
            faster=r["singly"],
            least=1.0,
        )
        for r in rows
    ]
    cells = [
        [
            str(r["examples"]),
            f"{1e6 * min(r['rounds']['bare forward passes']) / POINTS**2:.0f}",
            *(f"{v[1]:.2f} ({v[0]:.2f} to {v[2]:.2f})" for k, v in r["forwards"].items() if k[0] != "b"),
            ", ".join(str(k) for k in sorted(set(r["at_once"]))),
        ]
        for r in rows
    ]
    head = ["examples", "us per bare pass", "one at a time / bare", "as chosen / bare", "points in a pass"]
    facts = {"rows": rows, "headline": lines}
    publish(asked.out, "small_surfaces", "Planes of a small network", table(head, cells), facts)


if __name__ == "__main__":
    main()

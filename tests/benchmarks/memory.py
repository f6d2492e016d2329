"""Peak memory of a surface and of m-sharpness beside that of a training step on the same examples.

    python tests/benchmarks memory [--repeat 3] [--only NETWORK...] [--out gallery/benchmarks]

Each case runs in a process of its own, which has loaded torch, the network, its examples and, by a tiny network, all
that it measures with. What counts is how far the resident memory rises above that while it works, beside the same of
SGD with momentum: one forward pass, one backward pass, one step. A surface needs no graph, but two directions, the
centre and, where points share a pass, a row of weights for each; a block of m-sharpness is a gradient, and several
blocks at once are several of them. Target: at most a training step's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import bar, options, publish, ratio, table
from networks import Work, random_resnet20
from torch import nn

import landscape

MEGABYTE = 2**20
CASES = ("a training step", "surface, 9 x 9", "m-sharpness, m = 1", "m-sharpness, m = 16")


def wide() -> Work:
    """A perceptron of 4.3 million parameters, whose weights are more than its activations."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 2048), nn.Tanh(), nn.Linear(2048, 2048), nn.Tanh(), nn.Linear(2048, 10))
    return Work("wide MLP", model.eval(), torch.randn(64, 64), torch.arange(64) % 10)


NETWORKS: dict[str, Callable[[], Work]] = {
    "wide MLP": wide,
    "ResNet-20": partial(random_resnet20, 64),
}


def memory(what: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def risen(call: Callable[[], object]) -> int:
    """How far the largest memory rises above the present one during a call."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    call()
    return memory("VmHWM") - before


def of(network: str, case: str) -> int:
    """Bytes of one case, in this process."""
    work = NETWORKS[network]()
    tiny = landscape.Problem(nn.Linear(4, 3), (torch.randn(8, 4), torch.arange(8) % 3))
    landscape.surface(tiny, points=9)
    landscape.sharpness(tiny, m=(1, 4))
    if case == CASES[0]:
        model = work.model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

        def step() -> None:
            work.criterion(model(work.inputs), work.targets).backward()
            optimizer.step()

        return risen(step)
    problem = work.problem()
    if case.startswith("surface"):
        return risen(partial(landscape.surface, problem, points=9, range=0.5))
    m = int(case.rpartition(" ")[2])
    return risen(partial(landscape.sharpness, problem, m=(m,)))


def main() -> None:
    """Measure, print, store."""
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(of(*sys.argv[2:4])))
        return
    asked = options(__doc__, 3)
    rows, lines = [], []
    for network in asked.only or NETWORKS:
        found: dict[str, list[float]] = {}
        for case in CASES:
            words = [sys.executable, __file__, "--case", network, case]
            done = [subprocess.run(words, capture_output=True, text=True, check=True) for _ in range(asked.repeat)]
            found[case] = [json.loads(d.stdout.splitlines()[-1]) / MEGABYTE for d in done]
        for case in CASES:
            rows.append({"network": network, "case": case, "megabytes": found[case]})
        for case in CASES[1:]:
            lines.append(bar(f"memory of {case}, {network}", floor=ratio(found[case], found[CASES[0]]), most=1.0))
    cells: list[list[str]] = [[r["network"], r["case"], f"{min(r['megabytes']):.1f}"] for r in rows]
    text = table(["network", "case", "MB above network and examples"], cells)
    facts: dict[str, Any] = {"rows": rows, "headline": lines}
    publish(asked.out, "memory", "Peak memory beside a training step's", text, facts)


if __name__ == "__main__":
    main()

"""What m-sharpness costs, one step at one radius, against its floor and against a plain loop over blocks.

    python tests/benchmarks sharpness [--repeat 5] [--device cpu] [--short] [--out gallery/benchmarks]

Work: float32, N random examples, blocks of m. Floor: bare torch, one gradient and one forward per example, in
batches of max(m, 256). Blocks: the same, block by block. Loop and stacked: the two ways of
`landscape.measures.engine.blockwise`; rule: the one that it picks by itself. Each repetition times all of them one
after the other; shown are the least times over the repetitions and their ratios (other work on a machine only adds),
stored are all. Targets: rule at most 1.25 times the floor for m >= 64; rule at least 5 times faster than the loop for
m <= 4 on the MLP and on the small convnet (8x8 images). `--only` measures some networks, `--short` a few rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import bar, beside_stored, publish, ratio, table
from torch import nn

from landscape.measures.engine.blockwise import STACK_BELOW, rule
from landscape.measures.engine.flops import forward_work
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.engine.partition import partition
from landscape.measures.m_sharpness import block_sharpness
from landscape.models.convnet import ConvNet
from landscape.models.mlp import MLP
from landscape.models.resnet import resnet20
from landscape.problem.problem import Problem

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-64-64-10": (lambda: MLP((64, 64, 64, 10), "relu"), (1, 8, 8)),
    "convnet 8x8": (lambda: ConvNet((1, 16, 32, 32), (8, 8), 10, False, "relu"), (1, 8, 8)),
    "convnet 32x32": (lambda: ConvNet((3, 16, 32, 32), (32, 32), 10, False, "relu"), (3, 32, 32)),
    "ResNet-20 32x32": (resnet20, (3, 32, 32)),
}
FIVE_TIMES = ("MLP 64-64-64-10", "convnet 8x8")

CASES: dict[str, dict[int, int]] = {  # examples for each m
    "MLP 64-64-64-10": {1: 1024, 2: 1024, 4: 1024, 16: 4096, 64: 4096, 256: 4096},
    "convnet 8x8": {1: 512, 2: 512, 4: 512, 16: 1024, 64: 2048, 256: 2048},
    "convnet 32x32": {1: 128, 2: 128, 4: 256, 16: 512, 64: 512, 256: 512},
    "ResNet-20 32x32": {1: 16, 4: 32, 16: 64, 64: 256},
}
SHORT: dict[str, dict[int, int]] = {"MLP 64-64-64-10": {1: 256, 256: 4096}, "convnet 8x8": {1: 128, 256: 1024}}


def bare(problem: Problem, x: Any, y: Any, size: int) -> None:
    """One gradient and one forward of each example, in batches of ``size``."""
    weights = list(problem.model.parameters())
    for start in range(0, len(x), size):
        inputs, targets = x[start : start + size], y[start : start + size]
        torch.autograd.grad(F.cross_entropy(problem.model(inputs), targets), weights)
        with torch.no_grad():
            F.cross_entropy(problem.model(inputs), targets)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU seconds of the process, which other work on the machine disturbs least; wall seconds on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(name: str, m: int, examples: int, repeat: int, device: str) -> dict[str, Any]:
    make, image = NETWORKS[name]
    torch.manual_seed(0)
    x, y = torch.randn(examples, *image), torch.randint(0, 10, (examples,))
    problem = Problem(make(), (x, y), device=device)
    x, y = x.to(problem.device), y.to(problem.device)
    ball = [NormBall(0.05)]
    ways: dict[str, Callable[[], object]] = {
        "floor": lambda: bare(problem, x, y, max(m, 256)),
        "blocks": lambda: bare(problem, x, y, m),
        "loop": lambda: block_sharpness(problem, ball, m=m, way="loop"),
        "stacked": lambda: block_sharpness(problem, ball, m=m, way="stack"),
        "rule": lambda: block_sharpness(problem, ball, m=m),
    }
    choice = seconds(lambda: rule(problem, partition(problem, m, 0)), problem.device)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeat + 1):
        for way, work in ways.items():
            taken[way].append(seconds(work, problem.device))
    taken = {way: values[1:] for way, values in taken.items()}  # the first round warms up

    def least(a: str, b: str) -> float:
        return min(taken[a]) / min(taken[b])

    return {
        "network": name,
        "parameters": problem.n_parameters,
        "operations_per_block": (work := forward_work(problem, np.arange(1))).operations * m,
        "calls": work.calls,
        "m": m,
        "examples": examples,
        "choice_ms": 1000 * choice,
        "picked": rule(problem, partition(problem, m, 0)),
        "seconds": taken,
        "least_ms": {way: 1000 * min(values) for way, values in taken.items()},
        "rule_over_floor": least("rule", "floor"),
        "rule_over_blocks": least("rule", "blocks"),
        "loop_over_rule": least("loop", "rule"),
        "loop_over_stacked": least("loop", "stacked"),
    }


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network large blocks over the floor and small ones against the loop, each the worst of its kind."""
    lines = []

    def over(row: dict[str, Any], a: str, b: str) -> dict[str, Any]:
        return ratio(row["seconds"][a], row["seconds"][b])

    for network in dict.fromkeys(r["network"] for r in rows):
        large = [r for r in rows if r["network"] == network and r["m"] >= 64]
        small = [r for r in rows if r["network"] == network and r["m"] <= 4]
        if large:
            row = max(large, key=lambda r: over(r, "rule", "floor")["median"])
            task = f"m-sharpness, m >= 64, {network} (worst: {row['m']})"
            lines.append(bar(task, floor=over(row, "rule", "floor"), most=1.25))
        if small and network in FIVE_TIMES:
            row = min(small, key=lambda r: over(r, "loop", "rule")["median"])
            task = f"m-sharpness, m <= 4, {network} (worst: {row['m']})"
            faster, floor = over(row, "loop", "rule"), over(row, "rule", "floor")
            lines.append(bar(task, floor=floor, peer="a loop over blocks", faster=faster, least=5.0))
    return lines


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CASES)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.repeat = 9 if options.short else options.repeat
    cases = SHORT if options.short else CASES
    stem = "sharpness" if options.device == "cpu" else f"sharpness-{options.device}"
    rows = [
        measure(name, m, cases[name][m], options.repeat, options.device)
        for name in options.only or cases
        for m in cases[name]
    ]
    rows = beside_stored(options.out, stem, rows)
    rows.sort(key=lambda r: list(CASES).index(r["network"]))
    where = "wall" if options.device == "cuda" else "CPU"
    text = (
        f"{where} time, the least of the rounds, in which all ways take turns.\n\n"
        "Floor: one gradient and one forward per example in batches of max(m, 256), bare torch. Blocks: the same "
        "block by block. Loop, stacked: the two ways of `landscape.measures.engine.blockwise`; rule: what it "
        "picks.\n\n"
    )
    head = ["network", "m", "MFLOP/block", "floor ms", "blocks ms", "loop ms", "stacked ms", "rule ms (picked)"]
    text += table([*head, "rule/floor", "rule/blocks", "loop/rule"], [_cells(r) for r in rows])
    facts = {"stack_below": STACK_BELOW, "rows": rows, "headline": headline(rows)}
    publish(options.out, stem, "m-sharpness: one step, one radius", text, facts)


def _cells(r: dict[str, Any]) -> list[str]:
    times = [f"{r['least_ms'][way]:.1f}" for way in ("floor", "blocks", "loop", "stacked", "rule")]
    times[-1] += f" ({r['picked']})"
    shares = [f"{r['rule_over_floor']:.2f}", f"{r['rule_over_blocks']:.2f}", f"{r['loop_over_rule']:.1f}"]
    return [r["network"], str(r["m"]), f"{r['operations_per_block'] / 1e6:.3g}", *times, *shares]


if __name__ == "__main__":
    main()

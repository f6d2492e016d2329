"""What m-sharpness costs, one step at one radius, against its floor and against a plain loop over blocks.

    python tests/benchmarks/sharpness.py [--repeat 5] [--device cpu] [--out gallery/benchmarks]

Work: float32, N random examples, blocks of m. Floor: bare torch, one gradient and one forward per example, in
batches of max(m, 256). Blocks: the same, block by block. Loop and stacked: the two ways of
`landscape.measures.blockwise`; rule: the one that it picks by itself. Each repetition times all of them one after
the other; shown are the least times over the repetitions and their ratios (other work on a machine only adds),
stored are all. Targets: rule at most 1.25 times the floor for m >= 64; rule at least 5 times faster than the loop for
m <= 4 on the MLP and on the small convnet (8x8 images).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from landscape.measures.ball import Ball
from landscape.measures.blockwise import STACK_BELOW, rule
from landscape.measures.m_sharpness import block_sharpness
from landscape.measures.partition import partition
from landscape.measures.work import forward_work
from landscape.models.convnet import ConvNet
from landscape.models.mlp import MLP
from landscape.models.resnet import resnet20
from landscape.problem import Problem

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[int, int]]] = {
    # name: network, image, examples for each m
    "MLP 64-64-64-10": (
        lambda: MLP((64, 64, 64, 10), "relu"),
        (1, 8, 8),
        {1: 1024, 2: 1024, 4: 1024, 16: 4096, 64: 4096, 256: 4096},
    ),
    "convnet 8x8": (
        lambda: ConvNet((1, 16, 32, 32), (8, 8), 10, False, "relu"),
        (1, 8, 8),
        {1: 512, 2: 512, 4: 512, 16: 1024, 64: 2048, 256: 2048},
    ),
    "convnet 32x32": (
        lambda: ConvNet((3, 16, 32, 32), (32, 32), 10, False, "relu"),
        (3, 32, 32),
        {1: 128, 2: 128, 4: 256, 16: 512, 64: 512, 256: 512},
    ),
    "ResNet-20 32x32": (resnet20, (3, 32, 32), {1: 16, 4: 32, 16: 64, 64: 256}),
}


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


def measure(name: str, m: int, repeat: int, device: str) -> dict[str, Any]:
    make, image, counts = CASES[name]
    torch.manual_seed(0)
    x, y = torch.randn(counts[m], *image), torch.randint(0, 10, (counts[m],))
    problem = Problem(make(), (x, y), device=device)
    x, y = x.to(problem.device), y.to(problem.device)
    ball = [Ball(0.05)]
    ways: dict[str, Callable[[], object]] = {
        "floor": lambda: bare(problem, x, y, max(m, 256)),
        "blocks": lambda: bare(problem, x, y, m),
        "loop": lambda: block_sharpness(problem, ball, m=m, way="loop"),
        "stacked": lambda: block_sharpness(problem, ball, m=m, way="stack"),
        "rule": lambda: block_sharpness(problem, ball, m=m),
    }
    choice = seconds(lambda: rule(problem, partition(problem.examples, m, 0)), problem.device)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeat + 1):
        for way, work in ways.items():
            taken[way].append(seconds(work, problem.device))
    taken = {way: values[1:] for way, values in taken.items()}  # the first round warms up

    def ratio(a: str, b: str) -> float:
        return min(taken[a]) / min(taken[b])

    return {
        "network": name,
        "parameters": problem.n_parameters,
        "operations_per_block": (work := forward_work(problem, np.arange(1))).operations * m,
        "calls": work.calls,
        "m": m,
        "examples": counts[m],
        "choice_ms": 1000 * choice,
        "picked": rule(problem, partition(problem.examples, m, 0)),
        "seconds": taken,
        "least_ms": {way: 1000 * min(values) for way, values in taken.items()},
        "rule_over_floor": ratio("rule", "floor"),
        "rule_over_blocks": ratio("rule", "blocks"),
        "loop_over_rule": ratio("loop", "rule"),
        "loop_over_stacked": ratio("loop", "stacked"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    head = (
        "| network | m | MFLOP/block | floor ms | blocks ms | loop ms | stacked ms | rule ms (picked) "
        "| rule/floor | rule/blocks | loop/rule |\n" + "|---" * 11 + "|"
    )
    lines = [head]
    print(head)
    for name, (_, _, counts) in CASES.items():
        for m in counts:
            row = measure(name, m, options.repeat, options.device)
            rows.append(row)
            t = row["least_ms"]
            lines.append(
                f"| {name} | {m} | {row['operations_per_block'] / 1e6:.3g} | {t['floor']:.1f} | {t['blocks']:.1f} "
                f"| {t['loop']:.1f} | {t['stacked']:.1f} | {t['rule']:.1f} ({row['picked']}) "
                f"| {row['rule_over_floor']:.2f} | {row['rule_over_blocks']:.2f} | {row['loop_over_rule']:.1f} |"
            )
            print(lines[-1], flush=True)
    if options.out:
        where = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
        machine = f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
        facts = {"machine": machine, "date": datetime.now(UTC).date().isoformat(), "repeat": options.repeat}
        facts["stack_below"] = STACK_BELOW
        stem = "sharpness" if options.device == "cpu" else f"sharpness-{options.device}"
        (options.out / f"{stem}.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
        text = (
            f"# m-sharpness: one step, one radius\n\n{machine}; {facts['date']}; "
            f"{'wall' if options.device == 'cuda' else 'CPU'} time, the least of {options.repeat} interleaved"
            " rounds.\n\nFloor: one gradient and one forward per example in batches of max(m, 256), bare torch. "
            "Blocks: the same block by block. Loop, stacked: the two ways of `landscape.measures.blockwise`; "
            "rule: what it picks.\n\n"
        )
        (options.out / f"{stem}.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""How cost grows with examples, parameters, wanted pairs, grid points and processes, and how memory grows.

    python tests/benchmarks growth [--repeat 5] [--out gallery/benchmarks]

Each series is fitted as cost = c * size^exponent by least squares of the logarithms over its larger half, and
compared with what it should be: products cost in proportion to examples and (at fixed examples) to parameters; the
products that k pairs take grow slower than k; a surface costs in proportion to its points. Memory is the peak of a
fresh process over that of the same process before the solver starts, against what the method needs: the kept basis in
float64, four work vectors and the graph. Target: within 1.2. Processes share the examples of a product: two, with one
thread each, should halve its wall time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import bar, interleaved, options, publish, ratio, table
from networks import Work, mlp, random_resnet20, vit
from torch import nn

import landscape
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.curvature.operators import operator_of
from landscape.runtime import distributed

GIGABYTE = 1024**3


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Slope of log cost over log size, over the larger half, where fixed costs have faded."""
    half = len(sizes) // 2 if len(sizes) > 2 else 0
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def least(cases: dict[Any, Any], repeat: int) -> dict[Any, float]:
    """Least seconds of each case over interleaved rounds."""
    return {size: min(seconds) for size, seconds in interleaved(cases, repeat).items()}


def examples(repeat: int) -> tuple[list[float], list[float]]:
    """Seconds of a product over numbers of examples."""
    sizes = [125, 250, 500, 1000]
    cases = {}
    for size in sizes:
        problem = mlp(size, 256).problem()
        operator, vector = operator_of(problem, memory=0), torch.ones(problem.n_parameters)
        cases[size] = partial(operator, vector)
    return [float(s) for s in sizes], list(least(cases, repeat).values())


def parameters(repeat: int) -> tuple[list[float], list[float]]:
    """Seconds of a product over numbers of parameters, by width."""
    sizes, cases = [], {}
    for width in (128, 256, 512, 1024):
        problem = mlp(500, width).problem()
        operator, vector = operator_of(problem, memory=0), torch.ones(problem.n_parameters)
        sizes.append(float(problem.n_parameters))
        cases[width] = partial(operator, vector)
    return sizes, list(least(cases, repeat).values())


def pairs() -> tuple[list[float], list[float]]:
    """Krylov products that k pairs take on the vision transformer."""
    problem, sizes, counts = vit(32).problem(), [1, 2, 5, 10, 20], []
    with operator_of(problem) as operator:
        for k in sizes:
            counts.append(
                float(lanczos(operator, operator.n, top=k, tol=1e-3, complete=False, block=1).krylov_products)
            )
    return [float(k) for k in sizes], counts


def points(repeat: int) -> tuple[list[float], list[float]]:
    """Seconds of a surface over its number of points."""
    problem, sides = mlp(1000).problem(), (5, 9, 17, 25)
    cases = {side: partial(landscape.surface, problem, points=side, range=0.5) for side in sides}
    return [float(side**2) for side in sides], list(least(cases, repeat).values())


def processes(repeat: int) -> tuple[list[float], list[float]]:
    """Wall seconds of a product over numbers of processes, under torchrun."""
    costs = []
    for count in (1, 2):
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), __file__]
        words += ["--product", str(repeat)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        costs.append(float(done.stdout.split()[-1]))
    return [1.0, 2.0], costs


def shared_product(repeat: int) -> None:
    """What `processes` runs: prints the least wall seconds of a product of ResNet-20 over 64 images."""
    with landscape.processes():
        problem = random_resnet20(64).problem()
        operator, vector = operator_of(problem, memory=0), torch.ones(problem.n_parameters)
        taken = []
        for _ in range(repeat + 1):
            started = time.perf_counter()
            operator(vector)
            taken.append(time.perf_counter() - started)
        if distributed.is_main_process():
            print(min(taken))


def memory() -> dict[str, float]:
    """Peak memory of an eigenvalue run of a wide network over what it needs, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--peak"], capture_output=True, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout)
    return facts


def peak() -> dict[str, float]:
    """What `memory` runs: 20 basis vectors for a perceptron of 17 million parameters on 64 examples."""
    import resource

    def resident() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    torch.manual_seed(0)
    width = 4096
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))
    work = Work("wide", model.eval(), torch.randn(64, 64), torch.arange(64) % 10)
    problem = work.problem()
    del work, model
    n = problem.n_parameters
    operator = operator_of(problem, memory=0)
    operator(torch.ones(n))
    before = resident()
    lanczos(operator, n, top=3, tol=1e-12, basis_limit=20, keep_images=False, complete=False, max_products=45)
    needed = 8 * n * (20 + 1 + 4)
    used = resident() - before
    return {"parameters": n, "needed_gigabytes": needed / GIGABYTE, "used_gigabytes": used / GIGABYTE}


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 5)
    series = {
        "seconds of a product by examples": (*examples(asked.repeat), "1"),
        "seconds of a product by parameters": (*parameters(asked.repeat), "1"),
        "Krylov products by pairs": (*pairs(), "below 1"),
        "seconds of a surface by points": (*points(asked.repeat), "1"),
        "wall seconds of a product by processes": (*processes(asked.repeat), "-1"),
    }
    rows = [
        [
            name,
            ", ".join(f"{s:.3g}" for s in sizes),
            ", ".join(f"{c:.3g}" for c in costs),
            f"{exponent(sizes, costs):.2f}",
            due,
        ]
        for name, (sizes, costs, due) in series.items()
    ]
    found = memory()
    text = table(["", "sizes", "costs", "exponent", "due"], rows)
    n, used, needed = found["parameters"], found["used_gigabytes"], found["needed_gigabytes"]
    text += f"\n\nMemory of a run with 20 basis vectors of {n:,.0f} parameters beside the network and its products: "
    text += f"{used:.2f} GiB; the basis, one more vector and four work vectors in float64 are {needed:.2f} GiB; "
    text += f"{used / needed:.2f} times that."
    stored = {n: {"sizes": s, "costs": c, "exponent": exponent(s, c), "due": d} for n, (s, c, d) in series.items()}
    lines = [
        bar(f"memory of an eigenvalue run, {n / 1e6:.0f} million parameters", floor=ratio([used], [needed]), most=1.2)
    ]
    publish(asked.out, "growth", "Growth", text, {"series": stored, "memory": found, "headline": lines})


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print(json.dumps(peak()))
    elif "--product" in sys.argv:
        shared_product(int(sys.argv[-1]))
    else:
        main()

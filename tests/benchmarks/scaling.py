"""What G processes would take, derived from what one takes: traffic, memory and time, up to a billion parameters.

    python tests/benchmarks/scaling.py [--out gallery/benchmarks]

Measured here, on one thread of one CPU (processor time, least of rounds): a gradient and products of ResNet-20 and of
a transformer, the graphs they keep, a Krylov step, a point of a surface; and between two processes over gloo the
time of all-reduces (wall time, least of rounds). Everything else is derived by the formulas that are printed, and
what is assumed about machines that were not there is named as assumed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sharded_scaling
import torch
from gpu import Language, residual_network
from harness import machine, publish, table

import landscape
from landscape.curvature.lanczos.krylov import Krylov
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem
from landscape.runtime import distributed

PROCESSES = (1, 2, 8, 64)
LAYERS, WIDTH = 6, 256  # of the transformer that is measured
RUN = 60  # products of a run for five eigenvalues with its checks, as the transformers of this folder took
BASIS = 40  # vectors that such a run holds
SIDE = 21  # points per axis of a surface, whose rows are shared out


@dataclass(frozen=True)
class Machine:
    """What is known of a kind of process: operations, memory and messages per second."""

    name: str
    flops: float
    memory: float
    link: float
    latency: float


@dataclass(frozen=True)
class Work:
    """A network with its examples: what one forward pass of all of them does.

    Attributes:
        name: For the table.
        n: Parameters.
        flops: Operations of a forward pass over one example.
        examples: How many.
        graph: Bytes that a kept graph of one example holds.
        passes: A rebuilt product in forward passes, as measured on a network of the kind.
        rate: Operations per second relative to the transformer's, as measured.
    """

    name: str
    n: int
    flops: float
    examples: int
    graph: float
    passes: float
    rate: float = 1.0


def least(call: Callable[[], Any], rounds: int = 3, clock: Callable[[], float] = time.process_time) -> float:
    """Least seconds over rounds, after one to warm up."""
    call()
    taken = []
    for _ in range(rounds):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


def transformer() -> Problem:
    """6.8 million parameters, 4 x 64 tokens."""
    torch.manual_seed(0)
    ids = torch.randint(0, 8000, (4, 64), generator=torch.Generator().manual_seed(0))
    return Problem(Language(LAYERS, WIDTH, 8000, 64), (ids, ids), "causal_lm", device="cpu", batch_size=4)


def measured(problem: Problem) -> dict[str, float]:
    """Seconds of passes over all examples, and what the kept graphs hold."""
    from landscape.measures.engine.flops import forward_work

    v = torch.sin(torch.arange(problem.n_parameters, dtype=torch.float32))
    with operator_of(problem, memory=2**40) as kept:
        rebuilt = operator_of(problem, memory=0)
        found = {
            "forward": least(problem.loss_tensor),
            "gradient": least(problem.gradient),
            "kept": least(lambda: kept(v)),
            "rebuilt": least(lambda: rebuilt(v)),
        }
        graph = kept.facts()["kept_graph_bytes"]
    import numpy as np

    return {
        **found,
        "parameters": problem.n_parameters,
        "examples": problem.n_examples,
        "flops": forward_work(problem, np.arange(1)).operations,
        "graph_bytes": graph / problem.n_examples,
    }


def orthogonalisation(n: int = 2_000_000, size: int = 20) -> float:
    """Bytes of basis that a Krylov step reads per second: four times the basis in float64."""
    g = torch.Generator().manual_seed(0)
    image = torch.randn(n, generator=g, dtype=torch.float64)
    space = Krylov(lambda v: image, image[None], lambda: image, limit=size + 2)
    space.basis[:size] = torch.linalg.qr(torch.randn(n, size, generator=g, dtype=torch.float64))[0].T
    seconds = least(lambda: space._project_out(image[None], size))
    return 4 * 8 * n * size / seconds


def messages() -> dict[str, float]:
    """Latency and bandwidth of gloo between two processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*command, __file__, "--peer", folder], check=True, capture_output=True)
        found: dict[str, float] = json.loads((Path(folder) / "messages.json").read_text())
    return found


def peer(folder: Path) -> None:
    """One of the two processes that `messages` starts."""
    with landscape.processes():
        short, long = torch.zeros(1), torch.zeros(2**23)
        latency = least(lambda: distributed.all_reduce_sum_([short]), 50, time.perf_counter)
        seconds = least(lambda: distributed.all_reduce_sum_([long]), 8, time.perf_counter)
        if distributed.is_main_process():
            # A ring of two sends as much as the tensor holds.
            facts = {"latency": latency, "bandwidth": long.nbytes / (seconds - latency)}
            (folder / "messages.json").write_text(json.dumps(facts))


def all_reduce(nbytes: float, g: int, link: float, latency: float) -> float:
    """A ring: every process sends and receives 2(G − 1)/G of the bytes, in 2(G − 1) messages."""
    return 0.0 if g == 1 else 2 * (g - 1) / g * nbytes / link + 2 * (g - 1) * latency


def derived(work: Work, where: Machine, g: int) -> dict[str, float]:
    """Traffic, memory and time per process."""
    share = math.ceil(work.examples / g)
    forward = work.flops / (where.flops * work.rate)
    message = all_reduce(4 * work.n, g, where.link, where.latency)
    product = work.passes * forward * share + message
    # Two passes over the basis, each reading it twice: the mean step meets half of the vectors.
    step = 4 * 8 * work.n * BASIS / 2 / where.memory
    run = RUN * (product + step)
    alone = RUN * (work.passes * forward * work.examples + step)
    return {
        "processes": g,
        "traffic": 2 * (g - 1) / g * 4 * work.n,
        "product": product,
        "message_share": message / product,
        "run": run,
        "basis_share": RUN * step / run,
        "speed_up": alone / run,
        "surface": math.ceil(SIDE / g) * SIDE * work.examples * forward,
        "memory_weights": 4 * work.n * 5,  # weights, the caller's copy, vector, product, what is sent
        "memory_basis": 8 * work.n * BASIS,
        "memory_graphs": work.graph * share,
    }


def unit(value: float, names: str = "B") -> str:
    """A number with a prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{names}"
    return f"{value:.3g} {names}"


def seconds_of(value: float) -> str:
    """Seconds, minutes, hours or days."""
    for factor, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if value >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{1000 * value:.3g} ms"


def main() -> None:
    """Measure, derive, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sharded", action="store_true", help="only processes that hold pieces; the rest as stored")
    options = parser.parse_args()
    if options.peer:
        peer(options.peer)
        return
    if options.sharded:
        again(options.out)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    resnet, language = measured(residual_network(torch.device("cpu"), 64, 32)), measured(transformer())
    memory, between = orthogonalisation(), messages()
    facts: dict[str, Any] = {
        "measured": {"ResNet-20": resnet, "transformer": language, "basis bytes/s": memory, "gloo": between},
    }
    cpu, gpu = machines(facts)
    flops = cpu.flops
    tokens = 1024
    per_token = language["graph_bytes"] / 64 / (LAYERS * WIDTH)  # kept bytes per token, layer and feature

    resnet_passes, language_passes = (found["rebuilt"] / found["forward"] for found in (resnet, language))
    rate = resnet["flops"] * resnet["examples"] / resnet["forward"] / flops
    images = resnet["flops"], 50_000, resnet["graph_bytes"], resnet_passes, rate
    works = [Work("ResNet-20, 50,000 images", 269_722, *images)]
    for name, n, size in (("124 million", 124_000_000, 12 * 768), ("1 billion", 1_000_000_000, 24 * 1860)):
        texts = 2.0 * n * tokens, 2000, per_token * size * tokens, language_passes
        works.append(Work(f"{name}, 2,000 x {tokens} tokens", n, *texts))
    facts["derived"] = [
        {"work": w.name, "where": m.name, **derived(w, m, g)} for m in (cpu, gpu) for w in works for g in PROCESSES
    ]
    facts["sharded"] = of_pieces()
    text = report(facts, cpu, gpu)
    publish(options.out, "scaling", "G processes, on paper", text, facts)


def machines(facts: dict[str, Any]) -> tuple[Machine, Machine]:
    """This one, as measured, and an assumed one."""
    found = facts["measured"]
    language, between = found["transformer"], found["gloo"]
    flops = language["flops"] * language["examples"] / language["forward"]
    here = "one thread of this CPU, measured"
    cpu = Machine(here, flops, found["basis bytes/s"], between["bandwidth"], between["latency"])
    return cpu, Machine("a GPU, assumed", 2e13, 1.5e12, 1e11, 2e-5)


def of_pieces() -> dict[str, Any]:
    """What `sharded_scaling` measures and derives, and when."""
    where = {k: v for k, v in machine().items() if k in ("date", "commit")}
    facts = {**where, **sharded_scaling.measured()}
    return {**facts, "derived": sharded_scaling.derived(facts)}


def again(out: Path) -> None:
    """Measure processes that hold pieces anew, beside what is stored of the others."""
    facts = json.loads((out / "scaling.json").read_text())
    facts["sharded"] = of_pieces()
    (out / "scaling.json").write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
    place = out / "scaling.md"
    head = "\n".join(place.read_text().splitlines()[:3])
    place.write_text(f"{head}\n\n{report(facts, *machines(facts))}\n")


def report(facts: dict[str, Any], cpu: Machine, gpu: Machine) -> str:
    """The text."""
    rows = []
    for name in ("ResNet-20", "transformer"):
        m = facts["measured"][name]
        rows.append(
            [name, f"{m['parameters']:,}", f"{m['examples']}", f"{1000 * m['forward']:.0f}",
             *(f"{m[k] / m['gradient']:.2f}" for k in ("kept", "rebuilt")), unit(m["graph_bytes"])]
        )  # fmt: skip
    head = [
        "network",
        "parameters",
        "examples",
        "forward ms",
        "product kept",
        "rebuilt (in gradients)",
        "graph/example",
    ]
    parts = [
        "## Measured, one process",
        table(head, rows),
        f"A Krylov step reads its float64 basis at {unit(cpu.memory, 'B/s')}; the transformer computes "
        f"{unit(cpu.flops, 'FLOP/s')}; gloo between two processes of this machine, least "
        f"of rounds while it also did other work: {1e6 * cpu.latency:.0f} us and "
        f"{unit(cpu.link, 'B/s')}.",
        "## Formulas",
        _FORMULAS.format(run=RUN, basis=BASIS, points=SIDE**2),
        "## Derived",
        f"The GPU is assumed, not measured: {unit(gpu.flops, 'FLOP/s')} sustained in float32, memory at "
        f"{unit(gpu.memory, 'B/s')}, {unit(gpu.link, 'B/s')} and {1e6 * gpu.latency:.0f} us between processes.",
    ]
    for where in (cpu.name, gpu.name):
        shown = [
            [
                d["work"], str(d["processes"]), unit(d["traffic"]), seconds_of(d["product"]),
                f"{100 * d['message_share']:.1f} %", seconds_of(d["run"]), f"{100 * d['basis_share']:.1f} %",
                f"{d['speed_up']:.1f}", seconds_of(d["surface"]),
            ]
            for d in facts["derived"]
            if d["where"] == where
        ]  # fmt: skip
        names = [
            "work",
            "G",
            "sent per product",
            "product",
            "of it messages",
            "run",
            "of it basis",
            "speed-up",
            "surface",
        ]
        parts += [f"### {where[0].upper()}{where[1:]}", table(names, shown)]
    shown = [
        [d["work"], str(d["processes"]), *(unit(d[f"memory_{k}"]) for k in ("weights", "basis", "graphs"))]
        for d in facts["derived"]
        if d["where"] == cpu.name
    ]
    names = ["work", "G", "weights and vectors", f"{BASIS} basis vectors", "all graphs kept"]
    parts += ["### Memory of one process", table(names, shown), "## What breaks first", _BREAKS]
    parts.append(sharded_scaling.report(facts["sharded"]))
    return "\n\n".join(parts)


_FORMULAS = """\
n parameters, N examples, G processes, f seconds of a forward pass over one example.

- Traffic of a product: one all-reduce of the float32 vector; a ring sends 2(G − 1)/G · 4n bytes from each process in
  2(G − 1) messages.
- Time of a product: c · f · ceil(N/G) + traffic/bandwidth + messages · latency, with the measured number c of forward
  passes where graphs are rebuilt; where they are kept it is less, in proportion to the table above.
- f: operations (2n per token; attention's own are left out) over the measured or assumed rate; a ResNet runs at
  another rate than a transformer, in the measured proportion.
- Eigenvalue run: {run} products (five pairs and all checks). Each step also reads the float64 basis four times;
  {basis} vectors at the end, half of them on average: 4 · 8n · {basis}/2 bytes. Every process does so: it does not
  shrink with G.
- Surface of {points} points: N · f · ceil(21/G) · 21, no traffic but the finished rows: rows of 21 points are shared
  out whole, so that more than 21 processes gain nothing on this grid.
- Memory of a process: 5 vectors of 4n bytes, 8n bytes per basis vector (twice that where products are kept beside),
  kept graphs of N/G examples where there is room for them (scaled by layers and width; attention maps, which grow
  with the square of a text, are left out)."""

_BREAKS = """\
1. **The basis, in memory.** It is float64 and every process holds all of it. At a billion parameters a vector is
   8 GB: beside weights and vectors a GPU of 80 GB has room for seven, one less than the smallest restarted run for a
   single pair uses. So the basis moves to host memory, and there every process of the machine wants its copy. What
   helps: one process per machine, `--memory`, `--top 1`, `--params`, and above all sharding the network
   (`--shard fsdp`, below), which shares the basis out, divides its memory and arithmetic by G, and adds an all-reduce
   of some numbers per step.
2. **The basis, in time.** Orthogonalisation does not shrink with G (column "of it basis"): it bounds the speed-up
   where examples are few or processes many.
3. **Messages.** One vector per product is little beside a product over many examples; it rules where each process has
   few examples left (column "of it messages"), first on slow links.
4. **Whole weights in every process.** Parameters are replicated here. A network whose weights, vector, product and
   graph of one example do not fit on one device is sharded (below).
5. **Surfaces** scale until every process has one row, and never break on memory: no vectors but the directions."""


if __name__ == "__main__":
    main()

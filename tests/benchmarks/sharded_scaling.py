"""What processes take that hold pieces of one network: bytes counted, a Krylov step timed in 1, 2 and 4 processes.

Part of `scaling.py`. Bytes are exact and the same on any machine. Times are wall time, least of rounds, on a machine
of two cores, where four processes share two, and gloo's messages are copies by the same cores.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu import Language
from harness import table

import landscape
from landscape.curvature.lanczos.krylov import Krylov
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem
from landscape.runtime.distributed import barrier, rank_and_world_size
from landscape.sharding import pieces
from landscape.sharding.vectors import own_part

LAYERS, WIDTH, VOCABULARY, TOKENS, EXAMPLES = 4, 256, 4000, 64, 4
BASIS = 20
WORLDS = (1, 2, 4)
ROUNDS = 3
_MESSAGES = 50
NETWORKS = (  # parameters, layers, width, vocabulary: shapes of published models of these sizes
    ("1 billion", 1.2e9, 16, 2048, 128_256),
    ("8 billion", 8.0e9, 32, 4096, 128_256),
    ("70 billion", 70.6e9, 80, 8192, 128_256),
)
DEVICES = (1, 8, 64, 512)
DEVICE_BYTES = 80e9
LONG = 40  # basis vectors of a run for five pairs, as in `scaling.py`
RATE = 5e13  # operations per second of a device in float32
LINKS = (("400 GB/s, within a machine", 4e11), ("50 GB/s, between machines", 5e10))
TEXTS = 2000


def least(call: Any) -> float:
    """Least wall seconds over rounds, all processes beginning together, after one to warm up."""
    taken = []
    for _ in range(ROUNDS + 1):
        barrier()
        start = time.perf_counter()
        call()
        barrier()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def process(folder: Path) -> None:
    """One of the processes of a measurement."""
    torch.set_num_threads(1)
    counted: dict[str, float] = {"gathered": 0, "gathers": 0, "scattered": 0, "scatters": 0}
    with landscape.processes():
        rank, world = rank_and_world_size()
        torch.manual_seed(0)
        model = Language(LAYERS, WIDTH, VOCABULARY, TOKENS)
        ids = torch.randint(0, VOCABULARY, (EXAMPLES, TOKENS), generator=torch.Generator().manual_seed(0))
        if world > 1:
            _shard(model)
            _count(counted)
        problem = Problem(model, (ids, ids), "causal_lm", device="cpu", batch_size=EXAMPLES)
        with operator_of(problem, memory=0) as operator:
            draws = problem.space.draws()
            generator = torch.Generator().manual_seed(0)
            vector = draws.normal(generator).float()
            operator(vector)
            for key in counted:
                counted[key] = 0
            operator(vector)
            per_product = dict(counted)
            found: dict[str, Any] = {
                "product": least(lambda: operator(vector)),
                "gradient": least(problem.gradient),
            }
        image = vector.double()
        space = Krylov(lambda v: image, image[None].clone(), lambda: image, limit=BASIS + 2)
        for i in range(BASIS):
            row = draws.normal(generator)
            space.basis[i] = row / torch.linalg.vector_norm(row)
        found["step"] = least(lambda: space._project_out(image[None].clone(), BASIS))
        found["draw"] = least(lambda: draws.normal(generator))
        found["bandwidth"] = _bandwidth(world)
        found["latency"] = _latency(world)
        found |= {
            "processes": world,
            "n": problem.n_parameters,
            "entries_here": own_part(problem.weights).numel(),
            "basis_bytes": own_part(space.basis[:BASIS]).nbytes,
            "largest": max(math.prod(s) for s in problem.space.shapes),
            **per_product,
        }
    if rank == 0:
        (folder / f"{world}.json").write_text(json.dumps(found))


def _shard(model: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)


def _count(counted: dict[str, float]) -> None:
    """Count the bytes of whole weights that are gathered, and of whole sums that are scattered."""
    gather, scatter = pieces._gather, pieces._scatter

    def gathering(local: Any, *rest: Any) -> Any:
        found = gather(local, *rest)
        counted["gathered"] += found.nbytes
        counted["gathers"] += 1
        return found

    def scattering(whole: Any, *rest: Any) -> Any:
        counted["scattered"] += whole.nbytes
        counted["scatters"] += 1
        return scatter(whole, *rest)

    pieces._gather, pieces._scatter = gathering, scattering


def _bandwidth(world: int) -> float | None:
    """Bytes of a whole tensor that are gathered per second."""
    if world == 1:
        return None
    own = torch.zeros(2**22 // world)
    whole = own.new_empty(len(own) * world)
    call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return whole.nbytes / least(lambda: call(whole, own))


def _latency(world: int) -> float:
    """Seconds of a message without content, on average."""
    if world == 1:
        return 0.0
    nothing = torch.zeros(1)

    def messages() -> None:
        for _ in range(_MESSAGES):
            dist.all_reduce(nothing)

    return least(messages) / _MESSAGES


def measured() -> dict[str, Any]:
    """In each number of processes."""
    found: dict[str, Any] = {"load": os.getloadavg()[0], "of": []}
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(
                [*command, __file__, folder], check=True, capture_output=True, timeout=500, env=environment
            )
            found["of"].append(json.loads((Path(folder) / f"{world}.json").read_text()))
    return found


def derived(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Bytes and seconds per device of the published sizes."""
    two = facts["of"][1]
    whole = 4 * two["n"]
    gathers, scatters = two["gathered"] / whole, two["scattered"] / whole
    rows = []
    for name, n, _, width, vocabulary in NETWORKS:
        for g in DEVICES:
            share = math.ceil(TEXTS / g)
            flops = 2 * n * 1024 * 10 * share  # a product is some ten forward passes' operations
            moved = (gathers + scatters) * 4 * n * (g - 1) / g * share
            memory = {
                "weights": 4 * n / g,
                "vectors": 5 * 4 * n / g,
                "basis": 8 * n * LONG / g,
                "whole": 3 * 4 * vocabulary * width if g > 1 else 0.0,
            }
            rows.append(
                {
                    "network": name,
                    "devices": g,
                    **memory,
                    "fits": sum(memory.values()) <= DEVICE_BYTES,
                    "vectors_that_fit": int((DEVICE_BYTES - sum(memory.values()) + memory["basis"]) // (8 * n / g)),
                    "compute": flops / RATE,
                    **{f"move {link}": moved / speed for link, speed in LINKS},
                    "draw": n * two["draw"] / two["n"],
                }
            )
    return rows


def report(facts: dict[str, Any]) -> str:
    """The section."""
    from scaling import seconds_of, unit

    one = facts["of"][0]
    rows, apart = [], []
    for m in facts["of"]:
        g = m["processes"]
        whole = 4 * m["n"]
        cores = max(1.0, g / 2)  # of two
        compute = one["product"] / g * cores
        message = (m["gathered"] + m["scattered"]) / m["bandwidth"] if m["bandwidth"] else 0.0
        message += (m["gathers"] + m["scatters"]) * m["latency"]
        if g > 1:
            apart.append(m["product"] / (compute + message))
        step = one["step"] / g * cores + 2 * m["latency"]
        rows.append(
            [
                str(g), f"{m['entries_here'] / m['n']:.3f} n", unit(m["basis_bytes"]),
                f"{m['gathered'] / whole:.2f} + {m['scattered'] / whole:.2f}",
                f"{m['gathers']:.0f} + {m['scatters']:.0f}",
                seconds_of(m["latency"]) if m["latency"] else "",
                unit(m["bandwidth"], "B/s") if m["bandwidth"] else "",
                seconds_of(m["product"]), seconds_of(compute + message), seconds_of(m["step"]), seconds_of(step),
                seconds_of(m["draw"]),
            ]
        )  # fmt: skip
    head = [
        "G", "entries of a vector here", f"{BASIS} basis vectors here", "gathered + scattered (in weights)",
        "messages", "latency", "gathering at", "product", "by formula",
        "Krylov step beside it", "by formula", "random vector",
    ]  # fmt: skip
    shown = [
        [
            d["network"], str(d["devices"]), *(unit(d[k]) for k in ("weights", "vectors", "basis", "whole")),
            "yes" if d["fits"] else f"{max(0, d['vectors_that_fit'])} vectors", seconds_of(d["compute"]),
            *(seconds_of(d[f"move {link}"]) for link, _ in LINKS), seconds_of(d["draw"]),
        ]
        for d in facts["derived"]
    ]  # fmt: skip
    names = [
        "network", "G", "weights", "5 vectors", f"{LONG} basis vectors", "largest weight, 3 times",
        f"fits {unit(DEVICE_BYTES)}", "product", *(f"moving at {link}" for link, _ in LINKS), "one random vector",
    ]  # fmt: skip
    when = f"{facts['date']}, commit {facts['commit']}"
    return "\n\n".join(
        [
            "## Sharded: pieces of weights and vectors",
            f"Measured ({when}) on a transformer of {one['n']:,} parameters, {EXAMPLES} x {TOKENS} tokens, one "
            f"thread per process, one micro-batch: wall time, least of {ROUNDS} rounds, on two cores with a load "
            f"average of {facts['load']:.1f} by other work. Entries, bytes and messages are counted and exact; times "
            "are noisy to a factor of two and more, and four processes on two cores say little of four devices.",
            table(head, rows),
            f"A product took {' and '.join(f'{x:.1f}' for x in apart)} times as long as by formula in 2 and 4 "
            "processes, which also wait for each other at every weight, and for cores that are busy with other work.",
            _FORMULAS.format(long=LONG, rate=unit(RATE, "FLOP/s"), texts=TEXTS),
            table(names, shown),
            _BREAKS,
        ]
    )


_FORMULAS = """\
P parameters, G processes, b micro-batches per product and process, B bytes per second between processes.

- Bytes per device: 4P/G of weights, 4P/G for each of about five vectors, 8P/G per basis vector (twice that where
  products are kept beside), three times the largest single weight whole for a moment (it, its gradient, and what is
  scattered), and the activations of a micro-batch. Nothing of length P.
- Bytes per product: (gathered + scattered) · 4P · (G − 1)/G received by each process, b times, since every pass
  gathers every weight anew: the column above has both in units of all weights.
- Time per product: operations over rate, those bytes over B, and a latency for each message; they do not overlap.
  Time of a Krylov step beside it: four readings of 8P · k/G bytes of basis, and two all-reduces of k numbers. "By
  formula" is one process's time divided by G (four processes share two cores), the bytes over the measured rate of a
  gathering, and the messages at the measured latency, which is that of waiting for the other process to be scheduled.
- A random vector is drawn whole by every process, in stretches, so that it is the one of one process: that time does
  not shrink with G.

By these, in float32, a product over {texts:,} texts of 1024 tokens in micro-batches of one text, ten forward passes'
operations at {rate}, and {long} basis vectors. Devices and links are assumed; a random vector at the rate measured in
two processes here:"""

_BREAKS = """\
What breaks first:

- **1 billion.** The basis: 384 GB of 40 float64 vectors. One device has room for five, where an eigenvalue run cannot
  restart any more (it wants eight), so that the basis moves to host memory. Eight devices hold all of it.
- **8 billion.** One device does not hold weights and five vectors. Eight hold these and six basis vectors; the basis
  moves to host memory, 320 GB a process. 64 hold everything. With `--shard fsdp` every process builds the network
  whole in host memory before it keeps its pieces: 32 GB, eight times on a machine of eight. Building on the meta
  device, sharding there and passing the model avoids it.
- **70 billion.** `--shard fsdp` is out of the question (282 GB of host memory a process). 64 devices hold weights,
  vectors and four basis vectors, 512 all 40. Each weight is gathered anew in every pass of every micro-batch: at
  50 GB/s between machines that takes longer than the arithmetic, unless micro-batches are larger than one text. And a
  random vector, which every process draws whole, takes longer than a product of 64 devices: traces and densities pay
  that for each probe, a run for eigenvalues twice. Drawing one's own stretch only would need a generator that can be
  entered anywhere, and so other numbers than those of one process; it is not built."""


if __name__ == "__main__":
    process(Path(sys.argv[1]))

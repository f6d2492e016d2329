"""What a GPU says and costs: agreement with the CPU in every analysis, and the price of products, runs and surfaces.

    python tests/benchmarks/gpu.py [--device cuda] [--out gallery/benchmarks] [--small]

One command, one JSON: runs the tests of ``tests/gpu``, then everything here. Needs nothing but this repository:
networks and data are made here, with weights that every device gets alike, and costs do not depend on what is in an
image; curvlinops and hessian-eigenthings are measured beside where they are installed. Under eight minutes on a GPU;
``--small`` shrinks all sizes so that the same code runs on a CPU (``--device cpu``) in seconds, which proves that it
runs and measures nothing.

Agreement: largest difference from the CPU relative to the largest entry, over float64 and float32, against the
limit of rounding. Cost: median and least of rounds between two synchronisations. Floors: a product 2.0 gradients with
its graphs kept, 2.67 from scratch; a surface its bare forward passes; a Krylov step its product; a step of SAM two
gradients.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "gpu"))

from agreement import distances

import landscape
from landscape.curvature.lanczos.krylov import Krylov
from landscape.curvature.operators import operator_of
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.m_sharpness import block_sharpness
from landscape.models.resnet import resnet20
from landscape.models.vit import Block
from landscape.problem.problem import Problem
from landscape.runtime.accelerators import name_of, peak_bytes, synchronize
from landscape.runtime.devices import pick_device


class Clock:
    """Seconds of calls on a device, waited for at both ends."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def now(self) -> float:
        """The time once the device has done all it was given."""
        synchronize(self.device)
        return time.perf_counter()

    def seconds(self, calls: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
        """Least and median seconds of each call, all of them once per round, after one to warm up."""
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for i in range(self.rounds + 1):
            for name, call in calls.items():
                start = self.now()
                call()
                if i:
                    taken[name].append(self.now() - start)
        return {name: {"least": min(v), "median": statistics.median(v)} for name, v in taken.items()}


def residual_network(device: torch.device, examples: int, side: int) -> Problem:
    """ResNet-20 on noise of the shape of images."""
    torch.manual_seed(0)
    model, generator = resnet20(), torch.Generator().manual_seed(0)
    data = torch.randn(examples, 3, side, side, generator=generator), torch.randint(0, 10, (examples,))
    return Problem(model, data, device=device, batch_size=min(512, examples))


class Language(nn.Module):
    """A causal transformer with tied embeddings."""

    def __init__(self, layers: int, width: int, vocabulary: int, tokens: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width, max(1, width // 64), causal=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens ``(n, tokens)`` to logits ``(n, tokens, vocabulary)``."""
        x = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
        return self.norm(self.blocks(x)) @ self.embed.weight.T


def language_model(device: torch.device, small: bool) -> Problem:
    """About 124 million parameters (GPT-2's smallest size) on 8 x 256 tokens, next-token loss."""
    torch.manual_seed(0)
    layers, width, vocabulary, tokens, count = (2, 64, 500, 16, 4) if small else (12, 768, 50_257, 256, 8)
    ids = torch.randint(0, vocabulary, (count, tokens), generator=torch.Generator().manual_seed(0))
    model = Language(layers, width, vocabulary, tokens)
    return Problem(model, (ids, ids), "causal_lm", device=device, batch_size=count // 2)


def peak(device: torch.device) -> int | None:
    """Largest number of bytes taken since the last call."""
    return None if device.type == "cpu" else peak_bytes(device)


def products(problem: Problem, clock: Clock) -> dict[str, Any]:
    """A forward pass, a gradient and products, in seconds and in gradients."""
    v = torch.sin(torch.arange(problem.n_parameters, device=problem.device, dtype=torch.float32))
    peak(problem.device)
    with operator_of(problem) as kept, operator_of(problem, "ggn") as ggn:
        rebuilt = operator_of(problem, memory=0)
        calls: dict[str, Callable[[], Any]] = {
            "forward": problem.loss_tensor,
            "gradient": problem.gradient,
            "product, graphs kept": lambda: kept(v),
            "product, rebuilt": lambda: rebuilt(v),
            "Gauss-Newton, graphs kept": lambda: ggn(v),
            **_krylov(kept, v),
            **_peers(problem, v),
        }
        seconds = clock.seconds(calls)
        facts = kept.facts()
    base = seconds["gradient"]["least"]
    return {
        "parameters": problem.n_parameters,
        "examples": problem.n_examples,
        "seconds": seconds,
        "in_gradients": {k: s["least"] / base for k, s in seconds.items()},
        "krylov_step_over_product": seconds["Krylov step"]["least"] / seconds["product, graphs kept"]["least"],
        "kept_share_of_batches": facts["kept_share_of_batches"],
        "kept_graph_bytes": facts["kept_graph_bytes"],
        "peak_bytes": peak(problem.device),
    }


def _krylov(operator: Any, vector: Tensor) -> dict[str, Callable[[], Any]]:
    """A step of the Lanczos run: a product, and what it costs to keep the basis orthogonal."""
    start = vector.double()[None] / torch.linalg.vector_norm(vector.double())
    space = Krylov(operator, start, lambda: start[0])
    return {"Krylov step": space.grow}


def _peers(problem: Problem, vector: Tensor) -> dict[str, Callable[[], Any]]:
    """Products of other tools that are installed and take the network, each on a copy of it."""
    pairs = [(b.inputs, b.targets) for b in problem.batches()]
    if not isinstance(pairs[0][0], Tensor) or problem.loss_name != "cross_entropy":
        return {}
    model, criterion = problem.twin(), nn.CrossEntropyLoss()
    own = [p for p in model.parameters() if p.requires_grad]
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("curvlinops"):
        from curvlinops import HessianLinearOperator

        theirs = HessianLinearOperator(model, criterion, own, pairs, check_deterministic=False)
        found["product, curvlinops"] = lambda: theirs @ vector
    if importlib.util.find_spec("hessian_eigenthings"):
        from hessian_eigenthings import HessianOperator, supervised_loss

        other = HessianOperator(copy.deepcopy(model), pairs, supervised_loss(criterion))
        found["product, hessian-eigenthings"] = lambda: other.matvec(vector)
    return found


def training(problem: Problem, clock: Clock) -> dict[str, Any]:
    """A step of SAM beside two gradients of the same batch and network, and a step that does not look for NaN."""
    model, batch = problem.twin().train(), next(iter(problem.batches()))
    loss_of = nn.functional.cross_entropy
    base = torch.optim.SGD(model.named_parameters(), lr=1e-4, momentum=0.9)

    def loss() -> landscape.BatchLoss:
        return landscape.BatchLoss(loss_of(model(batch.inputs), batch.targets))

    def two_gradients() -> None:
        for _ in range(2):
            loss().mean.backward()
            base.zero_grad()

    checked, unchecked = landscape.SAM(base), landscape.SAM(copy.copy(base), check_finite=False)
    calls = {
        "two gradients": two_gradients,
        "SAM step": lambda: checked.step(loss),
        "SAM step, unchecked": lambda: unchecked.step(loss),
    }
    seconds = clock.seconds(calls)
    two = seconds["two gradients"]["least"]
    return {
        "examples": len(batch),
        "seconds": seconds,
        "over_two_gradients": {k: s["least"] / two for k, s in seconds.items()},
        "peak_bytes": peak(problem.device),
    }


def tests(device: torch.device) -> dict[str, Any]:
    """What ``tests/gpu`` says on this machine; it is there for CUDA alone."""
    if device.type != "cuda":
        return {"run": False, "reason": f"tests/gpu is for CUDA, and this is {device.type}"}
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(words, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)
    last = (done.stdout.splitlines() or [""])[-1]
    return {"run": True, "passed": done.returncode == 0, "said": last, "output": done.stdout[-4000:]}


def eigenvalues(problem: Problem, clock: Clock, product_seconds: float, top: int) -> dict[str, Any]:
    """The top pairs, and what a run costs beside its products."""
    start = clock.now()
    found = landscape.hessian(problem, top=top, tol=1e-2, allow_partial=True)
    seconds = clock.now() - start
    return {
        "seconds": seconds,
        "products": found["hvp_count"],
        "over_products": seconds / (found["hvp_count"] * product_seconds),
        "eigenvalues": found["eigenvalues"],
        "residuals": found["residuals"],
        "basis_on": found["products"]["basis_on"],
        "peak_bytes": peak(problem.device),
    }


def surface(problem: Problem, clock: Clock, points: int) -> dict[str, Any]:
    """A plane beside as many bare forward passes over the same batches."""
    batches = [b.inputs for b in problem.batches()]

    def bare() -> None:
        with torch.no_grad():
            for _ in range(points**2):
                for inputs in batches:
                    problem.model(inputs)

    taken = clock.seconds({"bare": bare, "surface": lambda: landscape.surface(problem, points=points)})
    return {"points": points**2, "seconds": taken, "over_bare": taken["surface"]["least"] / taken["bare"]["least"]}


def blocks(problem: Problem, clock: Clock, m: int) -> dict[str, Any]:
    """m-sharpness by the two ways of `landscape.measures.engine.blockwise`, and by the one that its rule picks."""
    ways = {"rule": None, "loop": "loop", "stack": "stack"}
    calls = {n: lambda way=way: block_sharpness(problem, [NormBall(0.05)], m=m, way=way) for n, way in ways.items()}
    return {"m": m, "examples": problem.n_examples, "seconds": clock.seconds(calls)}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    device = pick_device(options.device)
    clock = Clock(device, 1 if options.small else options.rounds)
    facts: dict[str, Any] = {
        "device": platform.machine() if device.type == "cpu" else name_of(device),
        "tests": tests(device),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "date": datetime.now(UTC).date().isoformat(),
        "small": options.small,
        "agreement": list(distances(options.device)),
    }
    lines = [_agreement(facts["agreement"])]
    print(lines[-1], flush=True)
    resnet = residual_network(device, *((8, 8) if options.small else (4096, 32)))
    for name, problem in (("ResNet-20", resnet), ("transformer", language_model(device, options.small))):
        cost = products(problem, clock)
        product = cost["seconds"]["product, graphs kept"]["least"]
        facts[name] = {
            "products": cost,
            "eigenvalues": eigenvalues(problem, clock, product, 1 if options.small else 5),
        }
        lines.append(_cost(name, facts[name]))
        print(lines[-1], flush=True)
    few = resnet.restrict_to_examples(np.arange(min(512, resnet.n_examples)))
    facts["ResNet-20"]["training"] = training(few, clock)
    facts["ResNet-20"]["surface"] = surface(few, clock, 5 if options.small else 11)
    facts["blocks"] = [blocks(few, clock, m) for m in ((2, 4) if options.small else (1, 16, 128))]
    facts["seconds"] = time.perf_counter() - began
    lines.append(_rest(facts))
    print(lines[-1])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = f"gpu-{'-'.join(facts['device'].lower().split())}" if device.type == "cuda" else f"gpu-{device.type}"
        (options.out / f"{stem}.json").write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
        where = f"torch {facts['torch']}, {facts['date']}, {facts['seconds']:.0f} seconds in all"
        (options.out / f"{stem}.md").write_text("\n\n".join([f"# {facts['device']}", where, *lines]) + "\n")
    if not all(row["agrees"] for row in facts["agreement"]):
        raise SystemExit("the device does not agree with the CPU")
    if facts["tests"]["run"] and not facts["tests"]["passed"]:
        raise SystemExit(facts["tests"]["output"])


def _agreement(rows: list[dict[str, Any]]) -> str:
    shown = [[r["analysis"], r["dtype"], f"{r['distance']:.1e}", str(r["of"]), f"{r['limit']:.0e}"] for r in rows]
    return table(["analysis", "type", "largest distance from the CPU", "of", "limit"], shown)


def _cost(name: str, facts: dict[str, Any]) -> str:
    p, e = facts["products"], facts["eigenvalues"]
    rows = [
        [case, f"{1000 * s['least']:.2f}", f"{1000 * s['median']:.2f}", f"{p['in_gradients'][case]:.2f}"]
        for case, s in p["seconds"].items()
    ]
    run = f"{e['products']} products, {e['seconds']:.1f} s, {e['over_products']:.2f} times the products alone"
    size = f"{name}, {p['parameters']:,} parameters, {p['examples']} examples"
    return f"{size}. {len(e['eigenvalues'])} eigenvalue(s): {run}.\n\n" + table(
        [name, "least ms", "median ms", "in gradients"], rows
    )


def _rest(facts: dict[str, Any]) -> str:
    s = facts["ResNet-20"]["surface"]
    rows = [
        [str(b["m"]), *(f"{1000 * b['seconds'][way]['least']:.1f}" for way in ("rule", "loop", "stack"))]
        for b in facts["blocks"]
    ]
    sam = facts["ResNet-20"]["training"]["over_two_gradients"]
    plane = (
        f"A surface of {s['points']} points costs {s['over_bare']:.3f} times its bare forward passes. A step of SAM "
        f"costs {sam['SAM step']:.3f} times two gradients, {sam['SAM step, unchecked']:.3f} times without a look "
        "whether they are finite."
    )
    return plane + "\n\n" + table(["m-sharpness, m", "by rule, ms", "block by block, ms", "stacked, ms"], rows)


if __name__ == "__main__":
    main()

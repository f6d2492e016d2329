"""One Hessian-vector product of a language model with 50,257 tokens: processor time and memory, against the peers.

    python tests/benchmarks/language_model.py [--repeat 5] [--out gallery/benchmarks]

Work: a transformer of GPT-2's form (width 256, four blocks, tied embeddings, 16 million parameters), one sequence of
256 random tokens, next-token loss, float32, one thread; the Hessian times one vector, its graph built anew in each
product, as every tool can. Time: processor seconds over those of one gradient in bare torch, all tools in turns in
one process. Memory: the peak of a tool's second product in a process of its own, beyond what the process held when it
had nothing but the network, the tokens and the vector; the kernel counts it. Accuracy: the relative distance from our
product in float64 with all logits at once.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import bar, interleaved, publish, ratio, ratios, table
from peers import as_they_need, installed
from torch import Tensor, nn

from landscape.curvature.operators import operator_of
from landscape.models.vit import Block
from landscape.problem.problem import Problem

POSITIONS, CHUNK, WRONG = 256, 32, 1e-3
OURS = f"ours, chunks of {CHUNK}"
TOOLS = ("gradient", OURS, "ours, all logits", "hessian-eigenthings", "curvlinops")
Product = Callable[[Tensor], Any]


class Model(nn.Module):
    """GPT-2's form; the head is the embedding."""

    def __init__(self, vocabulary: int, width: int = 256, blocks: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(POSITIONS, width)
        self.blocks = nn.ModuleList(Block(width, 4, causal=True) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(n, length)`` to logits ``(n, length, vocabulary)``."""
        x = self.embed(tokens) + self.place.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def criterion(logits: Tensor, tokens: Tensor) -> Tensor:
    """Each place predicts the next token."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def work(vocabulary: int) -> tuple[Model, Tensor, Tensor]:
    """The network, its tokens ``(1, POSITIONS)`` and the vector."""
    torch.manual_seed(0)
    model, tokens = Model(vocabulary), torch.randint(0, vocabulary, (1, POSITIONS))
    return model, tokens, torch.randn(sum(p.numel() for p in model.parameters()))


def made(tool: str, model: Model, tokens: Tensor) -> Product:
    """A tool's product of this network, which it may keep."""
    parameters = list(model.parameters())
    batches = [(tokens, tokens)]
    if tool == "gradient":
        return lambda _: torch.autograd.grad(criterion(model(tokens), tokens), parameters)
    if tool == "hessian-eigenthings":
        from hessian_eigenthings import HessianOperator, supervised_loss

        return HessianOperator(model, batches, supervised_loss(criterion)).matvec
    if tool == "curvlinops":
        from curvlinops import HessianLinearOperator

        class Criterion(nn.CrossEntropyLoss):  # it asks for a module with a reduction
            def forward(self, output: Tensor, target: Tensor) -> Tensor:
                return criterion(output, target)

        operator = HessianLinearOperator(model, Criterion(), parameters, batches, check_deterministic=False)
        return lambda vector: operator @ vector
    chunk = CHUNK if "chunks" in tool else None
    return operator_of(Problem(model, (tokens, tokens), "causal_lm", logit_chunk=chunk), memory=0).product


def status(name: str) -> int:
    """Bytes that the kernel counts for this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return 1024 * int(line.split()[1])


def alone(tool: str, vocabulary: int) -> None:
    """Print the peak of one product, in bytes."""
    model, tokens, vector = work(vocabulary)
    before = status("VmRSS")
    with as_they_need(1200):
        product = made(tool, model, tokens)
        product(vector)  # what is looked at once is
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, and the peak starts anew
        Path("/proc/self/clear_refs").write_text("5")
        product(vector)
        found = status("VmHWM") - before
    print(found)


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time against the fastest peer that is right."""
    mine = next(r for r in rows if r["tool"] == OURS)
    peers = [r for r in rows if r["tool"] in TOOLS[3:] and r["error"] <= WRONG]
    best = min(peers, key=lambda r: r["times_ours"][1], default=None)
    task = f"one product of a language model, logits in chunks of {CHUNK}"
    if best is None:
        return [bar(task)]
    return [bar(task, peer=best["tool"], faster=ratio(best["seconds"], mine["seconds"]))]


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--alone", choices=TOOLS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.alone:
        alone(asked.alone, asked.vocabulary)
        return
    there = installed()
    tools = [t for t in TOOLS if there.get(t.replace("curvlinops", "curvlinops-for-pytorch"), "ours") is not None]
    words = [sys.executable, __file__, "--vocabulary", str(asked.vocabulary), "--alone"]
    peaks = {t: int(subprocess.run([*words, t], capture_output=True, text=True, check=True).stdout) for t in tools}
    model, tokens, vector = work(asked.vocabulary)
    with as_they_need(1200):
        expected = Problem(model, (tokens, tokens), "causal_lm", dtype="float64").hvp(vector.double())
        cases = {tool: partial(made(tool, model, tokens), vector) for tool in tools}
        off = {
            t: float((c().double() - expected).norm() / expected.norm()) for t, c in cases.items() if t != "gradient"
        }
        seconds = interleaved(cases, asked.repeat)
    times, over = ratios(seconds, "gradient"), ratios(seconds, OURS)
    rows = [
        {
            "tool": t, "gradients": list(times[t]), "times_ours": list(over[t]), "seconds": seconds[t],
            "peak_bytes": peaks[t], "error": off.get(t),
        } for t in tools
    ]  # fmt: skip
    text = table(
        ["tool", "gradients", "of our time", "peak, MB", "of our peak", "error"],
        [
            [
                r["tool"],
                f"{r['gradients'][1]:.2f} ({r['gradients'][0]:.2f} to {r['gradients'][2]:.2f})",
                f"{r['times_ours'][1]:.2f} ({r['times_ours'][0]:.2f} to {r['times_ours'][2]:.2f})",
                f"{r['peak_bytes'] / 1e6:.0f}",
                f"{r['peak_bytes'] / peaks[OURS]:.2f}",
                "" if r["error"] is None else f"{r['error']:.0e}",
            ]
            for r in rows
        ],
    )
    said = (
        f"{len(vector):,} parameters, {asked.vocabulary:,} tokens, {POSITIONS} positions; median (least to most) of "
        f"{len(seconds['gradient'])} rounds; {', '.join(f'{k} {v}' for k, v in there.items() if v)}."
    )
    facts = {"vocabulary": asked.vocabulary, "parameters": len(vector), "rows": rows, "peers": there}
    facts["headline"] = headline(rows)
    publish(asked.out, "language_model", "A product of a language model", f"{said}\n\n{text}", facts)


if __name__ == "__main__":
    main()

"""The top three Hessian eigenvalues of a randomly initialised transformer of 100 million parameters, on the CPU.

    python tests/benchmarks/large_transformer.py [--layers 12] [--width 768] [--out gallery/benchmarks]

Work: 4 sequences of 64 random tokens, next-token loss over all tokens, thick-restart Lanczos in float32 products
with at most 11 float64 basis vectors. Printed and stored are the eigenvalues with their true residuals, products,
seconds and the peak of resident memory. Target: 24 GB and 60 minutes.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from harness import bar, publish, ratio, table
from torch import Tensor, nn

from landscape.base.progress import reporting
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.curvature.operators import operator_of
from landscape.models.vit import Block
from landscape.problem.problem import Problem


class Transformer(nn.Module):
    """A language model with tied embeddings."""

    def __init__(self, layers: int, width: int, vocabulary: int, tokens: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, width // 64, causal=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens ``(n, tokens)`` to logits ``(n, tokens, vocabulary)``."""
        x = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=20_000)
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--products", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Transformer(options.layers, options.width, options.vocabulary, 64)
    tokens = torch.randint(0, options.vocabulary, (4, 64))
    problem = Problem(model, {"input_ids": tokens}, "causal_lm")
    del model
    started = time.perf_counter()
    operator = operator_of(problem, "hessian", memory=0)
    problem.hvp(torch.ones(problem.n_parameters))
    one = time.perf_counter() - started

    def say(task: str, done: int, total: int | None, note: str = "") -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {task}: {done} products, {note}", file=sys.stderr, flush=True)

    with reporting(say):
        found = lanczos(
            operator.product,
            problem.n_parameters,
            top=3,
            tol=options.tol,
            basis_limit=11,
            keep_images=False,
            complete=False,
            max_products=options.products,
        )
    facts = {
        "parameters": problem.n_parameters,
        "tokens": problem.total_weight,
        "loss": problem.loss(),
        "eigenvalues": found.top.values.tolist(),
        "residuals": found.top.residuals.tolist(),
        "converged": found.top.converged.tolist(),
        "tolerance": options.tol,
        "products": found.krylov_products + found.check_products,
        "restarts": found.restarts,
        "seconds": round(time.perf_counter() - started),
        "seconds_of_one_product": round(one, 1),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    text = table(["", ""], [[k.replace("_", " "), str(v)] for k, v in facts.items()])
    text = f"Top three eigenvalues, thick restart, 11 basis vectors.\n\n{text}"
    title = "A transformer of 100 million parameters"
    publish(options.out, "large_transformer", title, text, {**facts, "headline": headline(facts)})


def headline(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Memory and time against what they may be."""
    task = f"top 3, transformer of {facts['parameters'] / 1e6:.0f} million parameters"
    return [
        bar(f"{task}: peak memory", floor=ratio([facts["peak_gigabytes"]], [1.0]), most=24.0, unit="GB"),
        bar(f"{task}: time", floor=ratio([facts["seconds"]], [60.0]), most=60.0, unit="min"),
    ]


if __name__ == "__main__":
    main()

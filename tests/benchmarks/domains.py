"""What the per-domain view costs: losses, gradients, conflicts and DISAM's weights of every domain at once.

    python tests/benchmarks domains [--repeat 9] [--short] [--out gallery/benchmarks]

Work: `landscape.domains` over one batch that is dealt to four domains, float32, one thread. Floor: one forward and
backward pass over all examples in bare torch, a domain at a time, since a gradient for each domain is part of the
answer and every example must be seen once. No peer computes it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from harness import bar, beside_stored, interleaved, options, publish, ratio, table
from networks import Work, chosen, passes

import landscape

DOMAINS = ("a", "b", "c", "d")


def measure(work: Work, repeat: int) -> dict[str, Any]:
    """Our time over the bare gradients."""
    parts = {
        name: (work.inputs[i::4].contiguous(), work.targets[i::4].contiguous()) for i, name in enumerate(DOMAINS)
    }
    loss = "cross_entropy" if work.targets.ndim == 1 else "token_cross_entropy"
    problem = landscape.Problem(copy.deepcopy(work.model), parts, loss, batch_size=len(work.targets))
    parameters = list(work.model.parameters())

    def bare() -> None:
        for inputs, targets in parts.values():
            torch.autograd.grad(work.criterion(work.model(inputs), targets), parameters)

    seconds = interleaved({"bare": bare, "ours": lambda: landscape.domains(problem)}, repeat)
    made = passes(problem.model, lambda: landscape.domains(problem))
    return {"network": work.name, "over_floor": ratio(seconds["ours"], seconds["bare"]), "passes": list(made)}


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 9)
    works = chosen(asked.short, asked.only).values()
    rows = beside_stored(asked.out, "domains", [measure(work, asked.repeat) for work in works])
    text = table(
        ["network", "cost / floor, min", "median", "max"],
        [[r["network"], *(f"{r['over_floor'][k]:.2f}" for k in ("least", "median", "most"))] for r in rows],
    )
    lines = [bar(f"domains, {r['network']}", floor=r["over_floor"]) for r in rows]
    counts = {f"forward passes, domains, {r['network']}": r["passes"][0] for r in rows}
    counts |= {f"gradients, domains, {r['network']}": r["passes"][1] for r in rows}
    facts = {"rows": rows, "headline": lines, "counts": counts}
    publish(asked.out, "domains", "Per-domain quantities", text, facts)


if __name__ == "__main__":
    main()

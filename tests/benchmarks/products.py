"""One Hessian-vector product against gradients and against every installed peer.

    python tests/benchmarks products [--repeat 9] [--short] [--out gallery/benchmarks]

Work: the Hessian of the mean loss over one batch, or over four, times one vector, float32, one thread. Unit: one
gradient of the same loss over the same batches in bare torch (forward and backward). Floor: a gradient does three
multiplications of matrices in each layer, forward, with respect to the input and to the weights; a product does each
of them twice, differentiated by either factor, where the graph of the gradient is kept: 2.0 gradients; and 2.67 where
forward and the gradient of the inputs are built anew each time. The first layer has no gradient of its input and
twice two instead of six multiplications, so that small networks have a smaller floor, which is computed for each. All
tools run in turns in one process. Accuracy is the relative distance of each product from ours in float64; beyond 1e-3
a product is marked wrong. Target: at most 1.15 of the floor (2.3 gradients), and 1.4 times as fast as the best right
peer. PyHessian keeps the graph of a single batch, Landscaper of every batch where it is asked to; what walks the same
graph costs the same, so that against these two the second target cannot be met where they keep.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import bar, beside_stored, interleaved, options, publish, ratio, ratios, table
from networks import Work, chosen, multiplications
from peers import as_they_need, curvature_peers, installed
from torch import Tensor

from landscape.curvature.operators import operator_of

WRONG = 1e-3


def measure(work: Work, repeat: int) -> list[dict[str, Any]]:
    """A row for each tool on one network."""
    parameters = list(work.model.parameters())

    def gradient() -> list[tuple[Tensor, ...]]:
        return [torch.autograd.grad(work.criterion(work.model(x), y), parameters) for x, y in work.batches]

    exact = work.to(torch.float64).problem()
    vector = torch.randn(exact.n_parameters, generator=torch.Generator().manual_seed(0))
    with operator_of(exact, memory=0) as reference:
        expected = reference(vector.double())
    problem = work.problem()
    with as_they_need(1200), operator_of(problem) as kept:
        rebuilt = operator_of(problem, memory=0)
        cases = {"gradient": gradient, "ours": lambda: kept(vector), "ours, rebuilt": lambda: rebuilt(vector)}
        for peer in curvature_peers(work):
            cases[peer.name] = lambda p=peer.product: p(vector)
        off = {
            n: float((c().double() - expected).norm() / expected.norm()) for n, c in cases.items() if n != "gradient"
        }
        seconds = interleaved(cases, repeat)
    over = ratios(seconds, "ours")
    first, others = multiplications(work)
    floor = (2 * first + 6 * others) / (2 * first + 3 * others)
    rows = []
    for name, (least, median, most) in ratios(seconds, "gradient").items():
        row = {"network": work.name, "tool": name, "gradients": [least, median, most], "error": off.get(name)}
        row |= {"times_ours": list(over[name]), "right": name not in off or off[name] <= WRONG}
        rows.append(row | {"floor": floor, "rounds": seconds[name]})
    return rows


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network: ours over the floor, and the best right peer over ours."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {r["tool"]: r for r in rows if r["network"] == network}
        peers = [r for n, r in mine.items() if n != "gradient" and not n.startswith("ours") and r["right"]]
        best = min(peers, key=lambda r: r["times_ours"][1], default=None)
        least = [s * mine["ours"]["floor"] for s in mine["gradient"]["rounds"]]
        found.append(
            bar(
                f"product, {network}",
                floor=ratio(mine["ours"]["rounds"], least),
                most=1.15,
                peer=best and best["tool"],
                faster=best and ratio(best["rounds"], mine["ours"]["rounds"]),
                least=1.4,
            )
        )
    return found


def rebuilt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `bounds` holds beside the headlines: products that keep nothing, over 8/3 gradients."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {r["tool"]: r["rounds"] for r in rows if r["network"] == network}
        floor = [s * 8 / 3 for s in mine["gradient"]]
        found.append(bar(f"product rebuilt, {network}", floor=ratio(mine["ours, rebuilt"], floor)))
    return found


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 9)
    made = chosen(asked.short, asked.only)
    works = [*made.values(), *(work.in_batches(4) for name, work in made.items() if name == "resnet20")]
    rows = beside_stored(asked.out, "products", [row for work in works for row in measure(work, asked.repeat)])
    text = table(
        ["network", "tool", "gradients, min", "median", "max", "times ours", "error", ""],
        [
            [
                r["network"],
                r["tool"],
                *(f"{v:.2f}" for v in r["gradients"]),
                f"{r['times_ours'][1]:.2f}",
                "" if r["error"] is None else f"{r['error']:.0e}",
                "" if r["right"] else "wrong",
            ]
            for r in rows
        ],
    )
    facts = {"rows": rows, "peers": installed(), "headline": headline(rows), "more": rebuilt(rows)}
    publish(asked.out, "products", "Curvature products", text, facts)


if __name__ == "__main__":
    main()

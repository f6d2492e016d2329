"""One Hessian-vector product against gradients and against every installed peer.

    python tests/benchmarks products [--repeat 9] [--short] [--out gallery/benchmarks]

Work: the Hessian of the mean loss over one batch, times one vector, float32, one thread. Unit: one gradient of the
same loss in bare torch (forward and backward). Floor: 2.0 gradients with the graph of the gradient kept - a product
is then one backward through that graph, which touches each multiplication of forward and backward twice - and 2.67
where it is built anew each time. All tools run in turns in one process. Accuracy is the relative distance of each
product from ours in float64; beyond 1e-3 a product is marked wrong. Target: 1.4 times as fast as the best right peer.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import bar, interleaved, options, publish, ratios, table
from networks import ALL, SHORT, Work
from peers import as_they_need, curvature_peers, installed
from torch import Tensor

from landscape.curvature.operators import operator_of

WRONG = 1e-3


def measure(work: Work, repeat: int) -> list[dict[str, Any]]:
    """A row for each tool on one network."""
    parameters = list(work.model.parameters())

    def gradient() -> tuple[Tensor, ...]:
        return torch.autograd.grad(work.criterion(work.model(work.inputs), work.targets), parameters)

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
    rows = []
    for name, (least, median, most) in ratios(seconds, "gradient").items():
        row = {"network": work.name, "tool": name, "gradients": [least, median, most], "error": off.get(name)}
        rows.append(row | {"times_ours": list(over[name]), "right": name not in off or off[name] <= WRONG})
    return rows


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network: ours over the floor, and the best right peer over ours."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {r["tool"]: r for r in rows if r["network"] == network}
        peers = [r for n, r in mine.items() if n != "gradient" and not n.startswith("ours") and r["right"]]
        best = min(peers, key=lambda r: r["times_ours"][1], default=None)
        found.append(
            bar(
                f"product, {network}",
                floor=tuple(v / 2.0 for v in mine["ours"]["gradients"]),
                peer=best and best["tool"],
                faster=best and best["times_ours"],
                target=1.4,
            )
        )
    return found


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 9)
    rows = [row for make in (SHORT if asked.short else ALL).values() for row in measure(make(), asked.repeat)]
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
    facts = {"rows": rows, "peers": installed(), "headline": headline(rows)}
    publish(asked.out, "products", "Curvature products", text, facts)


if __name__ == "__main__":
    main()

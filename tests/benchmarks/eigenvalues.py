"""The largest Hessian eigenvalues: time to a true relative residual, against every installed peer.

    python tests/benchmarks eigenvalues [--repeat 5] [--short] [--out gallery/benchmarks]

PAIRS="1 5 20" says how many pairs; each run stores its tasks beside the others'.

Work: the top 1, 5 and 20 eigenpairs over one batch until the largest true residual, |Hv - lambda v| / |lambda_max|
measured with our product, is below 1e-3 (float32), and the top 5 to 1e-6 (float64, the two small networks). One
thread, all tools in turns in one process. "ours" is `landscape.hessian` with all of its checks (symmetry,
orthogonality, missed copies, true residuals); "ours, no checks" is the bare solver, which stops on the same
residuals. Peers stop by criteria of their own; the cheapest setting of a ladder that reaches the residual is found
before timing, which nobody can do who does not know the answer. What does not reach it, or takes over a minute once
(--short: eight seconds), is marked so and is not timed again; nor is a peer that took more than twice as long as the
fastest in that one try, which stands in brackets. Floor: one product for each dimension of the smallest Krylov space
that holds the pairs to that residual, which is what the bare solver's count is. Targets: with all checks at least as
fast as the best peer that reaches the residual, without them twice as fast; for five pairs of ResNet-20 at most 34
products with all checks.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import bar, beside_stored, interleaved, options, publish, ratio, ratios, table
from networks import Work, chosen
from peers import Pairs, Solver, as_they_need, curvature_peers, eigsh_over, installed, solvers

import landscape
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.curvature.operators import Operator, operator_of

LIMIT = 60


def measure(work: Work, top: int, tol: float, repeat: int, limit: int = LIMIT) -> list[dict[str, Any]]:
    """A row for each solver."""
    problem = work.problem()
    n = problem.n_parameters

    def bare() -> Any:
        with operator_of(problem) as operator:
            return lanczos(operator, n, top=top, tol=tol, complete=False, block=1)

    def checked() -> Any:
        return landscape.hessian(problem, top=top, tol=tol)

    def arpack() -> Pairs:
        with operator_of(problem) as operator:
            return eigsh_over(operator, n, problem.dtype, top, tol)

    plain, whole = bare(), checked()
    rows = {
        "ours": {"residual": max(whole["residuals"]), "products": whole["hvp_count"], "state": "reached"},
        "ours, no checks": {
            "residual": float(plain.top.residuals.max()),
            "products": plain.krylov_products,
            "state": "reached",
        },
    }
    cases: dict[str, Callable[[], Any]] = {"ours": checked, "ours, no checks": bare}
    candidates = [Solver("ours, by eigsh", [lambda _: arpack()])]
    for peer in curvature_peers(work):
        candidates += solvers(peer, n, problem.dtype, tol)
    with operator_of(problem) as operator:
        for solver in candidates:
            found, call = cheapest(solver, operator, top, tol, limit)
            rows[solver.name] = found
            if call is not None:
                cases[solver.name] = call
    theirs = [name for name in cases if not name.startswith("ours")]
    fastest = min((rows[name]["once"] for name in theirs), default=math.inf)
    for name in theirs:
        if rows[name]["once"] > 2 * fastest:
            del cases[name]
    with as_they_need(3600):
        seconds = interleaved(cases, repeat, warm_up=0)
    over = ratios(seconds, "ours")
    for name, row in rows.items():
        row |= {"network": work.name, "top": top, "tol": tol, "tool": name}
        if name in seconds:
            row |= {"rounds": seconds[name], "times_ours": list(over[name])}
    return list(rows.values())


def cheapest(
    solver: Solver, operator: Operator, top: int, tol: float, limit: int = LIMIT
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """The first setting of the ladder that reaches the residual, or how near the last one came."""
    residual = None
    for attempt in solver.ladder:
        start = time.perf_counter()
        try:
            with as_they_need(limit):
                pairs = attempt(top)
            once = time.perf_counter() - start
        except TimeoutError as late:
            return {"residual": residual, "state": str(late), "once": time.perf_counter() - start}, None
        residual = true_residual(operator, pairs)
        if residual <= tol:
            return {"residual": residual, "state": "reached", "once": once}, lambda a=attempt: a(top)
    return {"residual": residual, "state": "missed the residual", "once": once}, None


def true_residual(operator: Operator, pairs: Pairs) -> float:
    """Largest |Hv - lambda v| over the largest |lambda| found."""
    values, vectors = pairs
    off = []
    for value, vector in zip(values, vectors, strict=True):
        unit = vector.double() / vector.double().norm()
        off.append(float((operator(unit.to(operator.dtype)).double() - value * unit).norm()))
    return max(off) / max(abs(float(v)) for v in values)


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each task: products over those of the bare solver, and the best peer over ours with and without checks."""
    found = []
    for task in dict.fromkeys((r["network"], r["top"], r["tol"]) for r in rows):
        mine = {r["tool"]: r for r in rows if (r["network"], r["top"], r["tol"]) == task}
        peers = [r for name, r in mine.items() if not name.startswith("ours") and "times_ours" in r]
        best = min(peers, key=lambda r: r["times_ours"][1], default=None)
        ours, bare = mine["ours"], mine["ours, no checks"]
        name, peer = f"top {task[1]} to {task[2]:.0e}, {task[0]}", best and best["tool"]
        most = 34 / bare["products"] if task == ("ResNet-20", 5, 1e-3) else None
        floor, faster = ratio([ours["products"]], [bare["products"]]), best and ratio(best["rounds"], ours["rounds"])
        found.append(bar(name, floor=floor, most=most, peer=peer, faster=faster, least=1.0))
        if task[1] == 5:
            alone = best and ratio(best["rounds"], bare["rounds"])
            found.append(bar(f"{name}, no checks", floor=ratio([1], [1]), peer=peer, faster=alone, least=2.0))
    return found


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Products of our own runs."""
    mine = [r for r in rows if r["tool"] in ("ours", "ours, no checks")]
    return {f"products, top {r['top']} to {r['tol']:.0e}, {r['network']}: {r['tool']}": r["products"] for r in mine}


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 5)
    rows = []
    for name, work in chosen(asked.short, asked.only or (["mlp"] if asked.short else None)).items():
        for top in (5,) if asked.short else map(int, os.environ.get("PAIRS", "1 5 20").split()):
            rows += measure(work, top, 1e-3, asked.repeat, 8 if asked.short else LIMIT)
        if name in ("mlp", "transformer") and not asked.short:
            rows += measure(work.to(torch.float64), 5, 1e-6, asked.repeat)
    rows = beside_stored(asked.out, "eigenvalues", rows)
    text = table(
        ["network", "pairs", "to", "tool", "seconds, min", "median", "max", "times ours", "residual", ""],
        [_cells(r) for r in rows],
    )
    facts = {"rows": rows, "peers": installed(), "headline": headline(rows), "counts": counts(rows)}
    publish(asked.out, "eigenvalues", "Largest eigenvalues", text, facts)


def _cells(r: dict[str, Any]) -> list[str]:
    if "rounds" in r:
        s = sorted(r["rounds"])
        times = [f"{s[0]:.2f}", f"{s[len(s) // 2]:.2f}", f"{s[-1]:.2f}", f"{r['times_ours'][1]:.2f}"]
    else:
        times = [f"({r['once']:.1f})", "", "", ""]
    state = "" if r["state"] == "reached" else r["state"]
    residual = "" if r["residual"] is None else f"{r['residual']:.0e}"
    return [r["network"], str(r["top"]), f"{r['tol']:.0e}", r["tool"], *times, residual, state]


if __name__ == "__main__":
    main()

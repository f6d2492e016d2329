"""Trace, spectral density and top eigenvalues together, against three separate calls of the best peer.

    python tests/benchmarks spectra [--repeat 3] [--short] [--out gallery/benchmarks]

Work, float32, one batch, one thread: the top 5 eigenpairs to a true residual of 1e-3, the trace to 5 % and a density
of 4 probes of 30 steps. Ours is one call of `landscape.hessian` with all checks. A peer's price is the sum of its
cheapest right call for each: of the ladder of sample counts the first whose root mean square error over five seeds,
against a trace that we know to 1 %, is at most 5 %. The three parts may come from different tools ("best of all
peers"); only the fastest right tool of each part is timed in turns with ours, the others' one try stands in brackets.
Floor: the products of the top pairs alone, which the trace and the density need beside their own. Target:
three times as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from eigenvalues import cheapest
from harness import bar, beside_stored, interleaved, options, publish, ratio, ratios, table
from networks import Work, chosen
from peers import TraceSolver, as_they_need, curvature_peers, density, installed, solvers, traces

import landscape
from landscape.curvature.operators import operator_of

LIMIT = 60


def measure(work: Work, repeat: int, limit: int = LIMIT) -> list[dict[str, Any]]:
    """A row for ours and for each part of each peer."""
    problem = work.problem()
    together = partial(landscape.hessian, problem, top=5, trace=True, trace_rtol=0.05, density=True)
    result = together()
    reference = landscape.hessian(problem, top=5, trace=True, trace_rtol=0.01)["trace"]["estimate"]
    mine = result["trace"]
    rows: dict[str, dict[str, Any]] = {
        "ours, all three": {
            "part": "all",
            "products": result["hvp_count"],
            "floor": landscape.hessian(problem, top=5)["hvp_count"],
            "error": abs(mine["estimate"] / reference - 1.0),
            "state": "",
        }
    }
    cases: dict[str, Callable[[], Any]] = {"ours, all three": together}

    def add(name: str, part: str, facts: dict[str, Any], call: Callable[[], Any] | None) -> None:
        rows[f"{name}: {part}"] = {"part": part, **facts}
        if call is not None:
            cases[f"{name}: {part}"] = call

    with operator_of(problem) as operator:
        for peer in curvature_peers(work):
            for solver in solvers(peer, problem.n_parameters, problem.dtype, 1e-3):
                found, call = cheapest(solver, operator, 5, 1e-3, limit)
                state = "" if call else found["state"]
                add(solver.name, "top 5", {"error": found["residual"], "state": state, "once": found["once"]}, call)
            for estimator in traces(peer):
                add(estimator.name, "trace", *cheapest_trace(estimator, reference, limit))
            quadrature = density(peer, 4, 30)
            if quadrature is not None:
                add(peer.name, "density", *tried(quadrature, limit))
    for part in ("top 5", "trace", "density"):
        right = sorted((n for n in cases if rows[n]["part"] == part), key=lambda n: rows[n]["once"])
        for name in right[1:]:
            del cases[name]
    with as_they_need(3600):
        seconds = interleaved(cases, repeat, warm_up=0)
    over = ratios(seconds, "ours, all three")
    for name, row in rows.items():
        row |= {"network": work.name, "tool": name}
        if name in seconds:
            row |= {"rounds": seconds[name], "times_ours": list(over[name])}
    return list(rows.values())


def tried(call: Callable[[], Any], limit: int) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """A call that is right whenever it runs at all."""
    start = time.perf_counter()
    try:
        with as_they_need(limit):
            call()
    except (TimeoutError, RuntimeError) as error:
        state = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
        return {"error": None, "state": state, "once": time.perf_counter() - start}, None
    return {"error": None, "state": "", "once": time.perf_counter() - start}, call


def cheapest_trace(
    solver: TraceSolver, reference: float, limit: int
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """The first setting whose root mean square error over five seeds is at most 5 %."""
    error = None
    for attempt in solver.ladder:
        start = time.perf_counter()
        try:
            with as_they_need(limit):
                found = [attempt(seed) for seed in range(5)]
        except TimeoutError as late:
            return {"error": error, "state": str(late), "once": time.perf_counter() - start}, None
        error = float(np.sqrt(np.mean((np.array(found) / reference - 1.0) ** 2)))
        if error <= 0.05:
            return {"error": error, "state": "", "once": (time.perf_counter() - start) / 5}, partial(attempt, 0)
    return {"error": error, "state": "missed 5 %", "once": (time.perf_counter() - start) / 5}, None


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network: the sum of the cheapest right parts of all peers over ours."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        rounds, whose = [], []
        for part in ("top 5", "trace", "density"):
            right = [r for r in rows if r["network"] == network and r["part"] == part and "times_ours" in r]
            if right:
                best = min(right, key=lambda r: r["times_ours"][1])
                rounds.append(best["rounds"])
                whose.append(best["tool"].split(":")[0])
        task, mine = f"top 5 + trace + density, {network}", next(r for r in rows if r["network"] == network)
        floor = ratio([mine["products"]], [mine["floor"]])
        if len(whose) < 3:
            found.append(bar(task, floor=floor, least=3.0))
            continue
        price = [sum(parts) for parts in zip(*rounds, strict=True)]
        faster = ratio(price, mine["rounds"])
        found.append(bar(task, floor=floor, peer=" + ".join(dict.fromkeys(whose)), faster=faster, least=3.0))
    return found


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 3)
    works = chosen(asked.short, asked.only or (["mlp"] if asked.short else None)).values()
    rows = [row for work in works for row in measure(work, asked.repeat, 8 if asked.short else LIMIT)]
    rows = beside_stored(asked.out, "spectra", rows)
    text = table(
        ["network", "tool", "seconds, min", "median", "max", "times ours", "error", ""], [_cells(r) for r in rows]
    )
    mine = {f"products, all three, {r['network']}": r["products"] for r in rows if r["part"] == "all"}
    facts = {"rows": rows, "peers": installed(), "headline": headline(rows), "counts": mine}
    publish(asked.out, "spectra", "Top eigenvalues, trace and density together", text, facts)


def _cells(r: dict[str, Any]) -> list[str]:
    s = sorted(r.get("rounds", []))
    times = [f"{s[0]:.2f}", f"{s[len(s) // 2]:.2f}", f"{s[-1]:.2f}", f"{r['times_ours'][1]:.2f}"] if s else []
    times = times or [f"({r['once']:.1f})", "", "", ""]
    return [r["network"], r["tool"], *times, "" if r["error"] is None else f"{r['error']:.1e}", r["state"]]


if __name__ == "__main__":
    main()

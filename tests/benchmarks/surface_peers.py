"""A 2-D surface of 11 x 11 points (--short: 7 x 7) against loss-landscapes and Landscaper.

    python tests/benchmarks surface_peers [--repeat 5] [--short] [--out gallery/benchmarks]

Work: the mean loss over one batch at every point of a plane, float32, one thread. Floor: as many bare forward passes
of the network, weights unmoved, no loss. The floor's target (1.05 for 128 examples or more) is that of `surface`. The
peers choose planes of their own, so that only the work is compared, not
the picture: loss-landscapes' plane is filter-normalised by its own rule, Landscaper is given two random directions.
What each leaves behind is checked too: whether the centre of its grid is the network's own loss, and whether the
network it was given is bit for bit what it was. Ours also computes the accuracy and stores every row. Target: as fast
as the faster peer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import bar, beside_stored, interleaved, options, publish, ratio, ratios, table
from networks import Work, chosen, passes
from peers import as_they_need, installed

import landscape


def measure(work: Work, repeat: int, points: int) -> list[dict[str, Any]]:
    """A row for each tool."""
    problem = work.problem()

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(points**2):
            work.model(work.inputs)

    ours = partial(landscape.surface, problem, points=points, range=0.5)
    with torch.no_grad():
        plain = float(work.criterion(work.model(work.inputs), work.targets))
    cases: dict[str, Callable[[], Any]] = {"bare forward passes": forwards, "ours": ours}
    rows: dict[str, dict[str, Any]] = {"bare forward passes": {}, "ours": {"centre": ours()["center_loss"] - plain}}
    rows["ours"]["restored"] = True  # `restored` of the result: the surface compares the bits itself
    for name, call, model in (_loss_landscapes(work, points), _landscaper(work, points)):
        if call is None:
            continue
        before = copy.deepcopy(model.state_dict())
        try:
            with as_they_need():
                grid = np.asarray(call())
        except (ArithmeticError, ValueError, RuntimeError) as error:
            rows[name] = {"network": work.name, "tool": name, "failed": f"{type(error).__name__}: {error}"}
            continue
        after = model.state_dict()
        rows[name] = {
            "centre": float(grid[points // 2, points // 2]) - plain,
            "restored": all(torch.equal(before[k], after[k]) for k in before),
        }
        cases[name] = call
    with as_they_need(3600):
        seconds = interleaved(cases, repeat, warm_up=0)
    for name, share in ratios(seconds, "bare forward passes").items():
        over = ratios(seconds, "ours")[name]
        rows[name] |= {"network": work.name, "tool": name, "forwards": list(share), "times_ours": list(over)}
        rows[name]["rounds"] = seconds[name]
    rows["ours"]["passes"] = passes(problem.model, ours)[0]
    return list(rows.values())


def _loss_landscapes(work: Work, points: int) -> tuple[str, Callable[[], Any] | None, torch.nn.Module]:
    model = copy.deepcopy(work.model)
    if installed()["loss-landscapes"] is None:
        return "loss-landscapes", None, model
    from loss_landscapes import random_plane
    from loss_landscapes.metrics import Loss

    metric = Loss(work.criterion, work.inputs, work.targets)

    def call() -> Any:
        with torch.no_grad():
            return random_plane(model, metric, distance=2, steps=points, normalization="filter")

    return "loss-landscapes", call, model


def _landscaper(work: Work, points: int) -> tuple[str, Callable[[], Any] | None, torch.nn.Module]:
    model = copy.deepcopy(work.model)
    if installed()["landscaper"] is None:
        return "Landscaper", None, model
    from landscaper.compute import compute_loss_landscape

    directions = [[torch.randn_like(p) for p in model.parameters()] for _ in range(2)]

    def scalar(network: torch.nn.Module, pair: Any) -> float:
        with torch.no_grad():
            return float(work.criterion(network(pair[0]), pair[1]))

    def call() -> Any:
        pair = (work.inputs, work.targets)
        return compute_loss_landscape(
            model, pair, directions, scalar, steps=points, distance=0.5, dim=2, device="cpu"
        )[0]

    return "Landscaper", call, model


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network: our cost over the forward passes, and the faster peer over ours."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {r["tool"]: r for r in rows if r["network"] == network}
        peers = [r for n, r in mine.items() if n in ("loss-landscapes", "Landscaper") and r.get("restored")]
        best = min(peers, key=lambda r: r["times_ours"][1], default=None)
        found.append(
            bar(
                f"surface, {network}",
                floor=ratio(mine["ours"]["rounds"], mine["bare forward passes"]["rounds"]),
                peer=best and best["tool"],
                faster=best and ratio(best["rounds"], mine["ours"]["rounds"]),
                least=1.0,
            )
        )
    return found


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 5)
    works, points = chosen(asked.short, asked.only).values(), 7 if asked.short else 11
    rows = beside_stored(
        asked.out, "surface_peers", [row for work in works for row in measure(work, asked.repeat, points)]
    )
    text = table(
        [
            "network",
            "tool",
            "forward passes, min",
            "median",
            "max",
            "times ours",
            "centre - loss",
            "network restored",
        ],
        [_cells(r) for r in rows],
    )
    mine = {f"forward passes, surface, {r['network']}": r["passes"] for r in rows if r["tool"] == "ours"}
    facts = {"rows": rows, "peers": installed(), "headline": headline(rows), "counts": mine}
    publish(asked.out, "surface_peers", "Surfaces against peers", text, facts)


def _cells(r: dict[str, Any]) -> list[str]:
    if "failed" in r:
        return [r["network"], r["tool"], "", "", "", "", "", r["failed"]]
    shares = [f"{v:.2f}" for v in r["forwards"]]
    centre = "" if r.get("centre") is None else f"{r['centre']:.1e}"
    restored = {True: "yes", False: "no", None: ""}[r.get("restored")]
    return [r["network"], r["tool"], *shares, f"{r['times_ours'][1]:.2f}", centre, restored]


if __name__ == "__main__":
    main()

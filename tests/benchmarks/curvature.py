"""Curvature products against gradients, eigenvalue runs against their peers, and what a shared run saves.

    LANDSCAPE_TEST_DATA=... python tests/benchmarks curvature [--out gallery/benchmarks]

Work: the published ResNet-20 on its first lossless training images, float32, on one device. PARTS names the parts to
measure (``products solvers sharing``, all by default), EXAMPLES how many images; each part is stored as it is
finished, beside what was stored before.

- products: floors are 2.0 gradients with activations and deltas kept, and 2.67 from scratch (`products` says why);
  targets 2.3 and 3.3.
- solvers: five largest eigenvalues. ``eigsh`` runs on our products at our tolerance, PyHessian at its defaults (1e-3
  on the change of the Rayleigh quotient). Targets: PyHessian takes three times as long as ours with all checks and
  five times as long as ours without.
- sharing: products of the five largest to 1e-3, the trace to 5 % and a density of 4 x 30 nodes, from one run and from
  one run each, the trace alone by the cheapest estimator. Target: at most 60 %.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import bar, interleaved, machine, options, publish, ratio, ratios, table
from scipy.sparse.linalg import eigsh
from scipy.stats import wasserstein_distance

import landscape
from landscape.curvature.estimators.density import density, run_of
from landscape.curvature.estimators.hutchinson import sample
from landscape.curvature.estimators.probes import Probes
from landscape.curvature.estimators.sketches import hutch_pp, xtrace
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.curvature.operators import operator_of
from landscape.curvature.second_opinion import cross_check
from landscape.models.resnet import resnet20
from landscape.weights.checkpoint import read_weights
from landscape.weights.load_state_dict import load_into

DATA = Path(os.environ["LANDSCAPE_TEST_DATA"])
EXAMPLES = int(os.environ.get("EXAMPLES", "512"))
ALONE = torch.get_num_threads() == 1 and not torch.cuda.is_available()
CLOCK = time.process_time if ALONE else time.perf_counter


def problem() -> landscape.Problem:
    model, file = resnet20(), DATA / "checkpoints/resnet20-12fca82f.th"
    load_into(model, read_weights(file), file)
    images = np.load(DATA / "cifar10-lossless-6102.npz")
    x = torch.from_numpy(images["x_train"][:EXAMPLES]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    y = torch.from_numpy(images["y_train"][:EXAMPLES].astype(np.int64))
    return landscape.Problem(model, ((x - mean) / std, y), batch_size=128)


def products(repeat: int) -> dict[str, Any]:
    p = problem()
    v = torch.randn(p.n_parameters, generator=torch.Generator().manual_seed(0))
    with operator_of(p) as kept, operator_of(p, "ggn") as ggn:
        rebuilt = operator_of(p, memory=0)
        cases = {
            "gradient": p.gradient,
            "product, graph kept": lambda: kept(v),
            "product, rebuilt": lambda: rebuilt(v),
            "Gauss-Newton, graph kept": lambda: ggn(v),
        }
        seconds = interleaved(cases, repeat)
        return {"gradients": ratios(seconds, "gradient"), "rounds": seconds}


def solvers(_: int) -> dict[str, Any]:
    p = problem()
    rows: list[dict[str, Any]] = []

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = CLOCK()
        found = call()
        rows.append({"solver": name, "seconds": CLOCK() - start})
        return found

    with operator_of(p) as op:
        plain = timed("ours, without checks", lambda: lanczos(op, op.n, top=5, tol=1e-3, complete=False, block=1))
        rows[-1] |= {
            "products": op.count,
            "krylov": plain.krylov_products,
            "residual": float(plain.top.residuals.max()),
        }
    result = timed("ours, all checks", lambda: landscape.hessian(p, top=5))
    rows[-1] |= {
        "products": result["hvp_count"],
        "krylov": result["krylov_products"],
        "residual": max(result["residuals"]),
    }
    with operator_of(p) as op:
        values, vectors = timed("eigsh on our products", lambda: eigsh(op.to_scipy(), 5, which="LA", tol=1e-3))
        count, scale = op.count, float(values.max())
        columns = [torch.from_numpy(np.array(column)) for column in vectors.T]
        off = [float((op(c).double() - v * c).norm()) / scale for v, c in zip(values, columns, strict=True)]
        rows[-1] |= {"products": count, "krylov": count, "residual": max(off)}
        started = CLOCK()
        theirs = cross_check("pyhessian", p, op, top=5, scale=scale, seed=0)
        taken = CLOCK() - started  # with five of our products for the residuals, taken off again
        five = 5 * rows[-1]["seconds"] / count
        rows.append({"solver": "PyHessian, defaults", "seconds": taken - five, "residual": max(theirs["residuals"])})
    return {"rows": rows}


def sharing(_: int) -> dict[str, Any]:
    p = problem()
    n = p.n_parameters
    together = landscape.hessian(p, top=5, trace=True, density=True)
    found: dict[str, Any] = {"together": together["hvp_count"], "trace": together["trace"]}
    found["top five alone"] = landscape.hessian(p, top=5)["hvp_count"]
    with operator_of(p) as op:
        estimates = {
            "hutchinson": lambda: sample(Probes(op, n, 1), rtol=0.05).trace,
            "hutch++": lambda: hutch_pp(op, n, rtol=0.05, seed=1),
            "xtrace": lambda: xtrace(op, n, rtol=0.05, seed=1),
        }
        found["traces alone"] = {k: call().record() for k, call in estimates.items()}
        probes = Probes(op, n, 1)
        plain = density([run_of(probes, i, 30) for i in range(4)], n)
    found["density alone"] = probes.made
    cheapest = min(t["hvp_count"] for t in found["traces alone"].values())
    found["share"] = found["together"] / (found["top five alone"] + cheapest + found["density alone"])
    shared = together["density"]
    found["distance of the densities"] = wasserstein_distance(
        shared["nodes"], np.concatenate(plain.nodes), shared["weights"], np.concatenate(plain.weights) / 4
    )
    halves = [(plain.nodes[i], plain.weights[i]) for i in range(4)]
    found["distance between probes"] = float(
        np.mean([wasserstein_distance(a, b, u, w) for i, (a, u) in enumerate(halves) for b, w in halves[:i]])
    )
    return found


def _products_table(found: Mapping[str, Any]) -> str:
    rows = [[name, *(f"{v:.2f}" for v in values)] for name, values in found["gradients"].items()]
    return table(["", "x gradient, min", "median", "max"], rows)


def _solvers_table(found: Mapping[str, Any]) -> str:
    def cells(row: Mapping[str, Any]) -> list[str]:
        counts = (str(row.get(name, "")) for name in ("products", "krylov"))
        return [row["solver"], f"{row['seconds']:.1f}", *counts, f"{row['residual']:.1e}"]

    head = ["top five", "seconds", "products", "of these Krylov", "largest true residual"]
    return table(head, [cells(row) for row in found["rows"]])


def _sharing_table(found: Mapping[str, Any]) -> str:
    def of(trace: Mapping[str, Any]) -> str:
        return f"trace {trace['estimate']:.4g} ± {trace['stderr']:.2g}, {trace['samples']} samples"

    rows = [
        ["together", str(found["together"]), of(found["trace"])],
        ["top five alone", str(found["top five alone"]), ""],
        *([f"trace alone, {k}", str(t["hvp_count"]), of(t)] for k, t in found["traces alone"].items()),
        ["density alone", str(found["density alone"]), ""],
        ["together / (top five + cheapest trace + density)", f"{100 * found['share']:.0f} %", ""],
    ]
    note = (
        f"Wasserstein-1 distance of the shared density from the one alone: {found['distance of the densities']:.2g}; "
        f"between two single probes of the latter, on average: {found['distance between probes']:.2g}."
    )
    return table(["", "products", ""], rows) + "\n\n" + note


PARTS: dict[str, tuple[Callable[[int], dict[str, Any]], Callable[[Mapping[str, Any]], str]]] = {
    "products": (products, _products_table),
    "solvers": (solvers, _solvers_table),
    "sharing": (sharing, _sharing_table),
}


def headline(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the parts that are stored say about their targets."""
    lines = []
    if "products" in parts:
        seen = parts["products"]
        for name, floor, most in (("product, graph kept", 2.0, 2.3), ("product, rebuilt", 8 / 3, 3.3)):
            least = [floor * s for s in seen["rounds"]["gradient"]]
            task = f"{name}, ResNet-20, {seen['examples']} images"
            lines.append(bar(task, floor=ratio(seen["rounds"][name], least), most=most / floor))
    if "solvers" in parts:
        seen = parts["solvers"]
        rows = {row["solver"]: row for row in seen["rows"]}
        theirs = rows["PyHessian, defaults"]
        for name, least in (("ours, all checks", 3.0), ("ours, without checks", 5.0)):
            mine = rows[name]
            coarser = theirs["residual"] / mine["residual"]
            lines.append(
                bar(
                    f"top 5, ResNet-20, {seen['examples']} images, {name.removeprefix('ours, ')}, one run",
                    floor=ratio([mine["products"]], [mine["krylov"]]),
                    peer=f"PyHessian, defaults (residual {coarser:.0f} times as large)",
                    faster=ratio([theirs["seconds"]], [mine["seconds"]]),
                    least=least,
                )
            )
    if "sharing" in parts:
        seen = parts["sharing"]
        task = f"top 5 + trace + density together, ResNet-20, {seen['examples']} images"
        share = ratio([100 * seen["share"]], [1.0])
        lines.append(bar(task, floor=share, most=60.0, unit="% of the products of one run each"))
    return lines


def main() -> None:
    asked = options(__doc__, 5)
    file = asked.out / "curvature.json" if asked.out else None
    stored: dict[str, Any] = json.loads(file.read_text())["parts"] if file and file.exists() else {}
    for name in os.environ.get("PARTS", " ".join(PARTS)).split():
        facts = {"examples": EXAMPLES, **machine()}
        stored[name] = {**facts, **PARTS[name][0](asked.repeat)}
        texts = []
        for part in (p for p in PARTS if p in stored):
            seen = stored[part]
            where = f"{seen['examples']} examples, {seen['threads']} thread(s), {seen['clock']} time"
            where += f", {seen['date']}, commit {seen['commit']}"
            texts.append(f"## {part}\n\n{where}\n\n{PARTS[part][1](seen)}")
        facts = {"parts": stored, "headline": headline(stored)}
        publish(asked.out, "curvature", "Curvature", "\n\n".join(texts), facts)


if __name__ == "__main__":
    main()

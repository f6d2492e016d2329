"""Curvature products against gradients, and eigenvalue runs against their peers, ResNet-20 on CIFAR images.

    LANDSCAPE_TEST_DATA=... python tests/benchmarks/curvature.py [--repeat 5] [--out gallery/benchmarks]

Work: the published ResNet-20 on the first EXAMPLES lossless training images, float32, on one device. Floors of a
product: 2.0 gradients with activations and deltas kept, 2.67 from scratch. ``eigsh`` runs on the same products at
the same tolerance; PyHessian at its defaults (tol 1e-3 on the change of the Rayleigh quotient). The second table
counts products: top five at 1e-3, trace to 5 % and density of 4 x 30, together and each alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, options, publish, ratios, table
from scipy.sparse.linalg import eigsh

import landscape
from landscape.checkpoint import read_weights
from landscape.curvature.density import run_of
from landscape.curvature.estimates import Probes, hutch_pp, sample, xtrace
from landscape.curvature.lanczos import lanczos
from landscape.curvature.operators import operator_of
from landscape.curvature.second_opinion import cross_check
from landscape.fitting import load_into
from landscape.models.resnet import resnet20

DATA = Path(os.environ["LANDSCAPE_TEST_DATA"])
EXAMPLES = int(os.environ.get("EXAMPLES", "512"))
PEER_EXAMPLES = int(os.environ.get("PEER_EXAMPLES", str(EXAMPLES)))


def problem(examples: int) -> landscape.Problem:
    model, file = resnet20(), DATA / "checkpoints/resnet20-12fca82f.th"
    load_into(model, read_weights(file), file)
    images = np.load(DATA / "cifar10-lossless-6102.npz")
    x = torch.from_numpy(images["x_train"][:examples]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    y = torch.from_numpy(images["y_train"][:examples].astype(np.int64))
    return landscape.Problem(model, ((x - mean) / std, y), batch_size=128)


def products(repeat: int) -> dict[str, tuple[float, float, float]]:
    p = problem(EXAMPLES)
    v = torch.randn(p.n_parameters, generator=torch.Generator().manual_seed(0))
    with operator_of(p) as kept, operator_of(p, "ggn") as ggn:
        rebuilt = operator_of(p, memory=0)
        cases = {
            "gradient": p.gradient,
            "product, graph kept": lambda: kept(v),
            "product, rebuilt": lambda: rebuilt(v),
            "Gauss-Newton, graph kept": lambda: ggn(v),
        }
        return ratios(interleaved(cases, repeat), "gradient")


def solvers() -> list[dict[str, Any]]:
    p = problem(PEER_EXAMPLES)
    rows = []

    def timed(name: str, call: Any) -> Any:
        start = time.perf_counter()
        found = call()
        rows.append({"solver": name, "seconds": time.perf_counter() - start})
        return found

    with operator_of(p) as op:
        plain = timed("ours, without checks", lambda: lanczos(op, op.n, top=5, tol=1e-3, complete=False))
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
        theirs = cross_check("pyhessian", p, op, top=5, scale=scale, seed=0)
        rows.append(
            {"solver": "PyHessian, defaults", "seconds": theirs["seconds"], "residual": max(theirs["residuals"])}
        )
    return rows


def sharing() -> dict[str, int]:
    p = problem(int(os.environ.get("SHARED_EXAMPLES", "32")))
    together = landscape.hessian(p, top=5, trace=True, density=True)
    with operator_of(p) as op:
        alone = {"top five": landscape.hessian(p, top=5)["hvp_count"]}
        alone["density, 4 probes of 30"] = [run_of(Probes(op, op.n, 0), i, 30) for i in range(4)] and 120
        alone["trace, Hutchinson"] = sample(Probes(op, op.n, 1), rtol=0.05).trace.products
        alone["trace, Hutch++"] = hutch_pp(op, op.n, rtol=0.05, seed=1).products
        alone["trace, XTrace"] = xtrace(op, op.n, rtol=0.05, seed=1).products
    return {"together": together["hvp_count"], **alone}


def _cells(row: dict[str, Any]) -> list[str]:
    counts = (str(row.get(name, "")) for name in ("products", "krylov"))
    return [row["solver"], f"{row['seconds']:.1f}", *counts, f"{row['residual']:.1e}"]


def main() -> None:
    asked = options(__doc__, 5)
    shares = products(asked.repeat)
    first = table(
        ["", "x gradient, min", "median", "max"], [[n, *(f"{v:.2f}" for v in s)] for n, s in shares.items()]
    )
    counts = sharing()
    third = table(["products", ""], [[n, str(c)] for n, c in counts.items()])
    print(first, third, sep="\n\n", flush=True)
    rows = solvers()
    second = table(
        ["top five", "seconds", "products", "of these Krylov", "largest true residual"],
        [_cells(r) for r in rows],
    )
    facts = {
        "examples": EXAMPLES,
        "peer_examples": PEER_EXAMPLES,
        "ratios": shares,
        "solvers": rows,
        "sharing": counts,
    }
    publish(asked.out, "curvature", "Curvature", "\n\n".join((first, second, third)), facts)


if __name__ == "__main__":
    main()

"""Every analysis, and the trainer, on two devices: how far apart the answers are.

Used by the tests of this folder and by ``tests/benchmarks/gpu.py``, which writes the distances down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import landscape
from landscape.problem.problem import Problem
from landscape.registry import OPTIMIZERS

# Distances relative to the largest entry that are rounding, by floating type. What iterates (eigenvalues, ascents,
# five training steps) has a factor of its own beside it.
LIMIT = {"float64": 1e-11, "float32": 1e-4}
FACTOR = {"hessian": 100.0, "sharpness": 10.0, "domains": 10.0, "surface": 10.0, "path": 10.0, "train": 1e3}


def network(seed: int = 0) -> nn.Sequential:
    """Convolution, BatchNorm, pooling and a linear layer, with weights that every device gets alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 3)
        )
    model[1].running_var.fill_(1.7)
    return model.double()


def images() -> dict[str, Any]:
    """Domains of 23, 11 and 7 images of 8 x 8 pixels."""
    g = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(n, 1, 8, 8, generator=g, dtype=torch.float64) + i, torch.randint(0, 3, (n,), generator=g))
        for i, (name, n) in enumerate((("a", 23), ("b", 11), ("c", 7)))
    }


def data() -> dict[str, Any]:
    """For the trainer."""
    return {"train": images()}


def on(device: str, dtype: str) -> Problem:
    """The same problem on a device."""
    return Problem(network(), images(), device=device, dtype=dtype, batch_size=16)


def _basics(device: str, dtype: str) -> dict[str, Any]:
    p = on(device, dtype)
    v = torch.sin(torch.arange(p.n_parameters, dtype=torch.float64)).to(p.device, p.dtype)
    return {
        "loss": p.loss(),
        "gradient": p.gradient(),
        "product": p.hvp(v),
        "example losses": p.example_losses(),
        "sums": p.sums(),
    }


def _hessian(device: str, dtype: str) -> dict[str, Any]:
    tol = 1e-6 if dtype == "float64" else 1e-3
    found = landscape.hessian(on(device, dtype), top=3, bottom=1, tol=tol, trace=True, trace_rtol=0.5, density=True)
    return {k: found[k] for k in ("eigenvalues", "smallest", "gradient_norm")} | {"trace": found["trace"]["estimate"]}


def _sharpness(device: str, dtype: str) -> dict[str, Any]:
    p = on(device, dtype)
    names = ("m-sharpness", "fisher-rao", "gradient-variance", "input-sharpness", "average-case", "margin")
    rows = landscape.sharpness(p, measure=names, draws=5).record["measures"]
    return {f"{r['measure']} {r['m']}": r["value"] for r in rows}


def _domains(device: str, dtype: str) -> dict[str, Any]:
    found = landscape.domains(on(device, dtype), sharpness=True)
    table = {f"{n} {k}": d[k] for n, d in found["domains"].items() for k in ("loss", "gradient_norm", "m_sharpness")}
    return {**table, "cosine": found["gradient_cosine"]["matrix"]}


def _surface(device: str, dtype: str) -> dict[str, Any]:
    plane = landscape.surface(on(device, dtype), points=5)
    line = landscape.surface(on(device, dtype), dim=1, points=5, direction=("sam:0.5",))
    return {"plane": plane.data["loss"].values, "line": line.data["loss"].values}


def _path(device: str, dtype: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "b.pt"
        torch.save(network(seed=2).state_dict(), other)
        found = landscape.path(on(device, dtype), other, points=5, bn="keep")
    return {"loss": found.data["loss"].values, "barrier": found["barrier"]}


def _train(device: str, dtype: str) -> dict[str, Any]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in OPTIMIZERS:
            (run,) = landscape.train(
                Path(folder) / name, optimizer=(name,), model=f"{__file__}:network", data=f"{__file__}:data",
                dtype=dtype, device=device, steps=5, batch_size=9, lr=0.05,
            )  # fmt: skip
            found[name] = landscape.open(run, device="cpu", dtype=dtype).weights
    return found


ANALYSES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "basics": _basics,
    "hessian": _hessian,
    "sharpness": _sharpness,
    "domains": _domains,
    "surface": _surface,
    "path": _path,
    "train": _train,
}


def limit(analysis: str, dtype: str) -> float:
    """The largest distance that rounding explains."""
    return LIMIT[dtype] * FACTOR.get(analysis, 1.0)


def distances(device: str) -> Iterator[dict[str, Any]]:
    """For each analysis and type the largest relative distance between ``device`` and the CPU, and where it is."""
    for dtype in ("float64", "float32"):
        for name, ask in ANALYSES.items():
            if (name, dtype) == ("train", "float32"):
                continue  # a few steps at a large learning rate magnify rounding without end
            here, there = ask("cpu", dtype), ask(device, dtype)
            found = {k: distance(here[k], there[k]) for k in here}
            worst = max(found, key=lambda k: found[k])
            yield {
                "analysis": name,
                "dtype": dtype,
                "distance": found[worst],
                "of": worst,
                "limit": limit(name, dtype),
                "agrees": found[worst] <= limit(name, dtype),
            }


def distance(a: Any, b: Any) -> float:
    """Largest difference relative to the largest entry; infinite where one is no number and the other is."""
    x, y = (np.asarray(t.cpu().double() if isinstance(t, torch.Tensor) else t, dtype=float) for t in (a, b))
    if x.shape != y.shape or (np.isfinite(x) != np.isfinite(y)).any():
        return float("inf")
    return float(np.abs(np.nan_to_num(x - y)).max() / max(np.abs(np.nan_to_num(x)).max(), 1e-300))

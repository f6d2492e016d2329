"""What a surface costs beside its bare forward passes, and what an adaptive grid loses.

    LANDSCAPE_TEST_DATA=... python tests/benchmarks/surface.py [--out gallery/benchmarks]

Two parts. *Cost*: CPU time of whole surfaces in memory divided by that of as many bare forward passes of the network
over the same batches (no loss, no weights moved), both in one process on one thread, in turns; the median over
rounds. The demo's surfaces have the usual 21 x 21 points, ResNet-20's 7 x 7. Target: at most 1.05 for 128 examples or
more. *Accuracy*: a grid of 41 x 41 points is evaluated; a regular
grid of 21 x 21 and an adaptive one of at most 40 % of its points are completed from it, and the largest error of
log10 loss of each is given. The regular grid is interpolated twice: linearly in each cell, as contours are drawn, and
by the same cubic radial basis function as the adaptive one. Target: no larger than the regular grid's own error,
which is that of the linear interpolation; the smooth one says what a regular grid could give.

Networks: the SGD run of the demo (all 960 seen examples), and the published ResNet-20 on its own training images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import landscape
from landscape.checkpoint import read_weights
from landscape.fitting import load_into
from landscape.models.resnet import resnet20
from landscape.problem import Problem
from landscape.surfaces import adaptive
from landscape.surfaces.surface import surface

POINTS = 21


def demo_problem() -> Problem:
    """The demo's SGD network with its seen training examples."""
    with tempfile.TemporaryDirectory() as folder:
        run = landscape.train(
            folder, optimizer=("sgd",), epochs=40, schedule="cosine", weight_decay=5e-4, holdout=("0", "75")
        )[0]
        return landscape.open(run)


def published_problem(data: Path, examples: int) -> Problem:
    """The published ResNet-20 on its first training images."""
    model = resnet20()
    file = data / "checkpoints/resnet20-12fca82f.th"
    load_into(model, read_weights(file), file)
    images = np.load(data / "cifar10-lossless-6102.npz")
    x = torch.from_numpy(images["x_train"][:examples]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return Problem(model, ((x - mean) / std, torch.from_numpy(images["y_train"][:examples].astype(np.int64))))


def cost(problem: Problem, rounds: int, points: int = POINTS) -> dict[str, float]:
    """Ratio of a ``points`` x ``points`` surface to its bare forward passes."""
    batches = [b.inputs for b in problem.batches()]

    def bare() -> None:
        with torch.no_grad():
            for _ in range(points**2 + 3):  # the centre is evaluated three times more
                for inputs in batches:
                    problem.model(inputs)

    ratios, passes = [], []
    for _ in range(rounds):
        start = time.process_time()
        bare()
        middle = time.process_time()
        surface(problem, points=points)
        end = time.process_time()
        ratios.append((end - middle) / (middle - start))
        passes.append((middle - start) / (points**2 + 3))
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "pass": min(passes)}


def accuracy(problem: Problem, seed: int) -> dict[str, Any]:
    """Largest errors of log10 loss of a regular and an adaptive grid against a grid twice as fine."""
    from scipy.interpolate import RegularGridInterpolator

    fine = surface(problem, points=2 * POINTS - 1, seed=seed)
    truth = np.log10(fine.data["loss"].values)
    size = len(truth)
    places = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2)
    coarse = places[(places % 2 == 0).all(1)]
    axis = np.arange(0, size, 2)
    linear = RegularGridInterpolator((axis, axis), truth[::2, ::2])(places).reshape(size, size)
    smooth = np.log10(adaptive.fill(coarse, 10 ** truth[coarse[:, 0], coarse[:, 1]], size))

    def look(_: str, where: Any) -> Any:
        values = 10 ** truth[where[:, 0], where[:, 1]]
        return np.stack([values, values, np.ones_like(values)], 1)[:, :, None]

    chosen, numbers = adaptive.refine(POINTS, look)
    found = np.log10(adaptive.fill(chosen, numbers[:, 0, 0], size))
    errors = {k: np.abs(v - truth) for k, v in (("linear", linear), ("smooth", smooth), ("adaptive", found))}
    return {
        "seed": seed,
        "points": len(chosen),
        "share": len(chosen) / POINTS**2,
        **{f"{k}_max": float(e.max()) for k, e in errors.items()},
        **{f"{k}_mean": float(e.mean()) for k, e in errors.items()},
    }


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=64, help="of the ResNet-20's fine grid")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    demo = demo_problem()
    data = Path(os.environ.get("LANDSCAPE_TEST_DATA", "/nowhere"))
    costs = [("demo", n, cost(demo.of_examples(np.arange(n)), options.rounds)) for n in (8, 128, 960)]
    grids = [("demo", accuracy(demo, seed)) for seed in range(options.seeds)]
    if data.is_dir():
        for n in (8, 128):
            costs.append(("resnet20", n, cost(published_problem(data, n), options.rounds, points=7)))
        network = published_problem(data, options.examples)
        grids += [("resnet20", accuracy(network, seed)) for seed in range(options.seeds)]
    measured = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, 1 thread",
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "cost": [{"network": name, "examples": n, **c} for name, n, c in costs],
        "accuracy": [{"network": name, **g} for name, g in grids],
    }
    text = markdown(measured)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "surface.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        (options.out / "surface.md").write_text(text, encoding="utf-8")


def markdown(measured: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        "# Surfaces: cost and accuracy",
        "",
        f"{measured['date']}, {measured['machine']}, torch {measured['versions']['torch']}. "
        "Made by `tests/benchmarks/surface.py`, which says what is measured.",
        "",
        "| network | examples | ms per forward pass | surface / bare passes (least to most) |",
        "|---|---|---|---|",
        *(
            f"| {c['network']} | {c['examples']} | {1e3 * c['pass']:.1f} "
            f"| {c['ratio']:.3f} ({c['least']:.3f} to {c['most']:.3f}) |"
            for c in measured["cost"]
        ),
        "",
        "Largest error of log10 loss against 41 x 41 points (mean in brackets); the regular grid has 441 points. "
        "Its own error is the linear one, since contours are drawn so; the smooth one is what could be made of it.",
        "",
        "| network | seed | regular, linear | regular, smooth | adaptive | points of the adaptive grid |",
        "|---|---|---|---|---|---|",
    ]
    for g in measured["accuracy"]:
        cells = " | ".join(f"{g[f'{k}_max']:.4f} ({g[f'{k}_mean']:.4f})" for k in ("linear", "smooth", "adaptive"))
        lines.append(f"| {g['network']} | {g['seed']} | {cells} | {g['points']} ({100 * g['share']:.0f} %) |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()

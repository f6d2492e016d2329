"""What a surface costs beside its bare forward passes, and what an adaptive grid loses.

    LANDSCAPE_TEST_DATA=... python tests/benchmarks surface [--out gallery/benchmarks]

Two parts. *Cost*: CPU time of whole surfaces in memory divided by that of the bare forward passes of the network over
the same batches at the same points (no loss; going there is not counted), both in one process on one thread, in
turns; the median over rounds. Beside it the same over as many passes at the centre, which are not quite as long as
elsewhere. The demo's surfaces have the usual 21 x 21 points, ResNet-20's 7 x 7. Target: at most 1.05 for 128 examples
or more. *Accuracy*: a grid of 41 x 41 points is evaluated; a regular grid of 21 x 21 and an adaptive one of at most
40 % of its points are completed from it, and the largest error of log10 loss of each is given. The regular grid is
interpolated twice: linearly in each cell, as contours are drawn, and by the same cubic radial basis function as the
adaptive one. Target: no larger than the regular grid's own error, which is that of the linear interpolation; the
smooth one says what a regular grid could give.

Networks: the SGD run of the demo (all 960 seen examples), and the published ResNet-20 on its own training images.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import bar, machine, publish, ratio, table

import landscape
from landscape.models.resnet import resnet20
from landscape.problem.problem import Problem
from landscape.specs import SurfaceSpec
from landscape.surfaces.directions.parse import directions_of
from landscape.surfaces.evaluate import adaptive
from landscape.surfaces.evaluate.grid import axis_values
from landscape.surfaces.surface import surface
from landscape.weights.checkpoint import read_weights
from landscape.weights.load_state_dict import load_into

POINTS = 21
DATA = Path(os.environ.get("LANDSCAPE_TEST_DATA", "/nowhere"))


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


def cost(problem: Problem, rounds: int, points: int = POINTS) -> dict[str, Any]:
    """Ratio of a ``points`` x ``points`` surface to its bare forward passes."""
    batches = [b.inputs for b in problem.batches()]
    axes = directions_of(problem, SurfaceSpec(points=points), 0)
    steps = axis_values(points, 1.0)
    places = [(x, y) for y in steps for x in steps] + 3 * [(0.0, 0.0)]  # the centre is evaluated three times more

    def bare(scale: float) -> float:
        """Seconds of the passes alone, at the surface's points or, all scaled to nothing, at the centre."""
        seconds = 0.0
        with problem.temporary_weights() as tensors:
            centre = [t.clone() for t in tensors]
            for place in places:
                torch._foreach_copy_(tensors, centre)
                for step, direction in zip(place, axes, strict=True):
                    torch._foreach_add_(tensors, direction.tensors, alpha=scale * step)
                start = time.process_time()
                for inputs in batches:
                    problem.model(inputs)
                seconds += time.process_time() - start
        return seconds

    rounds_of: dict[str, list[float]] = {"points": [], "centre": [], "surface": []}
    for _ in range(rounds):
        rounds_of["points"].append(bare(1.0))
        rounds_of["centre"].append(bare(0.0))
        start = time.process_time()
        surface(problem, points=points)
        rounds_of["surface"].append(time.process_time() - start)
    return {
        "over_floor": ratio(rounds_of["surface"], rounds_of["points"]),
        "over_centre": ratio(rounds_of["surface"], rounds_of["centre"]),
        "pass": min(rounds_of["points"]) / len(places),
    }


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


def headline(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Costs with 128 examples or more, and the errors of adaptive grids over those of regular ones."""
    lines = [
        bar(f"surface, {c['network']}, {c['examples']} examples", floor=c["over_floor"], most=1.05)
        for c in parts.get("cost", {}).get("rows", [])
        if c["examples"] >= 128
    ]
    grids = parts.get("accuracy", {}).get("rows", [])
    for name in dict.fromkeys(g["network"] for g in grids):
        errors = [(g["adaptive_max"], g["linear_max"]) for g in grids if g["network"] == name]
        lines.append(
            bar(
                f"largest error of an adaptive grid with 40 % of the points, {name}",
                floor=ratio(*zip(*errors, strict=True)),
                most=1.0,
                unit="of the regular grid's",
            )
        )
    return lines


def costs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The first part."""
    demo = demo_problem()
    rows = [("demo", n, cost(demo.restrict_to_examples(np.arange(n)), options.rounds)) for n in (8, 128, 960)]
    if DATA.is_dir():
        rows += [("ResNet-20", n, cost(published_problem(DATA, n), options.rounds, points=7)) for n in (8, 128)]
    return [{"network": name, "examples": n, **found} for name, n, found in rows]


def grids(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The second."""
    networks = {"demo": demo_problem()}
    if DATA.is_dir():
        networks["ResNet-20"] = published_problem(DATA, options.examples)
    return [{"network": n, **accuracy(p, seed)} for n, p in networks.items() for seed in range(options.seeds)]


def main() -> None:
    """Measure and store, a part at a time, beside what was stored before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("cost", "accuracy"), default=["cost", "accuracy"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=64, help="of the ResNet-20's fine grid")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = options.out / "surface.json" if options.out else None
    parts: dict[str, Any] = json.loads(file.read_text())["parts"] if file and file.is_file() else {}
    for part in options.parts:
        rows = costs(options) if part == "cost" else grids(options)
        parts[part] = {**{k: v for k, v in machine().items() if k in ("date", "commit")}, "rows": rows}
    facts = {"parts": parts, "headline": headline(parts)}
    publish(options.out, "surface", "Surfaces: cost and accuracy", markdown(parts), facts)


def markdown(parts: dict[str, Any]) -> str:
    """Both tables."""
    found = []
    if "cost" in parts:
        rows = [
            [c["network"], str(c["examples"]), f"{1e3 * c['pass']:.1f}"]
            + [f"{c['over_floor'][k]:.3f}" for k in ("least", "median", "most")]
            + [f"{c['over_centre']['median']:.3f}"]
            for c in parts["cost"]["rows"]
        ]
        head = [
            "network",
            "examples",
            "ms per forward pass",
            "surface / bare passes, min",
            "median",
            "max",
            "at the centre",
        ]
        found.append(table(head, rows))
    if "accuracy" in parts:
        found.append(
            "Largest error of log10 loss against 41 x 41 points (mean in brackets); the regular grid has 441 points. "
            "Its own error is the linear one, since contours are drawn so; the smooth one is what it could give."
        )
        rows = [
            [g["network"], str(g["seed"])]
            + [f"{g[f'{k}_max']:.4f} ({g[f'{k}_mean']:.4f})" for k in ("linear", "smooth", "adaptive")]
            + [f"{g['points']} ({100 * g['share']:.0f} %)"]
            for g in parts["accuracy"]["rows"]
        ]
        head = ["network", "seed", "regular, linear", "regular, smooth", "adaptive", "points of the adaptive grid"]
        found.append(table(head, rows))
    return "\n\n".join(found)


if __name__ == "__main__":
    main()

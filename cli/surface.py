"""The loss along one or two directions, on a grid: 1-D and 2-D slices with their self-checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec, SurfaceSpec

from .analysis import run_analysis
from .options import AnalysisCommon
from .screen import Screen, number


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape surface``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: SurfaceSpec = field(default_factory=SurfaceSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: AnalysisCommon = field(default_factory=AnalysisCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Compute, print the self-checks."""
    a = arguments
    return run_analysis("surface", a.targets, a.problem, a.spec, a.common, screen, show)


def show(result: Any, screen: Screen) -> None:
    """Print the self-checks of one result."""
    import numpy as np

    r = result.record
    loss = result.data["loss"].values
    finite = loss[np.isfinite(loss)]
    pairs = [
        ("grid", f"{r['kind']}, {' x '.join(map(str, r['shape']))}"),
        (
            "loss on the grid",
            f"{number(finite.min())} to {number(finite.max())}" if finite.size else "nowhere finite",
        ),
        ("centre, plain evaluation", f"{r['center_loss']:.8g}, {r['plain_loss']:.8g}"),
        (
            "axes",
            ", ".join(f"{a['direction']} seed {a['seed']} norm {number(a['norm'])}" for a in r["axes"][:2]),
        ),
        ("|d1| / |w|", number(r["relative_norm"])),
        ("cosine of the axes", number(r["cosine"], 2)),
        ("fixed parameters", f"{r['fixed_parameters']:,}"),
        ("NaN, infinite cells", f"{r['nan_cells']}, {r['infinite_cells']}"),
        ("BatchNorm", f"{r['batchnorm_layers']} layers, statistics: {r['bn_policy']}"),
        ("model restored", "yes, bit for bit" if r["restored"] else "NO"),
    ]
    screen.facts(pairs)

"""The loss along one or two directions, on a grid: 1-D and 2-D slices with their self-checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec, SurfaceSpec

from .analysis import expand, facts, must_exist
from .drawing import check_kinds, drawn
from .options import DrawnCommon
from .screen import MOST_BLOCKS, Screen, number, percent

if TYPE_CHECKING:
    from landscape.results.result import Result


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape surface``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: SurfaceSpec = field(default_factory=SurfaceSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: DrawnCommon = field(default_factory=DrawnCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Compute, print the self-checks."""
    a, common = arguments, arguments.common
    check_kinds(common.figure, "--figure")
    must_exist(a.targets)
    from landscape.analyses.joint import surfaces

    results = surfaces(
        expand(a.targets, common.checkpoints),
        a.problem,
        a.spec,
        out=common.out,
        force=common.force,
        trust=common.trust_run,
    )
    for result in results[:MOST_BLOCKS]:
        screen.finish()
        screen.path("target", result["target"])
        screen.line(facts(result))
        show(result, screen)
        screen.path("result", result.path)
        screen.line()
    screen.left_out(len(results) - MOST_BLOCKS, "targets")
    objects = [result.to_json() for result in results]
    one = len(objects) == 1 and (common.checkpoints == "last" or results[0].kind == "plane")
    return drawn(objects[0] if one else {"results": objects}, results, common, screen)


def show(result: Result, screen: Screen) -> None:
    """Print the self-checks of one result."""
    import numpy as np

    r = result.record
    loss = result.data["loss"].values if "loss" in result.data else np.array([])
    known = np.isfinite(loss)
    if "evaluated" in result.data:
        known &= result.data["evaluated"].values.astype(bool)
    finite = loss[known]
    pairs = [
        ("grid", f"{r['kind']}, {' x '.join(map(str, r['shape']))}, {r['evaluated_points']} points evaluated"),
        (
            "loss on the grid",
            f"{number(finite.min())} to {number(finite.max())}" if finite.size else "nowhere finite",
        ),
        ("range", reach(r, result.data)),
        ("centre, plain evaluation", f"{r['center_loss']:.8g}, {r['plain_loss']:.8g}{equality(r)}"),
        ("lowest point", f"{number(r['minimum'], 6)} at {place(r['minimum_at'])}"),
        *((f"axis {i}", axis(a)) for i, a in enumerate(r["axes"][:2], 1)),
        ("|d1| / |w|", number(r["relative_norm"])),
        ("cosine of the axes", with_expected(r["cosine"], r["expected_cosine"])),
        ("largest error of a filter's norm", number(r["filter_norm_error"], 1)),
        ("parameters", ", ".join(f"{r[f'{w}_parameters']:,} {w}" for w in ("moved", "zeroed", "frozen"))),
        ("NaN, infinite cells", f"{r['nan_cells']}, {r['infinite_cells']}"),
        ("largest jump of log10 loss", number(r["largest_jump"], 2)),
        ("BatchNorm", batchnorm(r)),
        ("model restored", "yes, bit for bit" if r["restored"] else "NO"),
    ]
    if r["topology"]:
        pairs.append(
            ("local minima, roughness", f"{r['topology']['minima']}, {number(r['topology']['roughness'], 3)}")
        )
    if len(r["axes"]) > 2:
        pairs.append(("directions", f"{len(r['axes'])}, seed {r['seed']}"))
    screen.facts(pairs)
    if result.kind == "plane":
        show_checkpoints(result, screen)
    for note in r["notes"]:
        screen.line(f"note: {note}")


def show_checkpoints(result: Result, screen: Screen) -> None:
    """Print where each checkpoint lies, and its loss beside that of the plane."""
    data = result.data
    rows = []
    runs = data["run"].values
    ends = {
        i
        for r in set(runs.tolist())
        for i in (int((runs == r).argmax()), len(runs) - 1 - int((runs == r)[::-1].argmax()))
    }
    for i, facts_of_one in enumerate(result["checkpoints"]):
        if len(runs) > 12 and i not in ends:  # of long trainings the first and the last
            continue
        at = {k: float(data[k][i]) for k in ("checkpoint_x", "checkpoint_y", "off_plane", "from_origin")}
        share = at["off_plane"] / at["from_origin"] if at["from_origin"] else 0.0
        losses = [number(float(data[k][i])) for k in ("checkpoint_loss", "plane_loss")]
        run = facts_of_one.get("run") or {}
        name = f"{facts_of_one['label']} {run['seed']}" if run else facts_of_one["label"]
        step = "–" if facts_of_one["step"] is None else facts_of_one["step"]
        rows.append([name, step, number(at["checkpoint_x"]), number(at["checkpoint_y"]), percent(share), *losses])
    screen.table(["checkpoint", "step", "x", "y", "off plane", "its loss", "plane's"], rows)


def reach(record: dict[str, Any], data: Any) -> str:
    """Both ends of the axes, and how they were found."""
    ends = [
        f"{n} {number(float(data[n][0]))} to {number(float(data[n][-1]))}" for n in ("x", "y") if n in data.coords
    ]
    search = record.get("range_search")
    found = f" (loss at chance, {number(search[0]['threshold'])})" if search else ""
    return ", ".join(ends) + found


def equality(record: dict[str, Any]) -> str:
    """Whether the centre is the plain evaluation, in words."""
    if record["bn_policy"] == "recalibrate":
        return " (statistics estimated anew)"
    return " (bit-equal)" if record["center_loss"] == record["plain_loss"] else ""


def axis(facts: dict[str, Any]) -> str:
    """One axis: kind, seed, norm and what else says what it is."""
    more = [f"seed {facts['seed']}"] if facts.get("seed") is not None else []
    more += [
        f"{name} {number(facts[key])}"
        for key, name in (
            ("eigenvalue", "eigenvalue"),
            ("residual", "residual"),
            ("gradient_norm", "gradient norm"),
            ("explained_variance", "share of squared distances"),
        )
        if facts.get(key) is not None
    ]
    return ", ".join([facts["direction"], f"norm {number(facts['norm'])}", *more])


def place(at: dict[str, float] | None) -> str:
    """Coordinates in words."""
    return ", ".join(f"{k} = {number(v)}" for k, v in at.items()) if at else "–"


def with_expected(cosine: float | None, expected: float | None) -> str:
    """The cosine, beside the standard deviation that independent axes have."""
    return number(cosine, 2) + (f" (independent axes: 0 ± {number(expected, 2)})" if expected is not None else "")


def batchnorm(record: dict[str, Any]) -> str:
    """How many layers, and what happens to their statistics."""
    if not record["batchnorm_layers"]:
        return "none"
    used = f" on {record['calibration_examples']} training examples" if record.get("calibration_examples") else ""
    return f"{record['batchnorm_layers']} layers, statistics: {record['bn_policy']}{used}"

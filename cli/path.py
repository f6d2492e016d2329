"""The loss between two checkpoints: a straight line or a trained curve, its barrier, and the BatchNorm in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tyro.conf import Positional

from landscape.base.errors import UsageError
from landscape.specs import PathSpec, ProblemSpec

from .analysis import facts, must_exist
from .drawing import check_kinds, drawn
from .options import DrawnCommon
from .screen import Screen, number
from .surface import batchnorm

if TYPE_CHECKING:
    from landscape.results.result import Result


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape path``."""

    targets: Positional[tuple[str, ...]] = ()
    """Two run folders, RUN@best, RUN@step=N or checkpoint files: A and B."""
    spec: PathSpec = field(default_factory=PathSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: DrawnCommon = field(default_factory=DrawnCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Compute, print the barrier and both ends."""
    a, common = arguments, arguments.common
    must_exist(a.targets)
    if len(a.targets) != 2:
        raise UsageError(f"{len(a.targets)} target(s)", "command line", "name two checkpoints, A and B")
    check_kinds(common.figure, "--figure")
    from landscape.analyses.joint import path
    from landscape.results.target import Target

    first, second = (Target.find(t) for t in a.targets)
    result = path(first, second, a.problem, a.spec, out=common.out, force=common.force, trust=common.trust_run)
    screen.finish()
    screen.path("a", result["a"])
    screen.path("b", result["b"])
    screen.line(facts(result))
    show(result, screen)
    screen.path("result", result.path)
    return drawn(result.to_json(), [result], common, screen)


def show(result: Result, screen: Screen) -> None:
    """Print what a path says of itself."""
    r = result.record
    ends = r["ends"]
    pairs = [
        ("path", f"{r['kind']}, {len(r['t'])} points, distance {number(r['distance'])}"),
        ("barrier", f"{number(r['barrier'])} at t = {number(r['barrier_at'])}"),
        ("above the higher end", number(r["barrier_above_higher_end"])),
        *(
            (
                f"loss at {name.upper()}",
                f"{number(ends[name]['plain'], 5)}, on the path {number(ends[name]['on_path'], 5)}",
            )
            for name in ("a", "b")
        ),
        ("BatchNorm", batchnorm(r)),
        ("NaN, infinite points", f"{r['nan_cells']}, {r['infinite_cells']}"),
        ("model restored", "yes, bit for bit" if r["restored"] else "NO"),
    ]
    if (m := r["aligned"]) is not None:
        text = f"{m['moved_units']} of {m['units']} units in {m['groups']} groups moved"
        pairs.append(("aligned", f"{text}, distance {number(m['distance_before'])} -> {number(m['distance_after'])}"))
    if (c := r["curve"]) is not None:
        pairs.append(("training of the curve", f"loss {number(c['first_loss'])} -> {number(c['last_loss'])}"))
    screen.facts(pairs)
    screen.line(f"barrier: {r['barrier_definition']}")
    for note in r["notes"]:
        screen.line(f"note: {note}")

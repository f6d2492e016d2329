"""Sharpness by any measure of the field: m-sharpness, its adaptive and average relatives, baselines, controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from landscape.specs import ProblemSpec, SharpnessSpec

from .analysis import run_analysis
from .options import DrawnCommon
from .screen import Screen, number

if TYPE_CHECKING:
    from landscape.results.result import Result


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape sharpness``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: SharpnessSpec = field(default_factory=SharpnessSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: DrawnCommon = field(default_factory=DrawnCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Measure, print a row per measure, m and radius."""
    a = arguments
    return run_analysis("sharpness", a.targets, a.problem, a.spec, a.common, screen, show)


def show(result: Result, screen: Screen) -> None:
    """Print the measures of one result."""
    groups = [("", result["measures"])] + [(n, d["measures"]) for n, d in (result["domains"] or {}).items()]
    rows = [
        [name or "all", _name(m), *_place(m), number(m["value"]), number(m["stderr"], 2), m["n_blocks"] or "–"]
        for name, measures in groups
        for m in measures
    ]
    screen.table(["domain", "measure", "m", "rho", "ball", "value", "std. error", "over"], rows)
    for note in dict.fromkeys(f"{m['measure']}: {m['note']}" for _, ms in groups for m in ms if m.get("note")):
        screen.line(note)
    compared = result.record.get("derivatives")
    if compared and compared["note"]:
        screen.line(f"note: {compared['note']}")
    ragged = {m["m"]: m["last_block"] for m in result["measures"] if m.get("last_block", m["m"]) != m["m"]}
    if ragged and result.record.get("loss_over") == "batch":
        screen.line("blocks are the recorded batches; all weigh the same, also those that a domain ends with")
    elif ragged:
        told = ", ".join(f"m = {m}: {last}" for m, last in ragged.items())
        screen.line(f"the last block holds the rest and is weighted by its size ({told})")
    if result["subsets"]:
        s = result["subsets"]
        screen.line(f"mean and standard error over {s['count']} disjoint subsets of {s['size']} examples")
    if result["control"]:
        _show_control(result["control"], screen)


def _show_control(control: dict[str, Any], screen: Screen) -> None:
    networks = control["networks"]
    factors = [f"{n['factor']:g}" for n in networks]
    screen.line()
    if control["kind"] == "rescale":
        pairs = ", ".join(f"{p['scaled']} → {p['undone_by']}" for p in control["layers"])
        worst = max(n["output_change"] for n in networks)
        screen.line(f"rescaled by {', '.join(factors)}: {pairs}; outputs change by at most {worst:.1e} (relative)")
    else:
        losses = ", ".join(number(n["loss"]) for n in networks)
        screen.line(f"logits multiplied by {', '.join(factors)}: same predictions, loss {losses}")
    rows = [
        [
            _name(m),
            *_place(m)[:2],
            *(number(v) for v in m["values"]),
            number(m["largest_change"], 2),
            {True: "moves", False: "constant", None: "–"}[m["moves"]],
        ]
        for m in control["measures"]
    ]
    heads = [f"× {f}" for f in factors]
    screen.table(["measure", "m", "rho", *heads, "change", "verdict"], rows)


def _name(row: dict[str, Any]) -> str:
    return str(row["measure"]) + (f" {row['layer']}" if row.get("layer") else "")


def _place(row: dict[str, Any]) -> list[object]:
    ball = "–" if row["p"] is None else f"p = {row['p']}" + (" adaptive" if row["adaptive"] else "")
    return [row["m"] or "–", "–" if row["rho"] is None else number(row["rho"]), ball]

"""Loss and accuracy of every domain, seen and unseen, their spread, and how the domains' gradients agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from landscape.specs import DomainsSpec, ProblemSpec

from .analysis import run_analysis
from .options import DrawnCommon
from .screen import Screen, number, percent

if TYPE_CHECKING:
    from landscape.results.result import Result


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape domains``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: DomainsSpec = field(default_factory=DomainsSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: DrawnCommon = field(default_factory=DrawnCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Compute, print a row per domain."""
    a = arguments
    return run_analysis("domains", a.targets, a.problem, a.spec, a.common, screen, show)


def show(result: Result, screen: Screen) -> None:
    """Print the domains of one result."""
    r = result.record
    if r.get("curves"):
        _show_curves(r["curves"], screen)
    if r["splits"]:  # else the line above says which it is
        screen.line(f"split {r['split'] or 'train'}:")
    _show_domains(r, screen)
    _show_spread(r, screen)
    _show_conflicts(r, screen)
    if r["cross_sharpness"]:
        _show_cross(r["cross_sharpness"], screen)
    if any("lambda_1" in d for d in r["domains"].values()):
        _show_curvature(r["domains"], screen)
    for split, found in r["splits"].items():
        _show_split(split, found, screen)
    for note in r["notes"]:
        screen.line(note)


def _show_domains(r: dict[str, Any], screen: Screen) -> None:
    matrix = r["gradient_cosine"]["matrix"]
    rows = []
    for i, (name, d) in enumerate(r["domains"].items()):
        others = [c for j, c in enumerate(matrix[i]) if j != i and c is not None]
        rows.append(
            [
                name,
                d["n"],
                "yes" if d["seen"] else "no",
                _loss(d),
                _accuracy(d),
                number(d["gradient_norm"], 3),
                number(min(others), 2) if others else "–",
                number(d["disam_weight"], 3),
            ]
        )
    heads = ["domain", "n", "seen", "loss (95 %)", "accuracy (95 %)", "|gradient|", "lowest cos", "DISAM weight"]
    screen.table(heads, rows, may_go=heads[:4:-1])


def _show_split(split: str, found: dict[str, Any], screen: Screen) -> None:
    rows = [
        [
            name,
            d["n"],
            "yes" if d["seen"] else "no",
            _loss(d),
            _accuracy(d),
        ]
        for name, d in found["domains"].items()
    ]
    screen.line(f"split {split}:")
    screen.table(["domain", "n", "seen", "loss (95 %)", "accuracy (95 %)"], rows)
    _show_spread(found, screen)


def _show_spread(r: dict[str, Any], screen: Screen) -> None:
    worst = r["worst_domain"]
    told = f", worst {worst['loss']}" if worst["loss"] else ""
    screen.line(
        f"seen domains: mean loss {number(r['loss_mean'])}, variance {number(r['loss_variance'])} (ddof 0), "
        f"range {number(r['loss_range'])}{told}; unseen: mean loss {number(r['unseen_loss_mean'])}"
    )


def _show_conflicts(r: dict[str, Any], screen: Screen) -> None:
    if r["perturbed"]:
        p = r["perturbed"]
        screen.line(f"at w + e: mean loss {number(p['loss_mean'])}, variance {number(p['loss_variance'])}")
    for pairs, which in ((r["conflict"], "seen"), (r["conflict_all"], "all")):
        if pairs["pairs"]:
            screen.line(
                f"gradients of {pairs['conflicting']} of {pairs['pairs']} pairs of {which} domains conflict "
                "(negative cosine)"
            )


def _show_cross(cross: dict[str, Any], screen: Screen) -> None:
    screen.line(
        f"cross-domain sharpness: rise of each domain's loss (column) at a row's ascent, rho = {cross['rho']:g}"
    )
    rows = [[s, *(number(v, 3) for v in row)] for s, row in zip(cross["sources"], cross["matrix"], strict=True)]
    screen.table(["ascent of", *cross["names"]], rows)


def _show_curvature(domains: dict[str, Any], screen: Screen) -> None:
    fields = (("lambda_1", 4), ("lambda_1_residual", 2), ("trace", 4), ("trace_stderr", 2))
    rows = [[n, *(number(d[f], digits) for f, digits in fields)] for n, d in domains.items()]
    screen.table(["domain", "lambda_1", "residual", "trace", "std. error"], rows)


def _show_curves(curves: dict[str, Any], screen: Screen) -> None:
    def column(field: str) -> list[Any]:
        values: list[Any] = curves[field]["values"]
        return values

    rows = [
        [step, *(number(v) for v in values)]
        for step, *values in zip(
            curves["step"],
            column("loss_mean"),
            column("loss_variance"),
            column("loss_range"),
            column("unseen_loss_mean"),
            column("conflict_share"),
            strict=True,
        )
    ]
    heads = ["step", "mean loss", "variance", "range", "unseen loss", "conflict share"]
    screen.table(heads, rows)


def _loss(d: dict[str, Any]) -> str:
    from landscape.base.digits import with_interval

    low, high = d["loss_low"], d["loss_high"]
    return number(d["loss"]) if d["loss"] is None or low is None else with_interval(d["loss"], low, high)


def _accuracy(d: dict[str, Any]) -> str:
    low, high = d["accuracy_low"], d["accuracy_high"]
    if d["accuracy"] is None or low is None:
        return percent(d["accuracy"])
    return f"{percent(d['accuracy'])} ({percent(low).removesuffix(' %')} to {percent(high).removesuffix(' %')})"

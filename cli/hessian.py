"""Largest (and smallest) eigenvalues of the Hessian of the mean loss, each with its true residual."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from landscape.specs import HessianSpec, ProblemSpec

from .analysis import run_analysis
from .options import AnalysisCommon
from .screen import Screen, number


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape hessian``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: HessianSpec = field(default_factory=HessianSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: AnalysisCommon = field(default_factory=AnalysisCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Compute, print a row per eigenvalue."""
    a = arguments
    return run_analysis("hessian", a.targets, a.problem, a.spec, a.common, screen, show)


def show(result: Any, screen: Screen) -> None:
    """Print the eigenvalues of one result."""
    r = result.record
    n = len(r["eigenvalues"])
    rows = [_row(f"lambda_{i + 1}", r, i, "eigenvalues", "") for i in range(n)]
    total = r["n_parameters"]
    bottom = range(len(r["smallest"]))
    rows += [_row(f"lambda_{total - i}", r, i, "smallest", "smallest_") for i in reversed(bottom)]
    screen.table(["", "eigenvalue", "residual", "converged"], rows)
    for name, d in (r["domains"] or {}).items():
        screen.line(
            f"domain {name}: lambda_1 {number(d['eigenvalues'][0])} (residual {d['residuals'][0]:.1e}), "
            f"loss {number(d['loss'])}"
        )
    screen.line(
        f"gradient norm {number(r['gradient_norm'], 3)}; symmetry error {r['symmetry_error']:.1e}; "
        f"{r['hvp_count']} products ({r['krylov_products']} Krylov); {r['seconds']:.1f} s"
    )
    for note in r["notes"]:
        screen.line(f"note: {note}")


def _row(name: str, r: dict[str, Any], i: int, values: str, prefix: str) -> list[str]:
    return [
        name,
        f"{r[values][i]:.6g}",
        f"{r[f'{prefix}residuals'][i]:.1e}",
        "yes" if r[f"{prefix}converged"][i] else "NO",
    ]

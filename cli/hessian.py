"""Eigenvalues, trace and density of the Hessian (or a relative) of the mean loss, each with how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from landscape.specs import HessianSpec, ProblemSpec

from .analysis import run_analysis
from .options import DrawnCommon
from .screen import Screen, number

if TYPE_CHECKING:
    from landscape.results.result import Result


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape hessian``."""

    targets: Positional[tuple[str, ...]] = ()
    """Run folders, RUN@best, RUN@step=N or checkpoint files."""
    spec: HessianSpec = field(default_factory=HessianSpec)
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    common: DrawnCommon = field(default_factory=DrawnCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Compute, print a row per eigenvalue; over a whole run, at the end a row per checkpoint."""
    a = arguments
    found = run_analysis("hessian", a.targets, a.problem, a.spec, a.common, screen, show)
    if a.common.checkpoints == "all":
        _course(found["results"], screen)
    return found


def show(result: Result, screen: Screen) -> None:
    """Print what one result holds."""
    r = result.record
    rows = [_row(f"lambda_{i + 1}", r, i, "eigenvalues", "") for i in range(len(r["eigenvalues"]))]
    total = r["n_parameters"]
    bottom = range(len(r["smallest"]))
    rows += [_row(f"lambda_{total - i}", r, i, "smallest", "smallest_") for i in reversed(bottom)]
    if extreme := r.get("largest_in_magnitude"):
        rows.append(["largest in magnitude", *_pair(extreme["value"], extreme["residual"], extreme["converged"])])
    screen.table(["" if r["operator"] == "hessian" else r["operator"], "eigenvalue", "residual", "converged"], rows)
    for line in (*_estimates(r), *_subsamples(r), *_edges(r)):
        screen.line(line)
    screen.lines(
        [
            f"domain {name}: lambda_1 {number(d['eigenvalues'][0])} (residual {d['residuals'][0]:.1e})"
            f"{_unasked(d)}, loss {number(d['loss'])}{_trace_of(d)}"
            for name, d in (r["domains"] or {}).items()
        ]
    )
    if r["layers"]:
        screen.table(
            [r.get("group_by") or "layer", "parameters", "lambda_1", "residual", "lambda_min", "trace"],
            [_layer(name, d) for name, d in r["layers"].items()],
        )
    for name, d in (r["cross_check"] or {}).items():
        pairs = zip(d["eigenvalues"], d["residuals"], strict=True)
        screen.line(f"{name}: {', '.join(f'{v:.6g} (residual {e:.1e})' for v, e in pairs)}; {d['seconds']:.1f} s")
    screen.line(
        f"gradient norm {number(r['gradient_norm'], 3)}; symmetry error {r['symmetry_error']:.1e}; "
        f"{r['hvp_count']} products ({r['krylov_products']} Krylov); {r['seconds']:.1f} s"
    )
    if by := _by_differences(r):
        screen.line(by)
    for note in r["notes"]:
        screen.line(f"note: {note}")


def _row(name: str, r: dict[str, Any], i: int, values: str, prefix: str) -> list[str]:
    return [name, *_pair(r[values][i], r[f"{prefix}residuals"][i], r[f"{prefix}converged"][i])]


def _by_differences(r: dict[str, Any]) -> str | None:
    p = r.get("product")
    if not p or p["by"] == "exact":
        return None
    worst = max([*p["eigenvalue_errors"], *p["smallest_errors"]], default=0.0)
    relative = "" if p["relative_error"] is None else f" ({p['relative_error']:.1e} of the largest curvature)"
    return (
        f"products by differences ({p['reason']}): off by at most {p['error']:.1e}{relative}, measured on "
        f"{p['measured']} vectors by {p['reference']}; an eigenvalue lies within {worst:.1e} of each shown"
    )


def _pair(value: float, residual: float, converged: bool) -> list[str]:
    return [f"{value:.6g}", f"{residual:.1e}", "yes" if converged else "NO"]


def _unasked(d: dict[str, Any]) -> str:
    extreme = d.get("largest_in_magnitude")
    return f", largest in magnitude {number(extreme['value'])}" if extreme else ""


def _estimates(r: dict[str, Any]) -> list[str]:
    lines = []
    for name, key in (("trace", "trace"), ("Frobenius norm", "frobenius_norm")):
        e = r[key]
        if e:
            low, high = e["interval"]
            lines.append(
                f"{name} {number(e['estimate'], 4)} ± {number(e['stderr'], 2)} (95 %: {number(low, 4)} to "
                f"{number(high, 4)}; {e['samples']} samples, {e['method']})"
            )
    d = r["density"]
    if d:
        mass, sigma = d["negative_mass"], number(d["sigma"], 2)
        lines.append(
            f"density from {d['probes']} probes, sigma {sigma}; {100 * mass['estimate']:.1f} ± "
            f"{100 * (mass['stderr'] or 0):.1f} % of the eigenvalues below -{sigma}"
        )
    return lines


def _subsamples(r: dict[str, Any]) -> list[str]:
    s = r["subsamples"]
    if not s:
        return []

    def shown(name: str, mean: float, std: float) -> str:
        return f"{name} {number(mean, 3)} ± {number(std, 2)}"

    parts = [shown(f"lambda_{i + 1}", m, d) for i, (m, d) in enumerate(zip(*_both(s["eigenvalues"]), strict=True))]
    total = r["n_parameters"]
    parts += [shown(f"lambda_{total - i}", m, d) for i, (m, d) in enumerate(zip(*_both(s["smallest"]), strict=True))]
    if s.get("trace"):
        parts.append(shown("trace", *_both(s["trace"])))
    return [f"over {s['count']} disjoint subsets of {s['size']} (± standard deviation): {', '.join(parts)}"]


def _both(spread: dict[str, Any]) -> tuple[Any, Any]:
    return spread["mean"], spread["std"]


def _edges(r: dict[str, Any]) -> list[str]:
    edges = r.get("edges_of_stability")
    if not edges or r["operator"] != "hessian":  # of another matrix lambda_1 is no curvature of a step
        return []
    names = {"gd": "2/eta", "momentum": "with momentum (2+2 beta)/eta"}
    largest, own = r["eigenvalues"][0], edges.get("own")
    method = (r.get("run") or {}).get("optimizer")
    shown = ", ".join(f"{names.get(k, k)} {number(v, 4)}" for k, v in edges.items() if k != "own")
    if own is None:
        return [f"edge of stability: {shown}; that of {method} itself is not known"]
    share = f"lambda_1 at {100 * largest / own:.0f} %"
    return [f"edge of stability of {method} itself {number(own, 4)} ({share}); {shown}"]


def _trace_of(d: dict[str, Any]) -> str:
    t = d["trace"]
    return f", trace {number(t['estimate'])} ± {number(t['stderr'], 2)}" if t else ""


def _layer(name: str, d: dict[str, Any]) -> list[str]:
    t, extreme = d["trace"], d.get("largest_in_magnitude")
    lowest = d["smallest"] or ([extreme["value"]] if extreme else [])
    return [
        name,
        f"{d['n_parameters']:,}",
        f"{d['eigenvalues'][0]:.4g}",
        f"{d['residuals'][0]:.1e}",
        f"{lowest[0]:.4g}" if lowest else "–",
        f"{t['estimate']:.4g} ± {t['stderr']:.1g}" if t else "–",
    ]


def _course(records: list[dict[str, Any]], screen: Screen) -> None:
    """lambda_1, lambda_5 and their ratio, a row per checkpoint."""
    rows = []
    for r in records:
        run, values = r.get("run") or {}, r["eigenvalues"]
        fifth = f"{values[4]:.4g}" if len(values) >= 5 else "–"
        ratio = f"{r['lambda_ratio']:.3g}" if r["lambda_ratio"] else "–"
        sure = "yes" if all(r["converged"]) else "NO"
        rows.append([run.get("optimizer", "–"), run.get("step", "–"), f"{values[0]:.4g}", fifth, ratio, sure])
    screen.table(["", "step", "lambda_1", "lambda_5", "ratio", "converged"], rows)

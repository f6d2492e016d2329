"""The table of all measured quantities: mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.digits import unsigned_zero, with_spread
from ..results.result import Result
from .comparison import comparison, verdict
from .course.measured import FIELDS, Field, common_cell, measurements, member_of
from .draw.method_styles import name, ordered
from .draw.series import runs_apart
from .draw.tables import latex_text, to_csv

__all__ = ["cell_text", "comparison", "summarize", "summary_csv", "summary_latex", "verdict"]


def summarize(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per label, in legend order; runs of other networks or data have labels of their own.

    Returns:
        ``label``, ``name``, ``n_seeds``; per field of `landscape.figures.course.measured.FIELDS` its ``_mean`` over
        seeds, ``_std`` (ddof 1; None for one seed) and ``_n`` (how many seeds have it);
        ``lambda_max_residual`` (the largest), ``m_sharpness_m`` and ``m_sharpness_rho``.
        What was not measured is None. A mean of values that are not all finite is None too.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> [row] = landscape.summarize([landscape.hessian(problem, top=1)])
        >>> row["lambda_max_mean"] > 0
        True
    """
    results = runs_apart(results)
    found = measurements(results)
    cell = common_cell([r for r in results if r.kind == "sharpness"])
    members: dict[str, set[Any]] = {label: set() for label in ordered(r.label for r in results)}
    for result in results:
        members[result.label].add(member_of(result))
    rows = []
    for label, seeds in members.items():
        row = {"label": label, "name": name(label), "n_seeds": len(seeds)}
        for field in FIELDS:
            values = [m.value for m in found[field.name].get(label, {}).values()]
            finite = bool(values) and bool(np.isfinite(values).all())
            row[f"{field.name}_mean"] = float(np.mean(values)) if finite else None
            row[f"{field.name}_std"] = float(np.std(values, ddof=1)) if finite and len(values) > 1 else None
            row[f"{field.name}_n"] = len(values)
        residuals = [m.residual for m in found["lambda_max"].get(label, {}).values() if m.residual is not None]
        row["lambda_max_residual"] = max(residuals) if residuals else None
        row["m_sharpness_m"], row["m_sharpness_rho"] = cell[:2] if cell and row["m_sharpness_n"] else (None, None)
        rows.append(row)
    return rows


def cell_text(row: Mapping[str, Any], field: Field) -> str:
    """A mean with its standard deviation, for people; a dash where nothing was measured."""
    value, spread = row[f"{field.name}_mean"], row[f"{field.name}_std"]
    if value is None:
        return "–"
    if field.percent:
        return unsigned_zero(100 * value, 1) + (f" ± {100 * spread:.1f}" if spread is not None else "")
    return with_spread(value, spread)


def summary_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The table as CSV, with every digit."""
    return to_csv(rows)


def summary_latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a paper, with booktabs rules; the caption names the ± and the number of seeds."""
    used = [f for f in FIELDS if any(row[f"{f.name}_mean"] is not None for row in rows)]
    heads = [f.title.replace("λ_max", r"$\lambda_{\max}$") + (r" (\%)" if f.percent else "") for f in used]
    lines = [
        " & ".join([latex_text(row["name"]), *(latex_text(cell_text(row, f)) for f in used)]) + r" \\" for row in rows
    ]
    counts = sorted({row["n_seeds"] for row in rows})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}" if counts else "n = 0"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{Mean $\pm$ sample standard deviation (ddof = 1) over training seeds, {n}.}}",
            rf"\begin{{tabular}}{{l{'r' * len(used)}}}",
            r"\toprule",
            " & ".join(["method", *heads]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )

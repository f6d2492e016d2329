"""What of a view is stored: notes for people, labelled arrays, and vectors by parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..problem.problem import Problem
from ..specs import HessianSpec
from .estimators.density import Density
from .spectrum import CurvatureReport

_LOOSE = 0.1  # of an eigenvalue, of its residual
_ROUNDING = 1e3  # machine epsilons of the largest eigenvalue


def notes(problem: Problem, view: CurvatureReport, spec: HessianSpec) -> list[str]:
    """What a reader should know, a sentence each."""
    said, spectrum = [], view.spectrum
    top = spectrum.top.values
    compared = view.record["derivatives"]
    if compared and compared["note"]:
        said.append(compared["note"])
    if spectrum.scale == 0:
        said.append("zero operator: the gradient does not change with the weights")
    lowest = float(spectrum.bottom.values[0]) if len(spectrum.bottom.values) else None
    slope = f"gradient norm {view.record['gradient_norm']:.3g}"
    if lowest is not None and lowest < -0.01 * float(top[0].abs()):
        said.append(f"not a minimum: lambda_min = {lowest:.4g}, {slope}")
    if spectrum.extreme is not None:
        largest = f"largest in magnitude is {spectrum.extreme.value:.4g}"
        said.append(
            f"not a minimum: {largest}, {slope}; residuals are relative to it (`bottom=True` computes that end)"
        )
    if spec.operator == "hessian":  # the others have no second end
        said += _loosely_known(view, problem.dtype)
    if spectrum.orthogonality > 1e-6:
        said.append(f"eigenvectors are orthogonal only to {spectrum.orthogonality:.1e}")
    if problem.dtype == torch.float32 and spec.tol < 1e-5:
        said.append("residuals below 1e-5 are near the accuracy of float32 products; use `dtype='float64'`")
    if view.record["trace"] and not view.record["trace"]["converged"]:
        said.append("the trace's standard error did not reach `trace_rtol=` within the budget")
    if problem.replaced:
        said.append(
            f"computed in an equal form with a right second derivative: {', '.join(sorted(problem.replaced))}"
        )
    return said


def _loosely_known(view: CurvatureReport, dtype: torch.dtype) -> list[str]:
    """A sentence for an end whose first eigenvalue is small beside what its residual allows.

    Residuals are relative to the largest eigenvalue in magnitude. Where that is at the other end and larger by far, a
    converged pair may be any of this end's eigenvalues, or none of its largest.
    """
    said = []
    rounding = _ROUNDING * torch.finfo(dtype).eps * view.spectrum.scale  # below it an eigenvalue is 0
    for name, pairs in (("lambda_1", view.spectrum.top), ("lambda_min", view.spectrum.bottom)):
        if not len(pairs.values) or not view.spectrum.scale:
            continue
        value, bar = float(pairs.values[0]), float(pairs.residuals[0]) * view.spectrum.scale
        if bar > max(_LOOSE * abs(value), rounding):
            said.append(
                f"{name} = {value:.3g} is known to {bar:.2g} only, and one beyond it may be missing: residuals are "
                f"relative to {view.spectrum.scale:.4g}; lower `tol=`"
            )
    return said


def dataset(record: dict[str, Any], curve: Density | None) -> Any:
    """The numbers as an xarray dataset over ``rank``, ``rank_from_below``, ``domain``, ``layer``, ``curvature``."""
    import xarray as xr

    def ranked(prefix: str, dimension: str) -> dict[str, Any]:
        first = "eigenvalues" if not prefix else "smallest"
        return {
            first: (dimension, np.array(record[first], dtype=float)),
            f"{prefix}residuals": (dimension, np.array(record[f"{prefix}residuals"], dtype=float)),
            f"{prefix}converged": (dimension, np.array(record[f"{prefix}converged"], dtype=bool)),
        }

    variables = {**ranked("", "rank"), **ranked("smallest_", "rank_from_below")}
    coordinates: dict[str, Any] = {
        "rank": np.arange(1, len(record["eigenvalues"]) + 1),
        "rank_from_below": np.arange(1, len(record["smallest"]) + 1),
    }
    for part in ("domain", "layer"):
        views = record[f"{part}s"]
        if not views:
            continue
        coordinates[part] = list(views)
        for name in ("eigenvalues", "residuals"):
            table = np.full((len(views), len(record["eigenvalues"])), np.nan)
            for row, view in zip(table, views.values(), strict=True):
                row[: len(view[name])] = view[name]
            variables[f"{part}_{name}"] = ((part, "rank"), table)
    if curve is not None:
        coordinates["curvature"] = curve.grid
        variables["density"] = ("curvature", curve.curve)
        variables["density_stderr"] = ("curvature", curve.stderr)
        variables["density_nodes"] = ("node", np.concatenate(curve.nodes))
        variables["density_weights"] = ("node", np.concatenate(curve.weights) / len(curve.nodes))
        variables["density_probe"] = ("node", np.repeat(np.arange(len(curve.nodes)), [len(t) for t in curve.nodes]))
    return xr.Dataset(variables, coordinates)


def named_vectors(problem: Problem, view: CurvatureReport, spec: HessianSpec) -> dict[str, Tensor]:
    """Eigenvectors as ``v1.NAME...`` (largest) and ``s1.NAME...`` (smallest), and the diagonal, per parameter.

    In the problem's type: what is beyond it in a vector is rounding of products.
    """
    rows: list[tuple[str, Tensor]] = []
    if spec.vectors:
        rows += [(f"v{i}", v) for i, v in enumerate(view.spectrum.top.vectors, 1)]
        rows += [(f"s{i}", v) for i, v in enumerate(view.spectrum.bottom.vectors, 1)]
    if view.sampled is not None and view.sampled.diagonal is not None and view.sampled.diagonal_stderr is not None:
        rows += [("diagonal", view.sampled.diagonal), ("diagonal_stderr", view.sampled.diagonal_stderr)]
    named = ((prefix, problem.space.named(row)) for prefix, row in rows)
    kind = None if problem.in_pieces else problem.dtype  # a block stays what it is
    return {f"{prefix}.{k}": t.to(kind) if kind else t for prefix, parts in named for k, t in parts.items()}

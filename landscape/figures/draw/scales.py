"""Axes and colours for losses, which may be tiny, zero, negative or not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.arrays import Floats
from .ticks import logarithmic, number_text, symmetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_scale(axes: Axes, values: object) -> str:
    """Scale the y axis for ``values`` and return what its label must add.

    Logarithmic where all values are positive. With zeros or negative values it is logarithmic in both
    directions and linear near 0, which the returned text says. Other values leave it linear.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    sizes = np.abs(finite[finite != 0])
    if not len(sizes):
        return ""
    if (finite > 0).all():
        axes.set_yscale("log")
        logarithmic(axes.yaxis)
        return ""
    threshold = float(f"{max(sizes.min(), 1e-3 * sizes.max()):.1g}")
    axes.set_yscale("symlog", linthresh=threshold)
    symmetric(axes.yaxis, threshold)
    return f" (linear within ±{number_text(threshold)})"


def field_scale(axes: Axes, field: str, values: object) -> str:
    """Scale the y axis for a ``loss`` as `loss_scale` does, or for shares in per cent; return its label."""
    if field == "loss":
        return f"loss{loss_scale(axes, values)}"
    axes.yaxis.set_major_formatter(lambda share, _: number_text(round(100 * share, 6)))
    return f"{field} (%)"


def log_losses(grids: list[Floats]) -> tuple[list[Floats], str]:
    """The logarithm to base 10 of all grids on one scale, and the text that says so.

    Cells that are NaN or infinite become NaN. Where a loss is zero or negative, one constant is added to all
    grids first, a thousandth of their range above what is needed, and the text names it.
    """
    grids = [np.where(np.isfinite(g), g, np.nan) for g in (np.asarray(g, dtype=float) for g in grids)]
    finite = np.concatenate([g[np.isfinite(g)] for g in grids])
    if not len(finite) or finite.min() > 0:
        return [np.log10(g) for g in grids], "log₁₀ loss"
    shift = -finite.min() + (1e-3 * float(np.ptp(finite)) or 1.0)
    return [np.log10(g + shift) for g in grids], f"log₁₀(loss + {shift:.3g})"


def common_range(grids: list[Any]) -> tuple[float, float]:
    """The smallest and the largest finite value of all grids, pulled apart if equal; (0, 1) if there is none."""
    finite = np.concatenate([g[np.isfinite(g)] for g in grids]) if grids else np.array([])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        apart = 0.5 * max(abs(low), 1e-3)
        return low - apart, high + apart
    return low, high

"""Which 2-D surfaces stand side by side, and the one scale that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.arrays import Floats
from ...results.result import Result
from .comparable import comparable
from .drawing import Row, Want
from .method_styles import name
from .scales import common_range, log_losses
from .series import by_label, lost_note

if TYPE_CHECKING:
    import xarray as xr


class Planes(Want):
    """Results over a plane of at least two by two points."""

    def fits(self, result: Result) -> bool:
        """Whether ``result`` has such a plane."""
        return super().fits(result) and min(result.data.sizes[d] for d in "xy") >= 2


PLANE = Planes(
    "surface", "compute it with `landscape surface --dim 2`, at least 2 x 2 points", "loss", frozenset({"x", "y"})
)


@dataclass(frozen=True)
class Panel:
    """One surface.

    Attributes:
        label: The optimizer's label.
        name: Its name as readers know it.
        which: Which seed of how many is shown; empty for a bare checkpoint.
        result: Where the numbers come from.
        x: Coordinates along the first direction.
        y: Coordinates along the second one.
        height: Logarithm of the loss, ``(y, x)``, NaN where the loss is not finite.
    """

    label: str
    name: str
    which: str
    result: Result
    x: Floats
    y: Floats
    height: Floats

    @property
    def title(self) -> str:
        """Name and seed in one line."""
        return ", ".join(part for part in (self.name, self.which) if part)

    @property
    def evaluated(self) -> Any:
        """Which cells were evaluated and not interpolated, ``(y, x)``; None: all of them."""
        return evaluated_cells(self.result.data)

    @property
    def planes(self) -> dict[str, Any]:
        """Every stored array that lies on the plane, ``(y, x)``."""
        data = self.result.data
        flat = {str(k): v for k, v in data.data_vars.items() if set(v.dims) == {"x", "y"}}
        return {k: v.transpose("y", "x").values.astype(float) for k, v in flat.items()}


@dataclass(frozen=True)
class Panels:
    """Surfaces on one scale.

    Attributes:
        panels: In legend order.
        scale: What ``height`` is, for the colour bar.
        low: The lowest finite height of all panels.
        high: The highest one.
        notes: What cannot be seen.
    """

    panels: list[Panel]
    scale: str
    low: float
    high: float
    notes: list[str]

    @property
    def printed_scale(self) -> str:
        """What the numbers on a logarithmic colour bar or axis are."""
        return printed(self.scale)

    @classmethod
    def of(cls, results: Sequence[Result]) -> Panels:
        """One panel per optimizer (its lowest seed), or one per seed where there is only one optimizer.

        What is cut along other directions than most is left out, as `comparable` says.
        """
        results, left_out = comparable(results)
        groups, notes = by_label(results)
        alone = len(groups) == 1
        chosen = [(k, r, len(v)) for k, v in groups.items() for r in (v if alone else v[:1])]
        raw = [r.data["loss"].transpose("y", "x").values for _, r, _ in chosen]
        heights, scale = log_losses(raw)
        low, high = common_range(heights)
        panels = [
            Panel(
                label,
                name(label),
                _which(r, 1 if alone else total),
                r,
                r.data["x"].values,
                r.data["y"].values,
                height,
            )
            for (label, r, total), height in zip(chosen, heights, strict=True)
        ]
        if any(total > 1 for _, _, total in chosen) and not alone:
            notes.append("one seed per optimizer is shown, the lowest; other seeds look different")
        missing = sum(lost_cells(p.height, p.result.data) for p in panels)
        return cls(panels, scale, low, high, left_out + notes + [n + " and hatched" for n in lost_note(missing)])

    def rows(self) -> list[Row]:
        """Every cell: coordinates, and the arrays that lie on the plane."""
        rows = []
        for panel in self.panels:
            planes = panel.planes
            for j, y in enumerate(panel.y):
                for i, x in enumerate(panel.x):
                    place: Row = {
                        "label": panel.label,
                        "seed": panel.result.seed,
                        "x": float(x),
                        "y": float(y),
                    }
                    height = {"plotted_height": float(panel.height[j, i])}
                    rows.append(place | {k: float(v[j, i]) for k, v in planes.items()} | height)
        return rows


def printed(scale: str) -> str:
    """What `log_losses` took the logarithm of: ``loss``, or ``loss + 0.5``."""
    return scale.removeprefix("log₁₀").strip(" ()")


def evaluated_cells(data: xr.Dataset) -> Any:
    """Which cells of a plane were evaluated and not interpolated, ``(y, x)``; None: all of them."""
    return data["evaluated"].transpose("y", "x").values.astype(bool) if "evaluated" in data else None


def lost_cells(height: Any, data: xr.Dataset) -> int:
    """How many evaluated cells of ``height`` ``(y, x)`` are NaN."""
    evaluated = evaluated_cells(data)
    return int((np.isnan(height) if evaluated is None else np.isnan(height) & evaluated).sum())


def _which(result: Result, total: int) -> str:
    if result.seed is None:
        return ""
    return f"seed {result.seed}" + (f" (1 of {total})" if total > 1 else "")

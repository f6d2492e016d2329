"""m-sharpness over the block size m."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.result import Result
from ..draw.drawing import Drawing, Want, styled
from ..draw.style import Style
from .sharpness_lines import sharpness_lines


class _Blocks(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data.sizes["m"] > 1 for r in results)


WANTS = _Blocks("sharpness", "compute it with `landscape sharpness`", "value", frozenset({"m", "rho"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw m-sharpness, a panel per radius rho.

    What to read: how much the loss rises when every block of m examples takes its own worst step of length rho.
    Small m is what SAM's per-batch ascent sees; the fall towards large m is the part that cancels between
    examples. Several seeds: line is the mean, band lowest to highest seed. One seed: whiskers are the standard
    error over blocks. Values at one rho and one m compare; values at different rho do not.
    """
    return sharpness_lines(results, style, over="m")

"""m-sharpness over the radius rho (arXiv 2010.01412, 2302.07011)."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.result import Result
from ..draw.drawing import Drawing, Want, styled
from ..draw.style import Style
from .sharpness_lines import sharpness_lines


class _Radii(Want):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and result.data.sizes["rho"] > 1


WANTS = _Radii(
    "sharpness", "compute it with `landscape sharpness --rho 0.01 0.05 0.1`", "value", frozenset({"m", "rho"})
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw m-sharpness over rho, a panel per block size m.

    What to read: on these logarithmic axes a rise with slope 1 is the gradient's (rho times its norm), a rise with
    slope 2 curvature's. Where lines of two optimizers cross, the order of their sharpness depends on the radius and
    no single number tells which is flatter. Bands and whiskers as in the figure over m.
    """
    return sharpness_lines(results, style, over="rho")

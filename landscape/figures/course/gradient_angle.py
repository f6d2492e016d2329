"""The angle between the gradients at the weights and at the ascent point, over training (SAGM, arXiv 2303.10353)."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.result import Result
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style
from .probes import probed

QUANTITY = "gradient_alignment_angle"


class _Course(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data[QUANTITY].size > 1 for r in results)


WANTS = _Course("training", "train with ``probe='gradient-alignment'``", QUANTITY, frozenset())


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the angle between grad L(w) and grad L(w + e) of the batch of a step, over the steps.

    What to read: SAGM's paper motivates it by a sketch in which the two gradients disagree (its figure 2); this is
    the measured counterpart. 0 degrees: the ascent step changes nothing but the length of the gradient; above 90
    degrees (dotted) a step that follows one raises the other's loss. A line is the mean over seeds, a band reaches
    from the lowest to the highest seed.
    """
    groups, notes = by_label(results)
    figure = style.figure()
    axes = figure.subplots()
    table: list[Row] = []
    handles = {}
    lost, highest = 0, 0.0
    for label, look in looks(groups).items():
        lines = [probed(r, QUANTITY) for r in groups[label]]
        fixed: Row = {"label": label, "seeds": len(lines)}
        band = draw_band(axes, lines, look, style, fixed, over="step")
        handles[label] = band.handle
        table += band.rows
        lost += band.lost
        highest = max(highest, *band.finite.tolist(), 0.0)
    axes.set_ylim(0, max(1.05 * highest, 1e-3))
    if highest > 75:
        axes.axhline(90, color="black", lw=0.7, ls=":")
    axes.set(xlabel="step", ylabel="angle of ∇L(w) and ∇L(w + e), in degrees")
    style.legend(figure, list(handles.values()), seeded(groups, handles))
    notes.append("line: mean over seeds, band: lowest to highest seed; each value is of one batch")
    caption = (
        "Angle between the gradients of a batch at the weights w and at the ascent point w + e, over training. A "
        "line is the mean over seeds, a band reaches from the lowest to the highest seed; the dotted line is a right "
        f"angle. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)

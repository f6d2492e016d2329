"""What a training recorded about itself: surrogate gap, angles between gradients, domain variance, eigenvalues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style, hide_unused

# Variables of a training result, in the order of the panels, with what stands above each.
QUANTITIES = {
    "surrogate_gap_h": "surrogate gap h",
    "surrogate_gap_h_scaled": "2h/ρ²",
    "gradient_alignment_angle": "angle of ∇L(w) and ∇L(w+e), degrees",
    "gradient_alignment_conflict": "share of opposed signs",
    "gradient_conflict_cosine_loss": "cosine of ∇h and ∇L(w)",
    "gradient_conflict_cosine_perturbed": "cosine of ∇h and ∇L(w+e)",
    "second_order_cosine": "cosine to second order",
    "inner_maximum_fraction": "share of the inner maximum",
    "domain_variance_before": "domain-loss variance at w",
    "domain_variance_after": "domain-loss variance at w+e",
    "eigenvalues_lambda_1": "λ₁",
    "eigenvalues_ratio": "λ₁/λ₅",
}


class _Probed(Want):
    """Trainings that recorded any of the quantities."""

    def fits(self, result: Result) -> bool:
        """Whether ``result`` holds one."""
        return result.kind == self.kind and any(q in result.data for q in QUANTITIES)


WANTS = _Probed("training", "train with ``probe=('surrogate-gap', 'gradient-alignment')``", "", frozenset())


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw every recorded quantity over training, a panel each.

    What to read: whether a method keeps the surrogate gap small and the gradients at w and at w+e aligned (SAGM's
    Figure 2 is the angle), how much of the inner maximum a single ascent step reaches, whether the climb evens out
    the domains' losses (DISAM), how lambda_1 moves. All are of the batch of their step: they scatter. A line is the
    mean over seeds, a band reaches from the lowest to the highest seed.
    """
    groups, notes = by_label(results)
    shown = [q for q in QUANTITIES if any(q in r.data for v in groups.values() for r in v)]
    across = style.across(len(shown), 13)
    rows = style.rows(-(-len(shown) // across), 13 * style.em, 5 * style.em)
    left_out = shown[rows * across :]
    shown = shown[: rows * across]
    figure = style.figure((4 + 13 * rows) * style.em)
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    table: list[Row] = []
    handles = {}
    lost = 0
    for axes, quantity in zip(panels, shown, strict=False):
        for label, look in looks(groups).items():
            lines = [probed(r, quantity) for r in groups[label] if quantity in r.data]
            if not lines:
                continue
            fixed: Row = {"quantity": quantity, "label": label, "seeds": len(lines)}
            band = draw_band(axes, lines, look, style, fixed, over="step", marks=6)
            handles[label] = band.handle
            table += band.rows
            lost += band.lost
        axes.set_title(QUANTITIES[quantity])
        axes.set(xlabel="step")
    hide_unused(panels, len(shown), across)
    texts = seeded(groups, handles)
    style.legend(figure, list(handles.values()), texts)
    notes.append("line: mean over seeds, band: lowest to highest seed; each value is of one batch")
    if left_out:
        notes.append(f"not drawn, for there is no room: {', '.join(QUANTITIES[q] for q in left_out)}")
    caption = (
        "What was recorded during training, each value of the batch of its step; w are the weights, w + e the ascent "
        "point, h the surrogate gap. A line is the mean over seeds, a band reaches from the lowest to the highest "
        f"seed. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def probed(result: Result, quantity: str) -> tuple[Any, Any]:
    """Steps and values of a recorded quantity."""
    data = result.data[quantity]
    return np.asarray(data[str(data.dims[0])].values), data.values

"""1-D slices with loss and accuracy on one picture, on training and test data (arXiv 1712.09913, figures 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import looks
from ..draw.scales import loss_scale
from ..draw.series import by_label, lost_note, middle_and_band, points, seeds_text, stack
from ..draw.style import Style, hide_unused
from ..draw.text import safe
from ..draw.words import method
from .slice import Slices, slice_lines


class _Scored(Slices):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and "accuracy" in result.data


WANTS = _Scored(
    "surface",
    "compute it with `landscape surface --dim 1 --metrics loss accuracy test-loss test-accuracy`",
    "loss",
    frozenset({"x"}),
)
GREY = "#6E6E6E"
_WIDTHS = {"loss": 1.6, "accuracy": 0.6}  # some optimizers are grey, too
_PARTS = {"loss": ("loss", "test_loss"), "accuracy": ("accuracy", "test_accuracy")}


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the loss (left axis, in the optimizer's colour) and the accuracy (right, thin, grey) along one direction.

    What to read: solid lines are the training data, dashed ones the test data. Where the dashed loss has its
    minimum beside the solid one, the network lies on the slope of the test loss in this direction. Accuracy can
    stay flat where the loss already rises. Lines are medians over directions and seeds.
    """
    groups, notes = by_label(results)
    across = style.across(len(groups), 13)
    rows = style.rows(-(-len(groups) // across), 13 * style.em, 8 * style.em)
    if len(groups) > rows * across:
        notes.append(f"{len(groups) - rows * across} optimizers are not drawn: there is no room")
        groups = dict(list(groups.items())[: rows * across])
    figure = style.figure((3.5 + 13 * rows) * style.em)
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    rights = [axes.twinx() for axes in panels]
    for axes in rights[1:]:
        axes.sharey(rights[0])
    table: list[Row] = []
    lost, shown, handles = 0, [], dict[str, Any]()
    for i, (label, look) in enumerate(looks(groups).items()):
        for side, quantities in _PARTS.items():
            for quantity, dash in zip(quantities, ("-", "--"), strict=True):
                lines = [line for r in groups[label] if quantity in r.data for line in slice_lines(r, quantity)]
                if not lines:
                    continue
                x, values, missing = stack(lines)
                middle = middle_and_band(values, "median")[0]
                lost += missing
                axes, colour = (panels[i], look.colour) if side == "loss" else (rights[i], GREY)
                scale = 1 if side == "loss" else 100
                (line,) = axes.plot(x, scale * middle, color=colour, ls=dash, lw=_WIDTHS[side])
                handles.setdefault("test data" if dash == "--" else "training data", line)
                table += points({"quantity": quantity, "label": label, "lines": len(lines)}, x=x, median=middle)
                shown += [middle[np.isfinite(middle)]] * (side == "loss")
        panels[i].set_title(f"{safe(method(label))}\n({seeds_text({label: groups[label]})})")
    for i, axes in enumerate(rights):
        axes.set_ylim(0, 102)
        axes.spines["right"].set_visible(True)
        axes.grid(visible=False)
        axes.tick_params(axis="y", colors=GREY, labelright=i % across == across - 1 or i == len(groups) - 1)
    hide_unused(panels, len(groups), across)
    hide_unused(rights, len(groups), across)
    extra = loss_scale(panels[0], np.concatenate([*shown, []]))
    figure.supylabel(f"loss{extra}", fontsize=style.text)
    figure.supxlabel(shared_axis_text("α", [r for v in groups.values() for r in v], 0), fontsize=style.text)
    rights[min(across, len(groups)) - 1].set_ylabel("accuracy (%)", color=GREY)
    style.legend(figure, list(handles.values()), [f"{k}: loss, and accuracy thin and in grey" for k in handles])
    notes += [*direction_notes([r for v in groups.values() for r in v]), "lines: medians over directions and seeds"]
    caption = (
        "Loss (left axis, in the optimizer's colour) and accuracy (right axis, thin, grey) along random directions "
        "through each network (α = 0). Solid: training data; dashed: test data. Lines are medians over directions "
        "and seeds."
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)

"""m-sharpness over the block size m."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..result import Result
from .drawing import Drawing, Row, Want, styled
from .looks import looks, name
from .scales import loss_scale
from .series import by_label, lost_note, middle_and_band, points, seeds_text, stack
from .style import Style, hide_unused
from .text import safe

WANTS = Want("sharpness", "compute it with `landscape sharpness`", "value", frozenset({"m", "rho"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw m-sharpness, a panel per radius rho.

    What to read: how much the loss rises when every block of m examples takes its own worst step of length rho.
    Small m is what SAM's per-batch ascent sees; the fall towards large m is the part that cancels between
    examples. Several seeds: line is the mean, band lowest to highest seed. One seed: whiskers are the standard
    error over blocks. Values at one rho and one m compare; values at different rho do not.
    """
    groups, notes = by_label(results)
    radii = sorted({float(r) for v in groups.values() for x in v for r in x.data["rho"].values})
    across = style.across(len(radii), 15)
    rows = -(-len(radii) // across)
    figure = style.figure(rows * style.width / (1.75 if across == 1 else 1.35 * across) + 0.25)
    panels = figure.subplots(rows, across, sharey=True, squeeze=False).ravel()
    table: list[Row] = []
    lost, handles, shown = 0, {}, []
    for axes, rho in zip(panels, radii, strict=False):
        for label, look in looks(groups).items():
            fit = [r for r in groups[label] if rho in r.data["rho"].values]
            if not fit:
                continue
            x, values, missing = stack([(r.data["m"].values, r.data["value"].sel(rho=rho).values) for r in fit])
            middle, low, high = middle_and_band(values, "mean")
            lost += missing
            errors = [np.nan] * len(x)
            if len(fit) == 1:
                errors = list(stack([(fit[0].data["m"].values, fit[0].data["stderr"].sel(rho=rho).values)])[1][0])
                axes.errorbar(
                    x,
                    middle,
                    np.nan_to_num(errors),
                    fmt="none",
                    ecolor=look.colour,
                    elinewidth=0.7,
                    capsize=2,
                )
            else:
                axes.fill_between(x, low, high, color=look.colour, alpha=0.18, lw=0)
            (handles[label],) = axes.plot(x, middle, color=look.colour, ls=look.dash, marker=look.marker)
            shown.append(values[np.isfinite(values)])
            table += points(
                {"label": label, "rho": rho, "seeds": len(fit)},
                m=x,
                mean=middle,
                lowest_seed=low,
                highest_seed=high,
                stderr_over_blocks=errors,
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{m:g}" for m in x], minor=False)
        axes.set(xlabel="m (examples per block)", title=f"ρ = {rho:g}{_ball(groups)}")
    extra = loss_scale(panels[0], np.concatenate([*shown, []]))
    for axes in panels[::across]:
        axes.set_ylabel(f"m-sharpness{extra}")
    hide_unused(panels, len(radii), across)
    style.legend(figure, list(handles.values()), [f"{safe(name(k))} ({seeds_text({k: groups[k]})})" for k in handles])
    notes.append(
        "several seeds: mean, band from lowest to highest seed; one seed: whiskers are the standard error over blocks"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)))


def _ball(groups: dict[str, list[Result]]) -> str:
    """The norm of the ball, where it is not the plain Euclidean one."""
    specs = [r.record.get("spec") or {} for v in groups.values() for r in v]
    balls = sorted({(str(s.get("p", "2")), bool(s.get("adaptive"))) for s in specs})
    if balls == [("2", False)]:
        return ""
    return ", " + " or ".join(f"p = {safe(p)}{', adaptive' if adaptive else ''}" for p, adaptive in balls)

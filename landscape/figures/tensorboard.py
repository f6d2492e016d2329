"""Figures of a run among its TensorBoard events."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from ..registry import FIGURES
from ..results.result import Result, shows_stored
from ..storage.event_files import EventFile
from .draw.drawing import Drawing
from .draw.style import Style
from .render import drawable, fitting, image


@shows_stored
def add_figures(folder: Path, results: Sequence[Result], step: int) -> list[str]:
    """Draw every kind of figure that ``results`` allow as a picture of an event file in ``folder``.

    Args:
        folder: Where the run's event files are.
        results: Of the run.
        step: At which they are shown.

    Returns:
        The kinds.

    Raises:
        UsageError: If tensorboard is not installed.
    """
    from PIL import Image

    style = Style("slides")
    kinds = drawable(results)
    events = EventFile(folder)
    for kind in kinds:
        fit = fitting(kind, results)
        drawing: Drawing = FIGURES.load(kind)(fit, style)
        png = image(drawing, "png", style, kind, fit, dpi=100)
        with Image.open(io.BytesIO(png)) as opened:
            events.picture(step, f"figures/{kind}", png, opened.size)
    events.close()
    return kinds

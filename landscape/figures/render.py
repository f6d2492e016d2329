"""From stored results to figure files, and the numbers in them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UsageError
from ..base.files import write_bytes
from ..base.names import unknown_name
from ..registry import FIGURES
from ..results.result import Result, shows_stored
from .draw.drawing import Drawing, Want
from .draw.movies import gif
from .draw.provenance import metadata
from .draw.series import named_apart
from .draw.style import Style
from .draw.tables import to_csv

FORMATS = ("pdf", "png", "svg", "html", "gif")


@shows_stored
def render(
    kind: str,
    results: Sequence[Result],
    out: Path,
    *,
    formats: Sequence[str] = ("pdf", "png"),
    venue: str = "neurips",
    columns: int = 1,
    stem: str | None = None,
) -> list[Path]:
    """Draw one kind of figure and write it, with a CSV of exactly the plotted numbers beside it.

    The same results give the same bytes, with the same versions and fonts.

    Args:
        kind: A name in `landscape.registry.FIGURES`.
        results: Any results; those of the right kind are taken.
        out: The folder.
        formats: Of ``pdf``, ``png``, ``svg``; ``html`` for kinds that turn or move, ``gif`` for those that move.
        venue: Sizes and fonts, a name in `landscape.figures.draw.style.VENUES`.
        columns: Columns of the page that the figure spans.
        stem: File name without suffix (default: the kind).

    Returns:
        The files, the CSV last.

    Raises:
        UsageError: If a name is unknown, or no result is of the right kind.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> import tempfile, pathlib
        >>> found = landscape.hessian(problem, top=2)
        >>> files = landscape.render("eigenvalues", [found], pathlib.Path(tempfile.mkdtemp()), formats=("png",))
        >>> sorted(file.name for file in files)
        ['eigenvalues.csv', 'eigenvalues.png']
    """
    for form in formats:
        if form not in FORMATS:
            raise unknown_name("format", form, FORMATS, "--format")
    fit = fitting(kind, results)
    style = Style(venue, columns)
    drawing: Drawing = FIGURES.load(kind)(fit, style)
    if "html" in formats and drawing.interactive is None:
        raise UsageError(f"a {kind} figure has no html form", "--format", "choose pdf, png or svg, or kind surface3d")
    if "gif" in formats and drawing.movie is None:
        fix = "choose pdf, png or svg, or kind trajectory-movie or surface-movie"
        raise UsageError(f"a {kind} figure does not move", "--format", fix)
    stem = stem or kind
    paths = []
    for form in dict.fromkeys(formats):
        path = Path(out) / f"{stem}.{form}"
        write_bytes(path, _file(drawing, form, style, kind, fit))
        paths.append(path)
    table = Path(out) / f"{stem}.csv"
    write_bytes(table, to_csv(drawing.rows).encode("utf-8", "backslashreplace"))
    return [*paths, table]


def _file(drawing: Drawing, form: str, style: Style, kind: str, results: Sequence[Result]) -> bytes:
    if form == "html":
        return page(drawing)
    return gif(drawing, style) if form == "gif" else image(drawing, form, style, kind, results)


def fitting(kind: str, results: Sequence[Result]) -> list[Result]:
    """The results that a figure kind is drawn from.

    Raises:
        UsageError: If the kind is unknown, or there is none.
    """
    module = importlib.import_module(FIGURES[kind].target.partition(":")[0])
    wanted: Want = module.WANTS
    return wanted.of(named_apart(results), kind)


@shows_stored
def drawable(results: Sequence[Result]) -> list[str]:
    """The figure kinds that the results allow, in the order of the registry."""

    def allowed(kind: str) -> bool:
        try:
            return bool(fitting(kind, results))
        except UsageError:
            return False

    return [kind for kind in FIGURES if allowed(kind)]


def image(
    drawing: Drawing, form: str, style: Style, kind: str, results: Sequence[Result], *, dpi: int = 300
) -> bytes:
    """The figure as PDF, PNG or SVG."""
    buffer = io.BytesIO()
    with style.applied():
        drawing.figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata(form, kind, results))
    return buffer.getvalue()


def page(drawing: Drawing) -> bytes:
    """The interactive figure as one HTML file that opens without a network."""
    text = drawing.interactive.to_html(
        include_plotlyjs=True,
        full_html=True,
        auto_play=False,
        div_id="surface",
        config={"displaylogo": False, "responsive": True},
    )
    return str(text).encode("utf-8", "backslashreplace")

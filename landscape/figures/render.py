"""From stored results to figure files, and the numbers in them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UsageError
from ..base.files import write_bytes
from ..base.names import unknown_name
from ..registry import FIGURES
from ..results.result import Result, shows_stored
from .draw.comparable import along, comparable
from .draw.drawing import Drawing, Want
from .draw.latex import figure_tex
from .draw.provenance import metadata
from .draw.series import named_apart
from .draw.style import Style
from .draw.tables import to_csv
from .planes.interactive import CONFIG
from .planes.movies import gif

FORMATS = ("pdf", "png", "svg", "html", "gif")


@dataclass(frozen=True)
class Rendered:
    """What was written.

    Attributes:
        paths: The files: the formats in order, then LaTeX where there is a still one, then the CSV.
        notes: What the reader must know and cannot see.
        told: Those of the notes that were logged as warnings.
    """

    paths: list[Path]
    notes: tuple[str, ...]
    told: tuple[str, ...]


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
    direction: str | None = None,
) -> list[Path]:
    """Draw one kind of figure and write it, with its caption for a paper and exactly the plotted numbers beside it.

    The same results give the same bytes, with the same versions and fonts.

    Args:
        kind: A name in `landscape.registry.FIGURES`.
        results: Any results; those of the right kind are taken, and of those what can be compared.
        out: The folder.
        formats: Of ``pdf``, ``png``, ``svg``; ``html`` for kinds that turn or move, ``gif`` for those that move.
        venue: Sizes and fonts, a name in `landscape.figures.draw.style.VENUES`.
        columns: Columns of the page that the figure spans.
        stem: File name without suffix (default: the kind).
        direction: Of surfaces, those that are cut along this direction, for example ``filter`` or ``eigvec:1``.

    Returns:
        The files: the formats, ``stem.tex`` with the caption where there is a still one, the CSV last.

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
        ['eigenvalues.csv', 'eigenvalues.png', 'eigenvalues.tex']
    """
    style = Style(venue, columns)
    return write(kind, results, out, formats=formats, style=style, stem=stem, direction=direction).paths


def write(
    kind: str,
    results: Sequence[Result],
    out: Path,
    *,
    formats: Sequence[str],
    style: Style,
    stem: str | None = None,
    direction: str | None = None,
    skip: bool = False,
) -> Rendered:
    """As `render`, which is for people; with what has to be said beside the figure.

    Args:
        kind: A name in `landscape.registry.FIGURES`.
        results: Any results.
        out: The folder.
        formats: File formats.
        style: Sizes, fonts and options of the drawing.
        stem: File name without suffix.
        direction: Of surfaces, those along it.
        skip: Leave out formats that cannot show the figure, with a note, in place of an error.

    Raises:
        UsageError: As `render`.
    """
    for form in formats:
        if form not in FORMATS:
            raise unknown_name("format", form, FORMATS, "`formats=`")
    fit = fitting(kind, along(results, direction))
    drawing: Drawing = FIGURES.load(kind)(fit, style)
    refused = _refused(drawing, kind, formats)
    if refused and not skip:
        raise next(iter(refused.values()))
    kept = [form for form in dict.fromkeys(formats) if form not in refused]
    notes = (*drawing.notes, *(error.what for error in refused.values()))
    if not kept and formats:
        return Rendered([], notes, drawing.warned)
    stem = stem or kind
    files = {f"{stem}.{form}": _file(drawing, form, style, kind, fit) for form in kept}
    still = next((form for form in ("pdf", "png", "svg") if form in kept), None)
    if still is not None:
        said = [note for note in drawing.notes if note not in drawing.changed]
        text = figure_tex(stem, still, style, drawing.caption, said, drawing.changed)
        files[f"{stem}.tex"] = text.encode("utf-8", "backslashreplace")
    files[f"{stem}.csv"] = to_csv(drawing.rows).encode("utf-8", "backslashreplace")
    for name, content in files.items():
        write_bytes(Path(out) / name, content)
    return Rendered([Path(out) / name for name in files], notes, drawing.warned)


def _refused(drawing: Drawing, kind: str, formats: Sequence[str]) -> dict[str, UsageError]:
    """By format, why it cannot show the figure."""
    found = {}
    if "html" in formats and drawing.interactive is None:
        fix = "choose pdf, png or svg, or kind surface3d"
        found["html"] = UsageError(f"{_a(kind)} figure has no html form", "`formats=`", fix)
    if "gif" in formats and drawing.movie is None:
        fix = "choose pdf, png or svg, or kind trajectory-movie or surface-movie"
        found["gif"] = UsageError(f"{_a(kind)} figure does not move", "`formats=`", fix)
    return found


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _file(drawing: Drawing, form: str, style: Style, kind: str, results: Sequence[Result]) -> bytes:
    if form == "html":
        return page(drawing)
    return gif(drawing, style) if form == "gif" else image(drawing, form, style, kind, results)


def wants(kind: str) -> Want:
    """What a figure kind is drawn from.

    Raises:
        UsageError: If the kind is unknown.
    """
    module = importlib.import_module(FIGURES[kind].target.partition(":")[0])
    found: Want = module.WANTS
    return found


def fitting(kind: str, results: Sequence[Result]) -> list[Result]:
    """The results that a figure kind is drawn from.

    Raises:
        UsageError: If the kind is unknown, or there is none.
    """
    return wants(kind).of(named_apart(results), kind)


@shows_stored
def drawable(results: Sequence[Result]) -> list[str]:
    """The figure kinds that the results allow and that say something of them, in the order of the registry.

    One radius gives no curve over the radius, a bowl no merge tree; by its name such a figure is still drawn.
    """

    def allowed(kind: str) -> bool:
        try:
            return wants(kind).tells(comparable(fitting(kind, results))[0])
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
        config=CONFIG,
    )
    return str(text).encode("utf-8", "backslashreplace")

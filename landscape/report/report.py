"""`write_report`: everything about a set of results on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..figures.comparison import comparison
from ..figures.provenance import versions
from ..figures.render import fitting
from ..figures.style import Style
from ..figures.summary import summarize
from ..files import write_bytes
from ..result import Result
from .sections import plots, provenance, table_cells, table_head

# Browsers keep at most 16 WebGL contexts; a surface needs one.
MOST_SURFACES = 12


def write_report(results: Sequence[Result], out: Path, *, title: str) -> Path:
    """Write one HTML file that holds the comparison, all figures, surfaces to turn, and all provenance.

    The page opens without a network: its policy forbids every request. The same results give the same bytes.

    Args:
        results: Any stored results, of any number of optimizers and seeds.
        out: The file.
        title: The heading.

    Returns:
        ``out``.

    Raises:
        UsageError: If there are no results.
    """
    import jinja2

    if not results:
        raise UsageError("a report needs results", str(out), "name runs or stored results")
    rows = summarize(results)
    surfaces, views, left_out = _surfaces(results)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html").render(
        title=title,
        sentences=comparison(rows, results),
        head=table_head(rows),
        rows=[table_cells(row) for row in rows],
        surfaces=surfaces,
        views=views,
        left_out=left_out,
        plots=list(plots(results, Style("tmlr"))),
        provenance=provenance(results),
        versions=versions(),
        library=_library() if surfaces else "",
    )
    write_bytes(Path(out), page.encode("utf-8", "replace"))
    return Path(out)


def _library() -> Any:
    """The text of plotly.js; it holds no closing script tag."""
    import markupsafe
    from plotly.offline import get_plotlyjs

    return markupsafe.Markup(get_plotlyjs())


def _surfaces(results: Sequence[Result]) -> tuple[list[dict[str, Any]], list[str], int]:
    """A piece of HTML per surface that can be turned, the names of its views, and how many surfaces are left out."""
    import markupsafe

    from ..figures.interactive import axes_text, figures

    try:
        fit = fitting("surface3d", results)
    except UsageError:
        return [], [], 0
    made = figures(fit)
    pieces = []
    for number, (panel, figure) in enumerate(made[:MOST_SURFACES]):
        text = figure.to_html(
            include_plotlyjs=False,
            full_html=False,
            div_id=f"surface-{number}",
            default_height="100%",
            config={"displaylogo": False, "responsive": True, "scrollZoom": False},
        )
        pieces.append({"title": panel.title, "axes": axes_text(panel), "html": markupsafe.Markup(text)})
    views = [view["name"] for view in made[0][1].layout.meta["views"]]
    return pieces, views, len(made) - len(pieces)

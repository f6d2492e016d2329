"""`write_report`: everything about a set of results on one page."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..base.errors import UsageError
from ..figures.comparison import comparison, verdict
from ..figures.draw.provenance import versions
from ..figures.draw.series import named_apart
from ..figures.draw.style import Style
from ..figures.render import fitting, image
from ..figures.summary import summarize
from ..registry import FIGURES
from ..results.result import Result, shows_stored
from ..results.staleness import changes, one_look
from .explore import explorable, script_json
from .headline import decisive, tiles
from .page import write_page
from .sections import CAPTIONS, data_address, downloads, grouped, plots, provenance, table_cells, table_head


@shows_stored
def write_report(results: Sequence[Result], out: Path, *, title: str) -> Path:
    """Write one HTML file that holds the comparison, all figures, what can be explored, and all provenance.

    The page opens without a network: its policy forbids every request. The same results give the same bytes. The
    library that draws surfaces is in it, compressed; browsers since 2023 unpack it.

    Args:
        results: Any stored results, of any number of optimizers and seeds.
        out: The file.
        title: The heading.

    Returns:
        ``out``.

    Raises:
        UsageError: If there are no results.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> import tempfile, pathlib
        >>> page = pathlib.Path(tempfile.mkdtemp()) / "report.html"
        >>> landscape.write_report([landscape.hessian(problem, top=1)], page, title="A linear model").exists()
        True
    """
    if not results:
        raise UsageError("a report needs results", str(out), "name runs or stored results")
    with one_look():
        return _written(named_apart(results), Path(out), title)


def _written(results: Sequence[Result], out: Path, title: str) -> Path:
    import markupsafe

    rows = summarize(results)
    explore = explorable(results)
    drawn = list(plots(results, Style("tmlr"), CAPTIONS))
    shared, entries = provenance(results)
    first = decisive([plot.kind for plot in drawn])
    write_page(
        "report.html",
        out,
        title=title,
        changed=changes(results),
        changed_explored={
            part: changes([r for kind in kinds for r in _fit(kind, results)]) for part, kinds in _EXPLORED.items()
        },
        verdict=verdict(rows),
        sentences=comparison(rows, results),
        head=table_head(rows),
        rows=[table_cells(row) for row in rows],
        downloads=downloads(rows),
        explore=explore,
        explored=lambda title: [(part, words) for part, words in _PARTS.get(title, {}).items() if explore[part]],
        data=markupsafe.Markup(script_json(explore)),
        tiles=tiles(rows),
        first=next((plot for plot in drawn if plot.kind == first), None),
        groups=grouped([plot for plot in drawn if plot.kind != first]),
        still=_still(results) if explore["surfaces"] else "",
        provenance=entries,
        shared=shared,
        versions=versions(),
        library=_library() if any(explore.values()) else "",
    )
    return out


# Where on the page what can be explored stands, and what it is called.
_PARTS = {
    "Loss surfaces and paths": {"surfaces": "Surfaces", "trajectory": "Trajectories, step by step"},
    "Domains": {"curves": "Domains, step by step"},
}

# The figure kinds whose results each part of the page that can be explored is made of.
_EXPLORED = {"surfaces": ("surface3d",), "trajectory": ("trajectory-movie",), "curves": ("domain-curves", "training")}


def _fit(kind: str, results: Sequence[Result]) -> list[Result]:
    try:
        return fitting(kind, results)
    except UsageError:
        return []


def _still(results: Sequence[Result]) -> str:
    """The surfaces as a picture, for paper."""
    kind, style = "surface3d", Style("tmlr")
    fit = _fit(kind, results)
    return data_address("image/png", image(FIGURES.load(kind)(fit, style), "png", style, kind, fit)) if fit else ""


@lru_cache(maxsize=1)
def _library() -> str:
    """plotly.js, compressed, as base64; the same bytes each time."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), 9, mtime=0)).decode("ascii")

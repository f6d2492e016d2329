"""Pages from templates: what is filled in is escaped, and what is missing is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.files import write_bytes


def write_page(template: str, out: Path, **values: Any) -> None:
    """Fill ``template`` (a file of this folder) with ``values`` and store the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template(template).render(**values)
    write_bytes(out, page.encode("utf-8", "replace"))

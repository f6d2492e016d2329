"""`write_study_report`: a study as one page, tables for papers, and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base.files import write_bytes
from ..figures.draw.provenance import versions
from ..figures.draw.style import Style
from ..figures.draw.tables import to_csv, to_latex
from ..figures.render import render
from ..results.result import Result
from ..study.claims import sentence as claim_sentence
from ..study.findings import about, caveats, compared_sentence, who_is_in
from .page import write_page
from .sections import plots
from .study_tables import tables

CAPTIONS = {
    "study-forest": (
        "Rank correlations",
        "Kendall's tau of every measure with every gap. Not shown: whether a third thing moves both, see the next "
        "figure and the partial correlations in the tables.",
    ),
    "study-settings": (
        "One hyper-parameter at a time",
        "The same correlations among models that differ in one setting alone. Not shown: settings that were not "
        "varied.",
    ),
    "study-scatter": (
        "The models",
        "Every model's measures and gaps. Not shown: models that were left out, see the findings.",
    ),
    "study-methods": (
        "Methods, pair by pair",
        "Differences between methods with everything else equal. Not shown: what better settings of each method "
        "would do.",
    ),
}


def write_study_report(result: Result, out: Path) -> list[Path]:
    """Write ``report.html``, a CSV and a LaTeX file per table, and figures as PDF, PNG and CSV.

    The page opens without a network. The same result gives the same bytes.

    Args:
        result: Of kind ``study``.
        out: The folder.

    Returns:
        All files, the page first.
    """
    record = result.record
    out = Path(out).absolute()
    made = list(tables(record))
    files: list[Path] = []
    for table in made:
        for suffix, text in (
            ("csv", to_csv(table.rows)),
            ("tex", to_latex(table.headers, table.cells, table.caption)),
        ):
            files.append(out / f"{table.stem}.{suffix}")
            write_bytes(files[-1], text.encode("utf-8", "replace"))
    captions = {kind: told for kind, told in CAPTIONS.items() if _says_something(kind, record)}
    for kind in captions:
        files += render(kind, [result], out)
    write_page(
        "study.html",
        out / "report.html",
        title=record["title"],
        question=_question(record),
        answers=[claim_sentence(claim) for claim in record.get("claims") or ()],
        sentences=list(_findings(record)),
        tables=made,
        plots=list(plots([result], Style("tmlr"), captions)),
        caveats=caveats(record),
        provenance=_provenance(record),
        versions=versions(),
    )
    return [out / "report.html", *files]


def _says_something(kind: str, record: dict[str, Any]) -> bool:
    """Whether a study has what a figure shows: pairs of methods, or correlations with an outcome."""
    if kind == "study-methods":
        return bool(record["comparison"]["pairs"])
    return any(not outcome["note"] for outcome in record["outcomes"])


def _question(record: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [("Claim.", "claim"), ("Refuted by.", "refuted_by"), ("What decides.", "decides")]
    return [(name, record[key]) for name, key in parts if record[key]]


def _findings(record: dict[str, Any]) -> Iterator[str]:
    yield from who_is_in(record)
    for outcome in record["outcomes"]:
        yield from about(outcome, [r for r in record["correlations"] if r["outcome"] == outcome["outcome"]])
    yield from map(compared_sentence, record["comparison"]["pairs"])


def _provenance(record: dict[str, Any]) -> list[tuple[str, str]]:
    def text(value: Any) -> str:
        return json.dumps(value, indent=1, ensure_ascii=False)

    return [
        ("experiment", text(record["experiment"])),
        ("seeds", text(record["seeds"])),
        (f"{len(record['models'])} models", text(record["models"])),
        ("models left out", text(record["dropped"])),
        ("radii (control C11)", text(record["radii"])),
        ("examples, mode and precision of every analysis (control C10)", text(record["uniform"])),
    ]

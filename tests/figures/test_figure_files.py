from __future__ import annotations

import csv
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from figures import made
from landscape.base.errors import UsageError
from landscape.figures.draw.style import Style
from landscape.figures.render import fitting, image, render
from landscape.registry import FIGURES


def streams(pdf: bytes) -> bytes:
    """The file with its compressed streams opened."""
    opened = [pdf]
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            opened.append(zlib.decompress(part))
        except zlib.error:
            continue
    return b"\n".join(opened)


@pytest.mark.parametrize("kind", [k for k in FIGURES if not k.startswith("study-")])
def test_two_renders_are_equal_bytes_and_the_csv_is_what_is_drawn(kind: str, tmp_path: Path) -> None:
    files = render(kind, made.everything(), tmp_path, formats=("pdf", "svg"))
    pdf, svg, tex, table = files
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files)
    assert tex.read_text(encoding="utf-8").count("includegraphics") == 1
    fit = fitting(kind, list(reversed(made.everything())))
    again = FIGURES.load(kind)(fit, Style())
    assert image(again, "svg", Style(), kind, fit) == svg.read_bytes()
    assert image(again, "pdf", Style(), kind, fit) == pdf.read_bytes()
    text = streams(pdf.read_bytes())
    assert b"/Type3" not in text
    assert b"/CIDFontType2" in text
    with open(table, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(again.rows)
    for stored, plotted in zip(rows, again.rows, strict=True):
        for name, value in plotted.items():
            if isinstance(value, float):
                assert repr(float(stored[name])) == repr(value)
            else:
                assert stored[name] == ("" if value is None else str(value))


def test_hostile_names_give_no_type_3_font_either(tmp_path: Path) -> None:
    pdf = render("eigenvalues", made.hostile(), tmp_path, formats=("pdf",))[0]
    assert b"/Type3" not in streams(pdf.read_bytes())


def test_the_files_say_where_their_numbers_come_from(tmp_path: Path) -> None:
    from PIL import Image

    pdf, png, svg, _, _ = render("contour", made.everything(), tmp_path, formats=("pdf", "png", "svg"))
    again = render("contour", made.everything(), tmp_path / "again", formats=("png",))[0]
    assert png.read_bytes() == again.read_bytes()
    assert b"weights-sam-0" in pdf.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    with Image.open(png) as image:
        assert "weights-sam-0" in image.info["Description"]
    assert "weights-sam-0" in svg.read_text(encoding="utf-8")


def test_text_in_the_csv_is_no_formula(tmp_path: Path) -> None:
    text = render("domains", made.hostile(), tmp_path, formats=())[-1].read_text(encoding="utf-8")
    cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
    assert "'=cmd|' /C calc'!A0" in cells
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)


def test_missing_results_and_wrong_names_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a hessian result, there is sharpness.*landscape hessian"):
        render("eigenvalues", [made.sharpness("sgd", 0)], tmp_path)
    with pytest.raises(UsageError, match="landscape surface --dim 2"):
        render("contour", [made.line("sgd", 0)], tmp_path)
    with pytest.raises(UsageError, match="landscape surface --dim 1"):
        render("slice", [made.plane("sgd", 0)], tmp_path)
    with pytest.raises(UsageError, match="did you mean 'contour'"):
        render("contours", made.everything(), tmp_path)
    with pytest.raises(UsageError, match="unknown format 'pgn'"):
        render("contour", made.everything(), tmp_path, formats=("pgn",))
    with pytest.raises(UsageError, match="no html form"):
        render("contour", made.everything(), tmp_path, formats=("html",))
    assert not list(tmp_path.iterdir())


def test_the_page_of_one_surface_is_stable_and_holds_no_raw_name(tmp_path: Path) -> None:
    first = render("surface3d", made.hostile(), tmp_path / "a", formats=("html",), stem="s")[0]
    second = render("surface3d", made.hostile(), tmp_path / "b", formats=("html",), stem="s")[0]
    assert first.name == "s.html"
    assert first.read_bytes() == second.read_bytes()
    assert b"<img src=x" not in first.read_bytes()


def test_figures_and_report_never_import_torch() -> None:
    modules = "landscape.figures.render, landscape.figures.summary, landscape.report.report"
    kinds = "from landscape.registry import FIGURES; [FIGURES.load(k) for k in FIGURES]"
    heavy = "{'torch', 'matplotlib', 'plotly', 'xarray'}"
    code = f"import sys, {modules}; {kinds}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

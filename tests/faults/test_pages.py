"""What strangers call their classes, domains and files does nothing in a page, a table or a JSON object."""

from __future__ import annotations

import csv
import html.parser
import json
from pathlib import Path

import pytest

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

EVIL = ("</script><script>window.hit=1</script>", '"><img src=x onerror=alert(1)>', "=HYPERLINK(1)", "+1", "@SUM(A1)")
PLUGIN = f"""
import torch
NAMES = {EVIL!r}
def data():
    x = torch.sin(torch.arange(240.0)).reshape(60, 4)
    parts = {{n: (x[i::5], torch.arange(12) % 3) for i, n in enumerate(NAMES)}}
    return {{"train": parts, "test": parts}}
def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
"""


class Elements(html.parser.HTMLParser):
    """Counts elements and event attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts, self.images, self.handlers = 0, 0, []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and what was found out about them: one with evil names, one with the same data under plain ones."""
    folder = tmp_path_factory.mktemp("pages")
    landscape = Landscape(folder)
    landscape.file("evil.py", PLUGIN)
    landscape.file("plain.py", PLUGIN.replace(repr(EVIL), repr(tuple("abcde"))))
    for name in ("evil", "plain"):
        words = ("--data", f"{name}.py:data", "--model", f"{name}.py:network", "--steps", "4", "--out", name)
        assert landscape("train", *words, "--optimizer", "disam").code == 0
        title = EVIL[0] if name == "evil" else "plain"
        outcome = landscape("report", f"{name}/disam-seed0", "--title", title, "--page", f"{name}.html")
        assert outcome.code == 0, outcome.err
    return folder


@pytest.mark.case(75)
def test_names_are_text_in_the_report(folder: Path) -> None:
    evil, plain = (Elements((folder / f"{n}.html").read_text()) for n in ("evil", "plain"))
    assert evil.scripts == plain.scripts > 0
    assert evil.images == plain.images
    assert evil.handlers == plain.handlers
    page = (folder / "evil.html").read_text()
    assert "window.hit=1</script>" not in page
    assert "window.hit" in page, "the names are shown"


@pytest.mark.case(75)
def test_names_are_text_in_interactive_figures(folder: Path) -> None:
    landscape = Landscape(folder)
    found = {}
    for name in ("evil", "plain"):
        words = ("plot", f"{name}/disam-seed0", "--out", f"drawn-{name}", "--json")
        both = (("--kind", "surface3d", "--format", "html"), ("--kind", "domains", "training", "--format", "svg"))
        paths = [Path(p) for more in both for p in landscape(*words, *more).json["outputs"]]
        assert all((folder / f"drawn-{name}") in p.parents for p in paths)
        pages = [Elements(p.read_text()) for p in paths if p.suffix in (".html", ".svg")]
        found[name] = [(p.scripts, p.images, len(p.handlers)) for p in pages]
    assert found["evil"] == found["plain"]
    assert found["evil"]


@pytest.mark.case(76)
def test_cells_that_spreadsheets_would_run(folder: Path) -> None:
    landscape = Landscape(folder)
    outcome = landscape("export", "evil/disam-seed0", "--format", "csv", "--out", "tables", "--json")
    drawn = landscape("plot", "evil/disam-seed0", "--kind", "domains", "--format", "svg", "--out", "tables", "--json")
    tables = [Path(p) for p in (*outcome.json["outputs"], *drawn.json["outputs"]) if p.endswith(".csv")]
    cells = [c for t in tables for row in csv.reader(t.read_text().splitlines()) for c in row]
    words = [c for c in cells if not _is_number(c)]
    assert not [w for w in words if w.startswith(("=", "+", "-", "@"))]
    assert "'=HYPERLINK(1)" in words
    assert "'+1" in cells
    assert any(_is_number(c) for c in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return not text.startswith("+")


@pytest.mark.case(77)
def test_every_json_object_is_strict(folder: Path) -> None:
    """With infinite losses at hand: a surface that leaves the numbers, a log of a training that does."""
    landscape = Landscape(folder)
    landscape.file("wild.py", PLUGIN.replace("torch.nn.Linear(5, 3))", "torch.nn.Linear(5, 3), Wild())") + WILD)
    words = ("--data", "wild.py:data", "--model", "wild.py:network")
    assert landscape("train", *words, "--steps", "2", "--out", "wild").code == 0
    surface = landscape("surface", "wild/sgd-seed0", "--points", "5", "--range", "900", "--dim", "1", "--json").json
    assert surface["nan_cells"] + surface["infinite_cells"] > 0
    diverged = landscape("train", *words, "--steps", "60", "--lr", "1e6", "--out", "diverged", "--json")
    assert diverged.code in (0, 4)
    for looked in (("info", "wild/sgd-seed0"), ("domains", "wild/sgd-seed0"), ("hessian", "wild/sgd-seed0")):
        assert landscape(*looked, "--json").json
    for file in folder.rglob("*.json*"):
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(line, parse_constant=pytest.fail)


WILD = """
class Wild(torch.nn.Module):
    def forward(self, x):
        return x * torch.exp(10 * x.abs().sum(1, keepdim=True).clamp(max=1e3) - 30).clamp(min=1)
"""

"""Names that become paths, cells and lines: whatever a domain or a run is called, nothing is written elsewhere."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape_cli.app import main

import landscape
from landscape.base.labels import defused, file_name, file_names, shown
from landscape.figures.draw.tables import to_csv
from landscape.figures.render import drawable, render
from landscape.results.result import Result
from landscape.surfaces.export import export

HOSTILE = (
    "../../x", "..", ".", "", "/etc/x", "a/b", "a\\b", "C:x", "n" * 300, "nul\0byte", "two\nlines", "\ud800",
    "\x1b[31mred\x1b[0m\a", "\u202edesrever", "e\u0301", "\xe9", "all", "mean", "1", "1.0", "=1+1", "-flag", "CON",
    "dot.", "space ", "A", "a", "[red]", "</script><b>", "$\\frac{", "{x}", "%s", "~root", "*", "domain",
    "file", "record",
)  # fmt: skip
SHOWN = ("../../x", "nul\0byte", "\ud800", "</script><b>", "[red]")  # those that a page is made of, too
FEW = ("../../x", "\ud800", "=1+1")  # those of the quick line


def tree(folder: Path) -> dict[str, int]:
    """All files below a folder, and their sizes."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


# -- the one function ---------------------------------------------------------------------------------------------


@pytest.mark.case(88)
def test_plain_labels_stay_and_all_others_are_told_apart(tmp_path: Path) -> None:
    for plain in ("sgd", "photo", "sam-seed0", "adam-2x-seed1", "art_painting", "0", "15", "a+b", "v1.2", "Art"):
        assert file_name(plain) == plain
    names = file_names(HOSTILE)
    assert len({n.casefold() for n in names.values()}) == len(HOSTILE)
    for name in names.values():
        (tmp_path / name).write_text("x")
        assert (tmp_path / name).parent.resolve() == tmp_path
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)
    assert file_name("a/b") == file_name("a/b") == "a_b~c14cddc0"  # printf a/b | sha256sum


@pytest.mark.case(88)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=130), max_size=5, unique=True))
def test_any_labels_have_safe_names_that_differ(labels: list[str]) -> None:
    names = file_names(labels)
    assert set(names) == set(labels)
    assert len({n.casefold() for n in names.values()}) == len(labels)
    for name in names.values():
        assert name.isascii()
        assert name.isprintable()
        assert 0 < len(name) <= 100
        assert not set(name) & set('/\\:*?"<>|')
        assert name[0] not in ".-"
        assert name[-1] not in ". "


# -- trainings -----------------------------------------------------------------------------------------------------

DOMAINS = """
import json, torch
def data():
    names = json.loads(open("names.json").read())
    parts = {n: (torch.sin(torch.arange(8.0) + i).reshape(2, 4), torch.tensor([0, 1])) for i, n in enumerate(names)}
    return {"train": parts, "test": parts}
def network():
    return torch.nn.Linear(4, 2)
"""


@pytest.mark.case(94)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of fonts without such letters
def test_a_training_on_domains_of_such_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log, its event files, its held-out folders, its analysis and the figures of them; all is read again."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setattr(logging.getLogger("landscape"), "propagate", False)
    (inside / "plug.py").write_text(DOMAINS)
    (inside / "names.json").write_text(json.dumps([n for n in HOSTILE if n]))
    words = ["train", "--data", "plug.py:data", "--model", "plug.py:network", "--optimizer", "disam", "--steps", "2"]
    assert main([*words, "--out", "runs", "--probe", "domain-variance@every=1", "--tensorboard"]) == 0
    run = "runs/disam-seed0"
    assert main(["domains", run, "--figure", "domains", "domain-matrix"]) == 0
    assert main(["plot", run, "--out", "drawn", "--kind", "training", "--format", "svg"]) == 0
    assert main(["info", run, "--json"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    known = {"plug.py", "names.json", "runs", "drawn", "landscape-figures", "__pycache__"}
    assert {p.name for p in inside.iterdir()} <= known
    for i, name in enumerate(("../../x", "all", "\ud800")):
        assert main([*words, "--out", f"held{i}", "--holdout", name]) == 0
    assert {p.name for p in inside.iterdir()} <= known | {"held0", "held1", "held2"}
    (stored,) = (inside / run / "results").glob("domains-*.nc")
    assert [str(d) for d in Result.load(stored).data["domain"].values] == [n for n in HOSTILE if n]


# -- every writer -------------------------------------------------------------------------------------------------


def results(name: str) -> list[Result]:
    """A spectrum, a surface and domains that carry a name wherever a name can be."""
    x = np.linspace(-1, 1, 4)
    loss = x[None, :] ** 2 + x[:, None] ** 2 + 0.1
    run = {"optimizer": name, "seed": 0, "step": 3, "path": name}
    axes = [{"direction": name, "norm": 1.0, "seed": 0}, {"direction": "filter", "norm": 1.0, "seed": 1}]
    domains = {"domain": [name, "other"]}
    surface = xr.Dataset(
        {"loss": (("y", "x"), loss), "domain_loss": (("domain", "y", "x"), np.stack([loss, 2 * loss]))},
        {"x": x, "y": x, **domains},
    )
    ranks = {
        "eigenvalues": ("rank", [3.0, 1.0]),
        "residuals": ("rank", [0.0, 0.0]),
        "converged": ("rank", [True] * 2),
    }
    spectrum = xr.Dataset(ranks, {"rank": [1, 2]})
    by_domain = xr.Dataset({"loss": ("domain", [1.0, 2.0]), "accuracy": ("domain", [0.5, 0.6])}, domains)
    odd = xr.Dataset({"loss": ("t", [1.0, 2.0]), name or "nameless": (("t", name or "u"), np.ones((2, 2)))})
    common = {"target": name, "run": run, "label": name, "split": "train"}
    return [
        Result("surface", surface, {**common, "axes": axes}),
        Result("hessian", spectrum, {**common, "operator": "hessian", "density": None, "lambda_ratio": None}),
        Result("domains", by_domain, common),
        Result("foreign", odd, common),
    ]


@pytest.mark.case(89)
@pytest.mark.filterwarnings("ignore")  # of fonts without such letters
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in HOSTILE],
    ids=lambda n: ascii(n)[:20],
)
def test_every_writer_stays_in_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole disk above the folder is looked at, and what was written is read again."""
    inside = tmp_path / "a" / "b" / "c"
    out = inside / "out"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    # What is logged holds the name as it is, which not every reporter of tests can say.
    monkeypatch.setattr(logging.getLogger("landscape"), "propagate", False)
    stored = []
    for i, result in enumerate(results(name)):
        path = result.save(inside / f"{i}.nc")
        stored.append(Result.load(path))
        assert stored[-1].record["label"] == name
        xr.testing.assert_identical(stored[-1].data, result.data)
    before = tree(tmp_path)
    assert main(["export", *(f"{i}.nc" for i in range(4)), "--format", "csv", "npz", "--out", str(out)]) == 0
    export(stored[0], "vti", out / "0.vti")
    for kind in ("contour", "eigenvalues"):
        assert kind in drawable(stored)
        render(kind, stored, out, formats=("svg",))
    if name in SHOWN:
        landscape.write_report(stored, out / "report.html", title=name)
    new = {p for p in tree(tmp_path) if p not in before}
    assert new
    assert all(Path(p).is_relative_to("a/b/c/out") for p in new), new
    assert {p: s for p, s in tree(tmp_path).items() if p in before} == before
    ElementTree.parse(out / "0.vti")
    with np.load(out / "3.npz", allow_pickle=False) as archive:
        names = json.loads(str(archive["names"])) if "names" in archive.files else {}
        assert all(Path(m).name == m for m in archive.files)
        assert (name or "nameless") in {names.get(m, m) for m in archive.files}
        assert json.loads(str(archive["record"]))["label"] == name
    for table in out.glob("*.csv"):
        for cell in (c for row in csv.reader(table.read_text().splitlines()) for c in row):
            assert not cell.startswith(("=", "@", "\t")), (table, cell)


@pytest.mark.case(90)
def test_held_out_domains_of_any_name_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ["../../x", "a/b", "A", "a", "all"]
    x = torch.sin(torch.arange(800.0)).reshape(200, 4)
    parts = {n: (x[40 * i : 40 * i + 40], torch.arange(40) % 3) for i, n in enumerate(names)}
    (tmp_path / "w" / "d").mkdir(parents=True)
    plugin = tmp_path / "w" / "d" / "plug.py"
    torch.save([parts[n] for n in names], tmp_path / "w" / "d" / "x.pt")
    plugin.write_text(
        "import pathlib, torch\n"
        f"def data():\n    parts = torch.load(pathlib.Path(__file__).with_name('x.pt'))\n"
        f"    return {{'train': dict(zip({names!r}, parts))}}\n"
    )
    before = tree(tmp_path)
    runs = landscape.train(
        optimizer=("sgd",), data=f"{plugin}:data", leave_one_out=True, steps=1, out=tmp_path / "w" / "d" / "runs"
    )
    assert [r.spec["holdout"] for r in runs] == [[n] for n in names]
    assert len({str(r.path).casefold() for r in runs}) == len(names)
    written = [p for p in tree(tmp_path) if p not in before and "__pycache__" not in p]
    assert all(Path(p).is_relative_to("w/d/runs") for p in written)


# -- cells and lines ----------------------------------------------------------------------------------------------


@pytest.mark.case(91)
@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("+cmd|'/c calc'!A0", "'+cmd|'/c calc'!A0"), ("-x", "'-x"), (" =1", "' =1"),
     ("\t=1", "'\t=1"), ("\r", "'\\r"), ("\uff1d1+1", "'\uff1d1+1"), ("-1.5", "-1.5"), ("+3e-4", "'+3e-4"),
     ("a=1", "a=1"), ("", ""), ("photo", "photo")],
)  # fmt: skip
def test_what_a_spreadsheet_would_execute_is_defused(text: str, cell: str, tmp_path: Path) -> None:
    assert defused(text) == cell
    head, row = csv.reader(io.StringIO(to_csv([{text: text}]), newline="")) if text else ([""], [""])
    assert (head, row) == ([cell], [cell])
    if text:  # as the name of an array, in the head of an export
        data = xr.Dataset({"loss": ("t", [1.0]), text: ("t", [2.0])})
        export(Result("foreign", data, {}), "csv", tmp_path / "a.csv")
        with open(tmp_path / "a.csv", newline="") as file:
            assert cell in next(csv.reader(file))


@pytest.mark.case(92)
@pytest.mark.parametrize(
    "name", ["\x1b[2J\x1b[31m", "\x07\x08\x9b31m", "\u202e", "a\rb", "x\ny", "\ud800", "\u2028"], ids=ascii
)
def test_no_control_character_reaches_a_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("landscape"), "propagate", False)
    assert shown(name).isprintable()
    for i, result in enumerate(results(name)):
        result.save(tmp_path / f"{i}.nc")
    said: list[str] = []
    for words, code in (
        (["info", str(tmp_path / "0.nc")], 0),
        (["info", str(tmp_path / "2.nc"), "--json"], 0),
        (["export", str(tmp_path / "0.nc"), "--out", str(tmp_path / "out")], 0),
        (["plot", str(tmp_path / "1.nc"), "--kind", name], 2),
        (["info", str(tmp_path / name.replace("\0", ""))], 2),
    ):
        assert main(words) == code
        out, err = capsys.readouterr()
        said += [*out.split("\n"), *err.split("\n")]
        assert "unexpected" not in err
    bad = [line for line in said if not line.isprintable()]
    assert not bad
    assert any(shown(name)[:4] in line for line in said)
    assert main(["info", str(tmp_path / "0.nc"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == name


@pytest.mark.case(93)
def test_domains_called_as_our_own_words_stay_apart(tmp_path: Path) -> None:
    """`all`, `mean`, `1` beside `1.0`, one letter in two forms: each has its own loss, to its own bits."""
    names = ["all", "mean", "1", "1.0", "e\u0301", "\xe9", "seen", "loss"]
    x = torch.sin(torch.arange(960.0)).reshape(240, 4)
    parts: dict[Any, Any] = {n: (x[30 * i : 30 * i + 30], torch.arange(30) % 3) for i, n in enumerate(names)}
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    found = landscape.domains(landscape.Problem(model, parts, "cross_entropy"))
    for name, (inputs, labels) in parts.items():
        alone = float(torch.nn.functional.cross_entropy(model(inputs), labels).detach())
        assert found["domains"][name]["loss"] == pytest.approx(alone, rel=1e-6)
    stored = Result.load(found.save(tmp_path / "d.nc"))
    assert stored.data["domain"].values.tolist() == names
    assert stored["domains"] == found["domains"]

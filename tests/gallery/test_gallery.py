"""The gallery says what its stored results say, and every story can be told anew."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from landscape.figures.draw.provenance import sources
from landscape.figures.draw.style import Style
from landscape.figures.draw.tables import to_csv
from landscape.figures.render import fitting
from landscape.models.resnet import resnet20, resnet32
from landscape.registry import FIGURES
from landscape.report.study_tables import tables

GALLERY = Path(__file__).resolve().parents[2] / "gallery"
RENDER = runpy.run_path(str(GALLERY / "render.py"))
STORIES = {story.name: story for story in RENDER["stories"]()}
FIGURES_OF = [(name, i) for name, story in STORIES.items() for i in range(len(story.figures()))]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def differences(stored: str, drawn: str) -> list[str]:
    """What differs between two tables; numbers may differ by rounding."""
    ours, theirs = table(stored), table(drawn)
    if len(ours) != len(theirs):
        return [f"{len(ours)} rows, {len(theirs)} drawn"]
    found = []
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        found += [f"row {i}, {k}: {a.get(k)} is not {b.get(k)}" for k in a | b if not same(a.get(k), b.get(k))]
    return found


def same(a: str | None, b: str | None) -> bool:
    if a == b:
        return True
    try:
        return math.isclose(float(a or ""), float(b or ""), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False


@pytest.mark.parametrize(("name", "number"), FIGURES_OF)
def test_the_numbers_beside_a_figure_are_those_of_the_stored_results(name: str, number: int):
    story = STORIES[name]
    figure = story.figures()[number]
    fit = fitting(figure["kind"], story.stored())
    drawing = FIGURES.load(figure["kind"])(fit, Style(figure["venue"], figure.get("columns", 1)))
    stem = story.folder / figure["kind"]
    stored = stem.with_suffix(".csv").read_text(encoding="utf-8")
    assert differences(stored, to_csv(drawing.rows)) == []
    with Image.open(stem.with_suffix(".png")) as picture:
        # Else the picture shows other results: render it again.
        assert json.loads(picture.info["Description"]) == sources(fit), (
            "the picture shows other results: render again"
        )
    assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", [n for n, s in STORIES.items() if "study" in s.settings()])
def test_the_tables_of_a_study_are_those_of_its_stored_result(name: str):
    story = STORIES[name]
    (result,) = story.stored()
    assert result.record["study"] == name
    assert result.record["size"] == story.settings()["study"]["size"]
    assert {c["n"] > 0 for c in result.record["comparison"]["competitors"]} == {True}
    for made in tables(result.record):
        stored = (story.folder / f"{made.stem}.csv").read_text(encoding="utf-8")
        assert differences(stored, to_csv(made.rows)) == [], made.stem


INTERVAL = re.compile(r"([+-]\d[\d.]*)(?: points)? \(([+-]\d[\d.]*) to ([+-]\d[\d.]*)\)")


@pytest.mark.parametrize("name", [n for n, s in STORIES.items() if "study" in s.settings()])
def test_every_interval_in_the_words_of_a_study_stands_in_its_tables(name: str):
    folder = STORIES[name].folder
    known = []
    for file in folder.glob("*.csv"):
        for row in table(file.read_text(encoding="utf-8")):
            for keys in (("mean", "low", "high"), ("tau", "tau_low", "tau_high")):
                if all(row.get(k) for k in keys):
                    known.append(np.array([float(row[k]) for k in keys]))
    told = INTERVAL.findall(" ".join((folder / "README.md").read_text(encoding="utf-8").split()))
    assert told, f"{name} tells no difference with its interval"
    for words in told:
        values = np.array([float(w) for w in words])
        half = np.array([0.5 * 10.0 ** -len(w.partition(".")[2]) for w in words]) * (1 + 1e-9)
        near = [np.abs(scale * row - values) <= half for row in known for scale in (1, 100)]
        assert any(n.all() for n in near), f"{words} stands in no table of {name}"


def test_an_edited_number_is_found():
    stored = to_csv([{"label": "sam", "value": 0.25}, {"label": "sgd", "value": float("nan")}])
    assert differences(stored, stored) == []
    assert differences(stored.replace("0.25", "0.24"), stored) == ["row 0, value: 0.24 is not 0.25"]
    assert differences(stored.replace("sgd", "adam"), stored) == ["row 1, label: adam is not sgd"]
    assert differences(stored, stored + "sam,1.0\n") != []


def test_the_index_shows_every_picture_of_every_story():
    assert (GALLERY / "README.md").read_text(encoding="utf-8") == RENDER["index"]()
    assert (GALLERY / "claims.md").read_text(encoding="utf-8") == RENDER["claims"]()
    for story in STORIES.values():
        page = (story.folder / "README.md").read_text(encoding="utf-8")
        for figure in story.figures():
            suffix = "gif" if "gif" in figure.get("formats", ()) else "png"
            assert f"({figure['kind']}.{suffix})" in page, f"{story.name} does not show {figure['kind']}"


@pytest.mark.parametrize("name", list(STORIES))
def test_scripts_are_short_and_no_path_of_a_machine_is_stored(name: str):
    story = STORIES[name]
    assert len(story.script.read_text(encoding="utf-8").splitlines()) < 60
    for result in story.stored():
        text = json.dumps(result.record)
        assert not any(root in text for root in ('"/', "'/", ":/home", ":/tmp", "/Users/")), result.path


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for what stories read from a folder: images in PACS' layout, random ResNets, random CIFAR images."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    for domain in ("photo", "sketch", "cartoon"):
        for kind in ("dog", "horse"):
            (folder / "PACS" / domain / kind).mkdir(parents=True)
            for i in range(10):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "PACS" / domain / kind / f"{i}.png")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    for model, file in ((resnet20, "resnet20-12fca82f.th"), (resnet32, "resnet32-d509ac18.th")):
        torch.save({"state_dict": model().state_dict()}, folder / "checkpoints" / file)
    splits: dict[str, Any] = {}
    for split in ("train", "test"):
        splits[f"x_{split}"] = rng.integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
        splits[f"y_{split}"] = np.arange(20) % 10
    np.savez(folder / "cifar10-lossless-6102.npz", **splits)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STORIES))
def test_every_story_can_be_told_anew_in_miniature(name: str, tmp_path: Path, material: Path):
    copy = tmp_path / name
    drawn = shutil.ignore_patterns("results", "*.png", "*.pdf", "*.csv", "*.gif")
    shutil.copytree(GALLERY / name, copy, ignore=drawn)
    story = RENDER["Story"](copy)
    results = story.compute(tmp_path / "work", material, tiny=True)
    story.keep(results, tmp_path / "work", material, copy)
    stored = story.stored()
    assert len(stored) == len(results)
    paths = list(story.draw(stored, tmp_path / "out"))
    for figure in story.figures():
        for form in ("csv", *figure.get("formats", ("pdf", "png"))):
            assert tmp_path / "out" / f"{figure['kind']}.{form}" in paths

from __future__ import annotations

import base64
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import made

from landscape.base.errors import UsageError
from landscape.figures.comparison import comparison, verdict
from landscape.figures.course.measured import FIELDS
from landscape.figures.draw.style import Style
from landscape.figures.render import fitting
from landscape.figures.summary import summarize, summary_csv, summary_latex
from landscape.report.headline import tiles
from landscape.report.report import write_report
from landscape.report.sections import CAPTIONS, plots, provenance
from landscape.results.result import Result
from landscape.specs import HessianSpec


class Page(HTMLParser):
    """All elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.bytes = len(text.encode("utf-8"))
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif not self.inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


LABELS = ("sgd", made.HOSTILE[0], made.HOSTILE[3])
# The browser tests see that all figures are there, those of the figures that no name breaks one.
FEW = {k: CAPTIONS[k] for k in ("contour", "eigenvalues", "training", "domains")}


def written(results: list[Result], folder: Path, title: str = "A title") -> Page:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.report.report.CAPTIONS", FEW)
        return Page(write_report(results, folder / "report.html", title=title).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(made.everything(), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(made.hostile(LABELS), tmp_path_factory.mktemp("hostile"), title=made.HOSTILE[0])


def test_the_page_holds_every_section_and_finding(page: Page) -> None:
    ids = [a["id"] for a in page.all("section")]
    folded = ["surfaces", "trajectory", "contour", "curves", "domains", "training"]
    assert ids == ["main", "eigenvalues", "table", *folded, "provenance"]
    assert len([a for a in page.all("details") if a.get("class") == "group"]) == 3
    results = made.everything()
    for sentence in (verdict(summarize(results)), *comparison(summarize(results), results)):
        assert " ".join(sentence.split()) in page.text
    links = [a["href"] for a in page.all("a")]
    assert {link for link in links if link.startswith("#")} == {f"#{i}" for i in ids}


def test_the_only_scripts_are_the_numbers_the_library_and_our_own(page: Page, hostile: Page) -> None:
    for one, surfaces in ((page, 2), (hostile, len(LABELS))):
        divs = [a["id"] for a in one.all("div") if str(a.get("id", "")).startswith("surface-")]
        assert divs == [f"surface-{i}" for i in range(surfaces)]
        kinds = [a.get("type") for a in one.all("script")]
        assert kinds == ["application/json", "text/plain", None]
        assert all(set(a) <= {"type", "id"} for a in one.all("script"))


def test_what_can_be_explored_are_the_stored_numbers(page: Page) -> None:
    data = json.loads(page.scripts[0], parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    surfaces = data["surfaces"]
    assert [p["title"] for p in surfaces["panels"]] == ["SGD, seed 0 (1 of 2)", "SAM, seed 0 (1 of 2)"]
    assert surfaces["domains"] == ["p", "q"]
    stored = made.plane("sam", 0).data
    fields = surfaces["panels"][1]["fields"]
    for quantity, domain, expected in (
        ("loss", "", stored["loss"]),
        ("loss", "q", stored["domain_loss"].sel(domain="q")),
        ("accuracy", "", stored["accuracy"]),
    ):
        found = np.frombuffer(base64.b64decode(fields[quantity][domain]), "<f4")
        assert found == pytest.approx(expected.transpose("y", "x").values.ravel(), rel=1e-6)
    (curve,) = [c for c in data["curves"]["panels"][0]["lines"] if c["domain"] == "r"]
    both = [made.domain_curves("sgd", seed).data["loss"].sel(domain="r").values for seed in (0, 1)]
    assert curve["loss"] == pytest.approx(np.mean(both, axis=0))
    assert curve["seen"] is False
    assert len(data["trajectory"]["frames"]) == 4


def test_every_figure_and_the_table_can_be_taken_away(page: Page) -> None:
    files = {a["download"]: str(a["href"]) for a in page.all("a") if "download" in a}
    for kind in FEW:
        assert {f"{kind}.pdf", f"{kind}.svg", f"{kind}.png"} <= set(files)
        content = base64.b64decode(files[f"{kind}.pdf"].removeprefix("data:application/pdf;base64,"))
        assert content.startswith(b"%PDF")
    rows = summarize(made.everything())
    assert base64.b64decode(files["table.csv"].partition(",")[2]).decode() == summary_csv(rows)
    assert base64.b64decode(files["table.tex"].partition(",")[2]).decode() == summary_latex(rows)


def test_the_page_is_small(page: Page) -> None:
    assert page.bytes < 6e6


def test_names_of_users_are_text_and_nothing_else(hostile: Page) -> None:
    images = hostile.all("img")
    assert len(images) == len(FEW) + 1  # the surfaces, for paper
    assert all(set(a) <= {"src", "alt", "class"} and a["src"].startswith("data:image/") for a in images)
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    for name in made.HOSTILE:
        assert name in hostile.text
    assert made.HOSTILE[0] in hostile.text.split("Findings")[0]
    assert not any("<img src=x" in script for script in hostile.scripts)


def test_nothing_is_loaded_from_anywhere(page: Page, hostile: Page) -> None:
    for one in (page, hostile):
        for tag, attributes in one.elements:
            if "download" in attributes:
                assert str(attributes["href"]).startswith(("data:", "#"))
                continue
            for name in ("src", "href", "data", "action", "srcset", "poster"):
                value = attributes.get(name)
                assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not one.all("link")
    style = (Path(str(sys.modules[write_report.__module__].__file__)).parent / "report.css").read_text(
        encoding="utf-8"
    )
    assert "@import" not in style
    assert "url(" not in style
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_the_embedded_images_hold_no_raw_name_either(hostile: Page) -> None:
    for image in hostile.all("img"):
        kind, _, content = str(image["src"]).partition(",")
        if kind == "data:image/png;base64":
            continue
        svg = base64.b64decode(content).decode("utf-8")
        assert "<script" not in svg
        assert "<img" not in svg


def test_every_plus_minus_is_named_and_all_provenance_is_there(page: Page) -> None:
    assert "Every ± is the sample standard deviation (ddof = 1) over the training seeds" in page.text
    assert len([a for a in page.all("details") if "class" not in a]) == len(made.everything())
    for result in made.everything():
        if result.kind != "training":
            assert result.record["weights_hash"] in page.text
        assert result.record["target"] in page.text
    assert "d" * 64 in page.text


def test_the_page_can_be_used_without_a_mouse(page: Page) -> None:
    assert len(page.all("label")) == len(page.all("select")) + len(page.all("input"))
    heads = page.all("th")
    assert all(a.get("scope") in ("col", "row") for a in heads)
    assert all(a.get("alt") for a in page.all("img"))
    regions = [a for a in page.all("div") if a.get("role") in ("region", "application")]
    assert all(a.get("aria-label") for a in regions)  # what is wider than the screen is made a tab stop there
    assert all(a.get("tabindex") == "0" for a in regions if a["role"] == "application")


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    results = [made.hessian("sgd", 0), made.plane("sgd", 0), made.plane("sam", 0)]
    first = write_report(results, tmp_path / "a.html", title="t")
    second = write_report(list(reversed(results)), tmp_path / "b.html", title="t")
    assert first.read_bytes() == second.read_bytes()


def test_without_surfaces_the_library_is_left_out(tmp_path: Path) -> None:
    one = written([made.hessian("sgd", 0)], tmp_path)
    assert [a["id"] for a in one.all("section")] == ["main", "eigenvalues", "table", "provenance"]
    assert len(one.all("script")) == 1
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_more_surfaces_than_browsers_draw_are_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landscape.report.explore.MOST_SURFACES", 1)
    one = written([made.plane(label, 0) for label in "abc"], tmp_path)
    assert len(one.all("article")) == 1
    assert "2 more are left out" in one.text


def test_a_plane_too_small_to_draw_is_no_obstacle_to_the_rest(tmp_path: Path) -> None:
    row = made.plane("sgd", 0).data["loss"].values[:1]
    one = written([made.plane("sgd", 0, row), made.hessian("sgd", 0)], tmp_path)
    assert "eigenvalues" in [a["id"] for a in one.all("section")]


def test_no_results_no_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a report needs results"):
        write_report([], tmp_path / "r.html", title="t")


def test_the_first_screen_holds_three_numbers_and_one_figure(page: Page) -> None:
    rows = summarize(made.everything())
    assert [t.title for t in tiles(rows)] == ["λ_max", "m-sharpness", "unseen-domain accuracy"]
    told = [page.text.index(words) for words in ("cannot tell whether flatter", "SAM 2.00 ± 0, SGD 2.00 ± 0")]
    shown = [page.text.index("Top Hessian eigenvalues", told[1]), page.text.index("All comparisons")]
    assert told + shown == sorted(told + shown)


@pytest.mark.parametrize(
    ("mine", "its", "told"),
    [
        ((4.0, 0.3), (11.2, 1.14), "0.36 ×"),
        ((240.0, 10.0), (2.0, 0.5), "120 ×"),
        ((-1.0, None), (2.0, None), "-1.00"),
    ],
)
def test_a_number_is_told_against_plain_training(mine: Any, its: Any, told: str) -> None:
    names = [f"{f.name}_{part}" for f in FIELDS for part in ("mean", "std")]
    rows = []
    for label, (mean, std) in (("sgd", its), ("sam", mine)):
        known = {"lambda_max_mean": mean, "lambda_max_std": std, "test_accuracy_mean": 0.5}
        rows.append({**dict.fromkeys(names), "label": label, "name": label.upper(), **known})
    assert [(t.title, t.value) for t in tiles(rows)] == [("λ_max", told), ("in-domain test accuracy", "0.0 points")]
    (alone, *_) = tiles(rows[:1])
    assert alone.detail == "SGD"
    assert tiles([]) == []


def test_equal_curvature_decides_nothing() -> None:
    assert verdict(summarize(made.everything())).startswith("All methods have the same mean λ_max: cannot tell")


def test_what_all_results_share_is_said_once_and_defaults_are_not_repeated():
    spec = HessianSpec(top=7).to_dict()
    shared, entries = provenance([made.hessian(name, 0, spec=spec) for name in ("sgd", "sam")])
    told = dict(shared)
    assert told["asked for"] == "top = 7"
    assert told["examples (SHA-256)"] == "d" * 64
    for one, label in zip(entries, ("sgd", "sam"), strict=True):
        facts = dict(one.facts)
        assert facts["weights (SHA-256)"] == f"weights-{label}-0"
        assert not set(facts) & set(told)
        assert f"optimizer = {label}" in facts["run"]
    alone, [entry] = provenance([made.hessian("sgd", 0)])
    assert not alone
    assert dict(entry.facts)["asked for"] == "the defaults"


def test_a_figure_that_tells_nothing_is_not_on_the_page():
    caption = {"accuracy-radius": CAPTIONS["accuracy-radius"]}
    one = made.training("sam", 0)
    one.record["spec"] |= {"rho": 0.05}
    assert fitting("accuracy-radius", [one])
    assert not list(plots([one], Style("tmlr"), caption))
    other = made.training("sam", 1)
    other.record["spec"] |= {"rho": 0.1}
    assert [p.kind for p in plots([one, other], Style("tmlr"), caption)] == ["accuracy-radius"]

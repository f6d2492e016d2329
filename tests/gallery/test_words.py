"""No sentence of a study's story says more than its interval, its correction and its margin allow."""

from __future__ import annotations

import csv
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from landscape import Result
from landscape.study.shipped import shipped

GALLERY = Path(__file__).resolve().parents[2] / "gallery"
STORIES = sorted(p.parent for p in GALLERY.glob("*/study-*.csv"))
NUMBER = r"([+-]\d[\d.]*\d|[+-]\d)"
INTERVAL = re.compile(rf"{NUMBER}(?: points)? \((?:between )?{NUMBER} (?:to|and) {NUMBER}\)")
ORDER = re.compile(
    r"\b(lower|higher|smaller|larger|below|above|flatter|sharper|better|worse|nearer|fewer|gains?|loses|raises|"
    r"lowers|opposite|shows?)\b",
    re.I,
)
DOUBT = re.compile(r"cannot tell|cannot be told|(?:nothing|that) can be told|no difference|covers? 0", re.I)
DENIAL = re.compile(r"\b(no|not|shows|exactly)\b", re.I)
UNTOLD = ("cannot tell", "not tested")
DECIDED = {"no difference that matters", "shows"}
BOUNDS = (("mean", "low", "high"), ("difference", "low", "high"), ("tau", "tau_low", "tau_high"))


def sentences(text: str) -> list[str]:
    """The sentences of a page, without what is code, a table, a heading or a picture."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    lines = ["" if line.startswith(("|", "#", "!")) else line for line in text.splitlines()]
    paragraphs = "\n".join(lines).split("\n\n")
    joined = (" ".join(p.split()) for p in paragraphs)
    return [s for p in joined for s in re.split(r"(?<=\.\*\*)\s|(?<=[.;])\s+(?=[A-Z*])", p) if s]


def verdicts(folder: Path) -> Iterator[tuple[tuple[float, float, float], str, str]]:
    """Every interval in the tables of a study, with its file and its verdict there."""
    for name in ("pairs", "claims", *(p.stem for p in folder.glob("correlations-*.csv"))):
        file = folder / f"{name}.csv"
        table = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for row in csv.DictReader(table):
            for keys in BOUNDS:
                if all(row.get(k) for k in keys):
                    mean, low, high = (float(row[k]) for k in keys)
                    yield (mean, low, high), name, row.get("verdict") or row.get("answer") or ""


def matches(words: tuple[str, ...], row: tuple[float, float, float]) -> bool:
    """Whether numbers as told are those of a row, which may be told in points."""
    half = [0.5 * 10.0 ** -len(w.partition(".")[2]) * (1 + 1e-9) for w in words]
    told = [float(w) for w in words]
    return any(all(abs(scale * r - t) <= h for r, t, h in zip(row, told, half, strict=True)) for scale in (1, 100))


def overstated(text: str, rows: list[tuple[tuple[float, float, float], str, str]]) -> list[str]:
    """Sentences that order what their study leaves open, or call equal what no margin holds."""
    found = []
    for sentence in sentences(text):
        untold, level, asked = False, False, set()
        for words in INTERVAL.findall(sentence):
            there = [(file, verdict) for row, file, verdict in rows if matches(words, row)]
            answers = {v for file, v in there if file == "claims"}
            said = answers or {v for _, v in there}
            covers = float(words[1]) <= 0 <= float(words[2])
            level |= covers and bool(answers & DECIDED)
            untold |= covers and not answers & DECIDED
            untold |= bool(said) and said <= {*UNTOLD}
            asked |= answers
        if ORDER.search(sentence) and not DOUBT.search(sentence):
            if untold or (level and not DENIAL.search(sentence)):
                found.append(sentence)
        elif "no difference" in sentence.lower() and asked and not asked & DECIDED:
            found.append(sentence)
    return found


@pytest.mark.parametrize("folder", sorted(set(STORIES)), ids=lambda p: p.name)
def test_words_follow_the_rule_of_the_claims(folder: Path):
    assert overstated((folder / "README.md").read_text(encoding="utf-8"), list(verdicts(folder))) == []


def test_words_that_say_too_much_are_found():
    rows = [
        ((-0.9640, -1.5884, -0.3396), "claims", "cannot tell"),  # after the correction
        ((-3.9316, -5.6036, -2.2595), "claims", "shows"),
        ((0.0020, -0.0070, 0.0110), "claims", "cannot tell"),
        ((-0.0039, -0.0078, 0.0001), "claims", "no difference that matters"),
    ]
    for text in (
        "SAM's eigenvalue lies below SGD's, -1.0 (-1.6 to -0.3).",
        "SAM generalizes better, +0.2 points (-0.7 to +1.1).",
        "There is no difference, +0.2 points (-0.7 to +1.1).",
        "SAM is worse, -0.4 points (-0.8 to +0.0).",
    ):
        assert overstated(text, rows) == [text]
    for text in (
        "Whether SAM's eigenvalue lies below SGD's cannot be told, -1.0 (-1.6 to -0.3).",
        "SAM's trace is lower, -3.9 (-5.6 to -2.3).",
        "Accuracy differs by +0.2 points (-0.7 to +1.1).",
        "No difference of a point, -0.4 points (-0.8 to +0.0): flatter, and no better.",
        "It is not better by a point, -0.4 points (-0.8 to +0.0).",
    ):
        assert overstated(text, rows) == []


def test_every_shipped_study_is_told_or_said_not_to_be():
    with open(GALLERY / "not-run.toml", "rb") as file:
        why = tomllib.load(file)
    told = {p.parent.name for p in GALLERY.glob("*/claims.csv")}
    assert told | {*why} == {*shipped()}
    assert not told & {*why}
    assert all(len(reason) > 10 for reason in why.values())


def test_a_restated_study_has_the_answers_of_the_study_itself():
    """From the stored numbers alone come the statistics that were computed from all records of the runs."""
    restated = runpy.run_path(str(GALLERY / "restate.py"))["restated"]
    (file,) = (GALLERY / "pooled-or-per-domain" / "results").glob("*.nc")
    stored = Result.load(file)
    again = restated(stored)
    assert len(again.record["claims"]) == len(stored.record["claims"])
    for ours, theirs in zip(again.record["claims"], stored.record["claims"], strict=True):
        assert ours == pytest.approx(theirs)
    for ours, theirs in zip(again.record["comparison"]["pairs"], stored.record["comparison"]["pairs"], strict=True):
        assert (ours["verdict"], ours["p_holm"]) == (theirs["verdict"], pytest.approx(theirs["p_holm"]))

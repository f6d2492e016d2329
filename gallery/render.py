"""Render the gallery: every story's figures and numbers, and the index of all of them.

    python gallery/render.py                              # draw everything from the stored results
    python gallery/render.py --compute                    # train and analyse anew, then draw
    python gallery/render.py published-resnets --compute --data FOLDER

A story is a folder with ``experiment.toml`` (what is trained, measured and drawn), ``story.py`` (a function
``compute(settings, work, data)`` over the public interface that returns results), ``README.md`` (what the figures
show and do not show), ``results/`` (the stored results) and the figures, each with the numbers in it as CSV.
Stories without a ``story.py`` are studies that are installed with the package; ``study.py`` tells all of them.
``--data`` names the folder that holds what a story needs and pip does not bring: ``PACS/``, published checkpoints.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from landscape import Result, render
from landscape.figures.draw.tables import to_csv
from landscape.figures.draw.words import apart
from landscape.figures.render import fitting
from landscape.report.study_tables import tables
from landscape.specs.study import Experiment
from landscape.study.claims import ANSWERS, CANNOT_TELL, NOT_TESTED, numbers, summary
from landscape.study.shipped import find, shipped

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Story:
    """One folder of the gallery."""

    folder: Path

    @property
    def name(self) -> str:
        """Its folder."""
        return self.folder.name

    @property
    def script(self) -> Path:
        """What tells it: a ``story.py`` of its own, or the one of all studies."""
        own = self.folder / "story.py"
        return own if own.is_file() else HERE / "study.py"

    def settings(self, *, tiny: bool = False) -> dict[str, Any]:
        """What ``experiment.toml`` says; in miniature with what its table ``tiny`` changes."""
        with open(self.folder / "experiment.toml", "rb") as file:
            settings = tomllib.load(file)
        changes = settings.pop("tiny", {})
        for table, values in changes.items() if tiny else ():
            settings[table] = {**settings.get(table, {}), **values}
        return settings

    def compute(self, work: Path, data: Path | None, *, tiny: bool = False) -> list[Result]:
        """Train and analyse; what is in ``work`` already is not computed again."""
        script = runpy.run_path(str(self.script))
        results: list[Result] = script["compute"](self.settings(tiny=tiny), work, data)
        drawn = {id(r) for figure in self.figures() for r in fitting(figure["kind"], results)}
        return [r for r in results if id(r) in drawn]

    def stored(self) -> list[Result]:
        """The results that lie in the gallery."""
        return [Result.load(p) for p in sorted((self.folder / "results").glob("*.nc"))]

    def keep(self, results: Sequence[Result], *private: Path) -> None:
        """Store results in the gallery, without the paths of the machine that computed them."""
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        names: dict[str, int] = {}
        for result in results:
            run = result.record.get("run") or {}
            parts = [result.kind, result.label, *(f"{k}{run[k]}" for k in ("seed", "step") if run.get(k) is not None)]
            stem = "-".join(str(p).replace("/", "_") for p in parts)
            names[stem] = names.get(stem, 0) + 1
            stem += f"-{names[stem]}" if names[stem] > 1 else ""
            clean = Result(result.kind, result.data, without(result.record, private))
            clean.save(self.folder / "results" / f"{stem}.nc")

    def figures(self) -> list[dict[str, Any]]:
        """What is drawn: a kind and the options of `landscape.render`."""
        return list(self.settings()["figure"])

    def draw(self, results: Sequence[Result], out: Path) -> Iterator[Path]:
        """Render every figure into ``out``, and of studies all tables as CSV."""
        for figure in self.figures():
            options = {"formats": ("pdf", "png"), **{k: v for k, v in figure.items() if k != "kind"}}
            yield from render(figure["kind"], results, out, **options)
        for table in (t for r in results if r.kind == "study" for t in tables(r.record)):
            (out / f"{table.stem}.csv").write_text(to_csv(table.rows), encoding="utf-8")
            yield out / f"{table.stem}.csv"


def stories() -> list[Story]:
    """All stories, in the order of the index."""
    found = [Story(p.parent) for p in HERE.glob("*/experiment.toml")]
    return sorted(found, key=lambda s: (s.settings()["place"], s.name))


def without(value: Any, private: Sequence[Path]) -> Any:
    """``value`` with all private folders cut off its paths."""
    if isinstance(value, dict):
        return {k: without(v, private) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without(v, private) for v in value]
    if isinstance(value, str):
        for folder in sorted({str(p) for p in private}, key=len, reverse=True):
            value = value.replace(folder + os.sep, "").replace(folder, ".")
    return value


RULE = """\
# What was asked, and what the answer is

Written by `python gallery/render.py` from the stored results of the studies that are installed with the package. One
rule for all: a difference *shows* (or shows the opposite) if its p-value, corrected for all tests of its study, is
below 0.05 and its 95 % interval excludes 0. It is refuted (*no difference that matters*) if the whole interval lies
within a margin that was written down before the run. Differences of taus have no p-value: their bootstrap intervals
decide, uncorrected. All else is *cannot tell*, and most of it is: small networks,
small test sets. *Tiny* was run in miniature only, which has numbers and decides nothing. Nothing here is about
networks or data other than those of the studies. What is [not asked here, and why](not-asked.md), is another page.
"""
TINY = "tiny"
PAPERS = {"2010.01412": "SAM", "2303.10353": "SAGM", "2405.18861": "DISAM"}


def answered() -> dict[str, list[dict[str, Any]]]:
    """The claims of every study that is installed, by its name: with answers where the gallery holds its result."""
    records = told()
    return {n: _full(records[n]) if n in records else [*_unanswered(n)] for n in shipped()}


def _full(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims of a study; in miniature it has numbers and decides nothing."""
    answer = {"answer": TINY} if record["size"] == "tiny" else {}
    return [row | answer for row in record["claims"]]


def told() -> dict[str, dict[str, Any]]:
    """The record of every study that the gallery holds, by its name."""
    return {s.name: s.stored()[0].record for s in stories() if "study" in s.settings()}


def _unanswered(name: str) -> Iterator[dict[str, Any]]:
    for claim in Experiment.read(find(name)).claims:
        yield {**asdict(claim), "at": "", "answer": NOT_TESTED, "difference": None, "note": None}


def _at_what_differs(asked: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    places = {row["says"]: [r["at"] for r in asked if r["says"] == row["says"]] for row in asked}
    for row in asked:
        every = places[row["says"]]
        yield {**row, "at": apart(every)[every.index(row["at"])]} if all(every) else row


def claims() -> str:
    """The page of all claims: what the papers say, what a study here answers, and its numbers."""
    lines = [RULE]
    every = answered()
    for key, name in [*PAPERS.items(), ("", "Others")]:
        rows = [
            (study, row)
            for study, asked in every.items()
            for row in _at_what_differs(asked)
            if next((k for k in PAPERS if k in row["source"]), "") == key
        ]
        counts = {a: sum(r["answer"] == a for _, r in rows) for a in (*ANSWERS, TINY)}
        said = ", ".join(f"{n} {a}" for a, n in counts.items() if n)
        lines += [f"## {name}{f' (arXiv {key})' if key else ''}", "", f"{len(rows)} answers: {said}.", ""]
        lines += ["| claim | answer | numbers | study |", "|---|---|---|---|"]
        for study, row in rows:
            place = row["source"].partition(", ")[2]
            at = f" ({row['at']})" if row["at"] else ""
            made = numbers(row).strip(" ()")
            link = f"[{study}]({study}/)" if (HERE / study).is_dir() else study
            where = f"{row['says']}{at}" + (f"; {place}" if place else "")
            lines.append(f"| {where} | {row['answer']} | {made} | {link} |")
        lines.append("")
    return "\n".join(lines)


OPENING = """\
# Gallery

Made by `python gallery/render.py`; each folder holds how to make it anew. First what every study that is installed
with the package decided, by [the rule of the claims](claims.md), where each answer has its numbers; then all stories.
*Part* of a study has fewer seeds or settings than its file, as its story says; *tiny* is the study in miniature: it
shows that the study runs, and decides nothing.

| study | models | decided | cannot tell |
|---|---|---|---|
"""


def decided() -> Iterator[str]:
    """A row for every study that is installed: of how many models it is told, or why not, and what it decided."""
    records = told()
    parts = {s.name for s in stories() if s.settings().get("study", {}).get("changes")}
    with open(HERE / "not-run.toml", "rb") as file:
        why = tomllib.load(file)
    for name, claims in answered().items():
        by_words: dict[str, list[dict[str, Any]]] = {}
        for row in claims:
            by_words.setdefault(row["says"], []).append(row)
        record = records.get(name)
        if record is None:
            yield f"| {name} | not run: {why[name]} | | |"
            continue
        found = {k: summary(rows) or TINY for k, rows in by_words.items()}
        open_ = [k for k, said in found.items() if said in (CANNOT_TELL, NOT_TESTED, TINY)]
        note = ", tiny" if record["size"] == "tiny" else ", part" if name in parts else ""
        models = f"{len(record['models'])} of {record['planned']}{note}"
        clear = "; ".join(f"{k}: *{said}*" for k, said in found.items() if k not in open_)
        yield f"| [{name}]({name}/) | {models} | {clear} | {len(open_)} of {len(found)} |"


def index() -> str:
    """The page of all stories: what was decided, then a picture and the first sentence of each."""
    lines = [*OPENING.splitlines(), *decided(), ""]
    for story in stories():
        title, _, text = (story.folder / "README.md").read_text(encoding="utf-8").partition("\n")
        paragraph = text.strip().split("\n\n")[0]
        lines += [f"## [{title.removeprefix('# ')}]({story.name}/)", "", paragraph, ""]
        lines += [f"![{f['kind']}]({story.name}/{f.get('stem', f['kind'])}.png)" for f in story.figures()] + [""]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="STORY", choices=[[], *(s.name for s in stories())])
    parser.add_argument("--compute", action="store_true", help="train and analyse anew")
    parser.add_argument("--data", type=Path, help="folder with PACS/ and the published checkpoints")
    parser.add_argument("--work", type=Path, default=Path("gallery-work"), help="folder of the runs")
    arguments = parser.parse_args()
    for story in stories():
        if arguments.names and story.name not in arguments.names:
            continue
        if arguments.compute:
            work = (arguments.work / story.name).absolute()
            data = arguments.data.absolute() if arguments.data else None
            story.keep(story.compute(work, data), work, *([data] if data else []), HERE)
        for path in story.draw(story.stored(), story.folder):
            print(path.relative_to(HERE.parent))
    (HERE / "README.md").write_text(index(), encoding="utf-8")
    (HERE / "claims.md").write_text(claims(), encoding="utf-8")


if __name__ == "__main__":
    main()

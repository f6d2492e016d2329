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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape import Result, render
from landscape.figures.draw.tables import to_csv
from landscape.figures.render import fitting
from landscape.report.study_tables import tables

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


JUDGED = """\
The studies below were judged before paired tests flipped whole settings and seeds, and before correlations exchanged
levels of the design (see the changelog). Where a study has several settings, read its p-values as those of these very
settings; a verdict on others may be "cannot tell" today."""


def index() -> str:
    """The page of all stories: a picture and the first sentence of each."""
    lines = [
        "# Gallery",
        "",
        "Made by `python gallery/render.py`; each folder holds how to make it anew.",
        "",
        JUDGED,
        "",
    ]
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


if __name__ == "__main__":
    main()

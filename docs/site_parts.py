"""What the pages do not repeat by hand: names out of the registries, help texts, the gallery, the house's own papers.

``{registry} measures`` is a table of all names of a kind, ``{entry} measures keskar`` the facts of one,
``{help} hessian`` what ``landscape hessian --help`` prints. The gallery's stories, the benchmarks and the papers of
the house are read where they lie; their pages are written to ``docs/generated`` before Sphinx looks for pages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import landscape.registry as registries

log = logging.getLogger(__name__)
DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
HOUSE = """\
# The house

```{toctree}
:maxdepth: 1
:glob:

CHANGELOG
CONTRIBUTING
SECURITY
gallery/benchmarks/README
gallery/benchmarks/*
```
"""
PAPERS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
KINDS = {
    "analyses": registries.ANALYSES,
    "data": registries.DATA,
    "directions": registries.DIRECTIONS,
    "figures": registries.FIGURES,
    "losses": registries.LOSSES,
    "measures": registries.MEASURES,
    "models": registries.MODELS,
    "optimizers": registries.OPTIMIZERS,
    "probes": registries.PROBES,
}


# -- directives


class Markdown(SphinxDirective):
    """A directive that writes Markdown."""

    required_arguments = 1
    optional_arguments = 1

    def text(self) -> str:
        """What stands in its place."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the text where the directive stands."""
        container = nodes.Element()
        self.state.nested_parse(StringList(self.text().splitlines(), "site_parts"), self.content_offset, container)
        return list(container.children)


class Names(Markdown):
    """All names of a kind: what each is, and the facts that its registry has."""

    def text(self) -> str:
        """A table."""
        entries = KINDS[self.arguments[0]]
        facts = list(dict.fromkeys(key for entry in entries.values() for key in entry.details or {}))
        head = ["name", "what it is", *facts]
        rows = [
            [f"`{name}`", entry.summary, *(coded(key, (entry.details or {}).get(key, "")) for key in facts)]
            for name, entry in entries.items()
        ]
        return table(head, rows)


class Facts(Markdown):
    """The facts of one name, as its registry has them."""

    def text(self) -> str:
        """A short table without a head."""
        kind, name = self.arguments
        entry = KINDS[kind][name]
        facts = dict(entry.details or {})
        rows = [[key, coded(key, value)] for key, value in facts.items()]
        if entry.options:
            rows.append(["flags", " ".join(f"`--{flag.replace('_', '-')}`" for flag in entry.options)])
        return f"*{entry.summary}*\n\n" + table(["", ""], rows)


class Help(SphinxDirective):
    """What a command prints with ``--help``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A block of text."""
        words = [sys.executable, "-m", "landscape_cli.app", self.arguments[0], "--help"]
        code = "import sys; from landscape_cli.app import main; sys.exit(main(sys.argv[1:]))"
        words[1:3] = ["-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "86"})
        return [nodes.literal_block(done.stdout, done.stdout, language="text")]


def coded(key: str, value: str) -> str:
    """Formulas as code, papers as links."""
    if key == "formula" and value:
        return f"`{value}`"
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", value)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# -- pages of what lies outside of docs/


def mirrored() -> dict[Path, Path]:
    """Pages that lie elsewhere in the repository, and where the site has them."""
    sources = [ROOT / name for name in PAPERS]
    sources += [ROOT / "gallery" / "claims.md", *sorted((ROOT / "gallery").glob("*/*.md"))]
    pages = {source: GENERATED / source.relative_to(ROOT) for source in sources}
    return {**pages, ROOT / "gallery" / "README.md": GENERATED / "gallery" / "index.md"}


def relinked(text: str, source: Path, page: Path, pages: dict[Path, Path]) -> str:
    """The text with its links as the site has them; a link to a file that is no page keeps only its words."""

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        aim = (source.parent / path).resolve()
        aim = aim / "README.md" if aim.is_dir() and aim / "README.md" in pages else aim
        if not picture and aim.suffix == ".md" and (aim in pages or aim.is_relative_to(DOCS)):
            there = os.path.relpath(pages.get(aim, aim), page.parent)
            return f"[{words}]({there}{'#' + anchor if anchor else ''})"
        if picture or aim.suffix == ".gif":
            return f"![{words}]({os.path.relpath(aim, page.parent)})" if picture else f"{words}"
        return words

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)", link, text)


def write_pages(app: Sphinx) -> None:
    """Write all generated pages anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    pages = mirrored()
    for source, page in pages.items():
        if page == GENERATED / "gallery" / "index.md":
            page.write_text("\n".join(gallery()), encoding="utf-8")
            continue
        text = source.read_text(encoding="utf-8")
        story = source.parent / "experiment.toml"
        if source.name == "README.md" and story.is_file():
            text = with_commands(text, source.parent)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(relinked(text, source, page, pages), encoding="utf-8")
    (GENERATED / "index.md").write_text(HOUSE, encoding="utf-8")


def relink(app: Sphinx, name: str, content: list[str]) -> None:
    """Links from a page of docs/ to a mirrored page go to where the site has it; ``*`` lists the other pages."""
    page = Path(app.env.doc2path(name))
    if not page.is_relative_to(GENERATED) and page.suffix == ".md":
        if page.stem == "index":
            others = [p.stem for p in sorted(page.parent.glob("*.md")) if f"\n{p.stem}\n" not in content[0]]
            content[0] = content[0].replace("\n*\n", "\n" + "".join(f"{o}\n" for o in others if o != "index"))
        pages = mirrored()

        def moved(found: re.Match[str]) -> str:
            path, _, anchor = found[1].partition("#")
            aim = (page.parent / path).resolve()
            if aim not in pages:
                return found[0]
            return f"]({os.path.relpath(pages[aim], page.parent)}{'#' + anchor if anchor else ''})"

        content[0] = re.sub(r"\]\((\.\.[^()\s]+)\)", moved, content[0])


# -- the gallery


def stories() -> list[Path]:
    """Its folders, in the order of its index."""
    found = {p.parent: settings(p.parent)["place"] for p in (ROOT / "gallery").glob("*/experiment.toml")}
    return sorted(found, key=lambda folder: (found[folder], folder.name))


def settings(folder: Path) -> dict[str, Any]:
    """What the story's experiment file says."""
    return tomllib.loads((folder / "experiment.toml").read_text(encoding="utf-8"))


def command(folder: Path, figure: dict[str, Any]) -> str:
    """The command that draws a figure of a story anew, from the results that lie beside it."""
    flags = [f"--kind {figure['kind']}", f"--venue {figure.get('venue', 'neurips')}"]
    if "columns" in figure:
        flags.append(f"--columns {figure['columns']}")
    flags.append(f"--format {' '.join(figure.get('formats', ('pdf', 'png')))}")
    return f"landscape plot gallery/{folder.name}/results/*.nc {' '.join(flags)}"


def with_commands(text: str, folder: Path) -> str:
    """A story with the command under every picture, and at its end how it is computed."""
    figures = {f.get("stem", f["kind"]): f for f in settings(folder)["figure"]}
    told = set()

    def captioned(found: re.Match[str]) -> str:
        stem = Path(found[2]).stem
        told.add(stem)
        return f"{found[0]}\n\n```sh\n{command(folder, figures[stem])}\n```\n" if stem in figures else found[0]

    text = re.sub(r"!\[([^\]]*)\]\(([^()\s]+\.png)\)", captioned, text)
    for stem, figure in figures.items():
        if stem not in told:
            text += f"\n\n![{figure['kind']}]({stem}.png)\n\n```sh\n{command(folder, figure)}\n```\n"
    lines = [text, "## Computed anew", "", "In a clone of the repository:", ""]
    asked = settings(folder)
    if "study" in asked:
        name, size = asked["study"]["name"], asked["study"]["size"]
        lines += [
            "```sh",
            f"landscape study plan {name}",
            f"landscape study run {name} --size {size}",
            "```",
            "",
            "or",
        ]
    lines += ["", "```sh", f"python gallery/render.py {folder.name} --compute", "```", ""]
    lines += ["with", "", "```toml", (folder / "experiment.toml").read_text(encoding="utf-8").strip(), "```", ""]
    return "\n".join(lines)


def gallery() -> Iterator[str]:
    """The page of all stories: of each its picture, its first paragraph, and the command of the picture."""
    yield "# Gallery\n"
    yield "Every story is computed by the tools of this package. Its page has all its pictures, each with the command"
    yield "that draws it anew in a clone of the repository from stored results, and says what they show and what not."
    yield "What was asked of the three papers, and what the answer is, is [one table](claims.md).\n"
    for folder in stories():
        title, _, text = (folder / "README.md").read_text(encoding="utf-8").partition("\n")
        figure = settings(folder)["figure"][0]
        picture = f"../../../gallery/{folder.name}/{figure.get('stem', figure['kind'])}.png"
        yield f"## [{title.removeprefix('# ')}]({folder.name}/README.md)\n"
        yield text.strip().split("\n\n")[0] + "\n"
        yield f"![{figure['kind']}]({picture})\n"
        yield f"```sh\n{command(folder, figure)}\n```\n"
    yield "```{toctree}\n:hidden:\n"
    yield from (f"{folder.name}/README" for folder in stories())
    yield "claims\n```"


def look_at_pictures(app: Sphinx, error: Exception | None) -> None:
    """A cell that draws has to show what it has drawn."""
    if error or app.config.nb_execution_mode == "off" or app.builder.format != "html":
        return
    for page in sorted((DOCS / "tutorials").glob("*.md")):
        drawn = len(re.findall(r"^\w+\.plot\(", page.read_text(encoding="utf-8"), re.M))
        shown = (Path(app.outdir) / "tutorials" / f"{page.stem}.html").read_text(encoding="utf-8").count("<img")
        if drawn > shown:
            log.warning("%s: %s figures are drawn and %s shown", page.name, drawn, shown)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("registry", Names)
    app.add_directive("entry", Facts)
    app.add_directive("help", Help)
    app.connect("builder-inited", write_pages)
    app.connect("source-read", relink)
    app.connect("build-finished", look_at_pictures)
    app.connect("autodoc-process-docstring", keep_sentences, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-docstring", plain_words, priority=600)
    return {"parallel_read_safe": True}


FIELDS: dict[str, list[str]] = {}


def keep_sentences(app: Sphinx, what: str, name: str, shown: Any, options: Any, lines: list[str]) -> None:
    """What stands below a field is a sentence; napoleon takes what is before its first colon for a type."""
    if what == "attribute":
        FIELDS[name] = list(lines)


def plain_words(app: Sphinx, what: str, name: str, shown: Any, options: Any, lines: list[str]) -> None:
    """``|w|`` in a docstring is a modulus, and no substitution of reStructuredText."""
    lines[:] = FIELDS.get(name, lines) if what == "attribute" else lines
    for place, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`[^`]+`)", line)  # every second one is literal
        lines[place] = "".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))

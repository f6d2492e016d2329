"""The documentation without building it: links lead somewhere, all pages are in the navigation, all names there."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from landscape_cli.app import _MODULES, COMMANDS
from landscape_cli.parsing import parse

import landscape
import landscape.registry as registries
import landscape.testing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not p.is_relative_to(DOCS / "generated"))
GENERATED = {"generated/index", "generated/gallery/index"}  # written when the site is built
LINK = re.compile(r"(?<!`)!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
SHELL = re.compile(r"^```sh\n(.*?)^```|^\w+ = !(.*?\n)", re.S | re.M)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """What its headings are called in links, as GitHub and Sphinx make it of them."""
    heads = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path, text: str) -> list[str]:
    """Links of a text, as standing on a page, that lead nowhere."""
    found = []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", target):
            continue
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page, prose(page))


def test_a_broken_link_is_found() -> None:
    page = DOCS / "tour.md"
    assert broken(page, "[a](nowhere.md) [b](tour.md#no-such-head) [c](how-to/train.md) [d](https://x.y)") == [
        "nowhere.md",
        "tour.md#no-such-head",
    ]


def listed(page: Path) -> set[str]:
    """Pages that the navigation of a page leads to; ``*`` are all others of its folder."""
    found: set[str] = set()
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
        for line in filter(None, block.splitlines()):
            if line == "*":
                found |= {str(p.relative_to(DOCS).with_suffix("")) for p in page.parent.glob("*.md")}
            elif not line.startswith(":"):
                found.add(str((page.parent / line).relative_to(DOCS)))
    return found


def test_every_page_is_in_the_navigation() -> None:
    seen, todo = {"index"}, ["index"]
    while todo:
        new = listed(DOCS / f"{todo.pop()}.md") - seen
        seen |= new
        todo += new - GENERATED
    assert seen - GENERATED == {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES}


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.M))
    public = {f"landscape.{name}" for name in landscape.__all__}
    public |= {f"landscape.testing.{name}" for name in landscape.testing.__all__}
    assert not public - shown
    for name in shown:  # and what is shown is there
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


def test_every_measure_is_explained() -> None:
    text = (DOCS / "explanation" / "measures.md").read_text(encoding="utf-8")
    parts = re.findall(r"^### (\S+)\n\n```\{entry\} measures (\S+)\n```\n\n(.+?)(?=\n\n#|\Z)", text, re.S | re.M)
    assert {head for head, _, _ in parts} == set(registries.MEASURES)
    assert not [head for head, name, words in parts if head != name or not words.strip()]


def test_every_kind_of_name_and_every_command_is_in_the_reference() -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in DOCS.rglob("*.md"))
    kinds = {"data", "directions", "figures", "losses", "measures", "models", "optimizers", "probes"}
    assert kinds - {"measures"} <= set(re.findall(r"^```\{registry\} (\w+)$", text, re.M))
    assert set(COMMANDS) == set(re.findall(r"^```\{help\} (\w+)$", text, re.M))


def commands(page: Path) -> list[str]:
    """Lines of a page that call ``landscape``, also behind ``torchrun``, without what the shell adds."""
    found = []
    for blocks in SHELL.findall(page.read_text(encoding="utf-8")):
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            call = re.search(r"(?:^|&& |--nproc-per-node \d+ )landscape ([a-z].*)", line)
            if call:
                found.append(re.split(r" [|>] ", call[1])[0])
    return found


def read(line: str) -> None:
    """Parse a command line as the command does, and do nothing."""
    name, *words = shlex.split(line, comments=True)
    module = importlib.import_module(f"landscape_cli.{_MODULES.get(name, name)}")
    with contextlib.redirect_stdout(io.StringIO()):
        parse(module.Arguments, words, command=name, description="")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_parses(page: Path) -> None:
    for line in commands(page):
        read(line)


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert len([line for page in PAGES for line in commands(page)]) > 30
    with pytest.raises(landscape.UsageError):
        read("hessian runs/sam-seed0 --tops 5")


def test_every_tutorial_is_a_notebook_that_is_listed() -> None:
    for page in sorted((DOCS / "tutorials").glob("*.md")):
        if page.stem != "index":
            text = page.read_text(encoding="utf-8")
            assert text.startswith("---\nfile_format: mystnb\n"), page
            for cell in re.findall(r"^```\{code-cell\}\n(?::tags:.*\n\n)?(.*?)^```", text, re.S | re.M):
                compile(re.sub(r"= !.*", "= None", cell), str(page), "exec")


def test_what_builds_the_site_is_pinned() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {re.split(r"[>=\[]", name)[0] for name in extra} <= pinned
    assert "sphinx -q -W" in (ROOT / ".ci" / "run").read_text()

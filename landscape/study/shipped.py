"""The experiment files that are installed, by name: the package's and those that other distributions bring."""

from __future__ import annotations

import tomllib
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from ..base.errors import UsageError
from ..base.names import installed, neighbours
from ..specs.claims import claims_of, refutation


def shipped() -> dict[str, dict[str, str]]:
    """Name, title, claim, what would refute it, and the size that decides, by name of the experiment."""
    studies = {}
    for name, file in _files().items():
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        texts = {k: " ".join(str(content.get(k, "")).split()) for k in ("title", "claim", "refuted_by", "decides")}
        texts["refuted_by"] = texts["refuted_by"] or refutation(claims_of(content, f"{name}.toml"))
        studies[name] = {"name": name, **texts}
    return studies


def _files() -> dict[str, Traversable]:
    """The files; an entry of the kind ``study`` in ``flatminima.plugins`` is a path, and takes no name of ours."""
    own = [f for f in (files(__package__) / "experiments").iterdir() if f.name.endswith(".toml")]
    brought = {name: Path(entry.load()) for name, entry in installed().get("study", {}).items()}
    ours: dict[str, Traversable] = {f.name.removesuffix(".toml"): f for f in sorted(own, key=lambda f: f.name)}
    return {**ours, **{name: file for name, file in brought.items() if name not in ours}}


def find(text: str) -> Path:
    """The experiment file that a path or the name of a shipped one stands for.

    Raises:
        UsageError: If there is neither.
    """
    if Path(text).is_file():
        return Path(text)
    known = _files()
    if text in known:
        with as_file(known[text]) as path:
            return path
    near = neighbours(text, known)
    meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UsageError(
        "there is no such experiment file", text, f"{meant}name a .toml file, or one of `landscape list studies`"
    )

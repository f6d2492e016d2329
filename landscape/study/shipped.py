"""The experiment files that are installed with the package, by name."""

from __future__ import annotations

import tomllib
from importlib.resources import as_file, files
from pathlib import Path

from ..base.errors import UsageError
from ..base.names import neighbours
from ..specs.claims import claims_of, refutation


def shipped() -> dict[str, dict[str, str]]:
    """Name, title, claim, what would refute it, and the size that decides, by name of the experiment."""
    folder = files(__package__) / "experiments"
    found = sorted(f.name for f in folder.iterdir() if f.name.endswith(".toml"))
    studies = {}
    for name in found:
        content = tomllib.loads((folder / name).read_text(encoding="utf-8"))
        texts = {k: " ".join(str(content.get(k, "")).split()) for k in ("title", "claim", "refuted_by", "decides")}
        texts["refuted_by"] = texts["refuted_by"] or refutation(claims_of(content, name))
        studies[name.removesuffix(".toml")] = {"name": name.removesuffix(".toml"), **texts}
    return studies


def find(text: str) -> Path:
    """The experiment file that a path or the name of a shipped one stands for.

    Raises:
        UsageError: If there is neither.
    """
    if Path(text).is_file():
        return Path(text)
    known = shipped()
    if text in known:
        with as_file(files(__package__) / "experiments" / f"{text}.toml") as path:
            return path
    near = neighbours(text, known)
    meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UsageError(
        "there is no such experiment file", text, f"{meant}name a .toml file, or one of `landscape list studies`"
    )

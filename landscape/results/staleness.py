"""What has changed since a stored result was made: its code, weights, data, and the versions that computed it.

Looking runs nothing of the user's and changes nothing: files are hashed, folders are listed, versions are read. What
only running code could tell is said to be unknown. Results that are asked for anew are another matter: the whole
identity decides whether a stored one is returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.code_files import version
from ..base.files import content_hash
from .identity import ALGORITHMS
from .provenance import listing, said_hash, weights_state
from .result import Result

UNTOLD = "made before identities were recorded: cannot tell"
_WHAT = {"data": "the data's code", "model": "the network's code", "loss": "the loss' code"}


@dataclass(frozen=True)
class Since:
    """What is known of a result's ingredients.

    Attributes:
        stale: What has changed; a few words each.
        unknown: What cannot be told without running code, or was not recorded.
        versions: SHA-256 by path of the code it was made with, to tell results apart.
    """

    stale: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """Both in one line; empty where nothing has changed and nothing is unknown."""
        return "; ".join((*self.stale, *self.unknown))


@dataclass
class _Seen:
    """What was looked at already: each file and folder once."""

    contents: dict[str, str | None] = field(default_factory=dict)
    weights: dict[str, str | None] = field(default_factory=dict)
    listings: dict[str, tuple[str, int] | None] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def content(self, path: str) -> str | None:
        if path not in self.contents:
            self.contents[path] = content_hash(Path(path))
        return self.contents[path]

    def weight(self, path: Path) -> str | None:
        if str(path) not in self.weights:
            self.weights[str(path)] = weights_state(path)
        return self.weights[str(path)]

    def listed(self, folder: str) -> tuple[str, int] | None:
        if folder not in self.listings:
            self.listings[folder] = listing(Path(folder))
        return self.listings[folder]


_SEEN: ContextVar[_Seen | None] = ContextVar("seen", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Inside, every file and folder is looked at once, however many results were made of it."""
    if _SEEN.get() is not None:
        yield
        return
    token = _SEEN.set(_Seen())
    try:
        yield
    finally:
        _SEEN.reset(token)


def first_time(text: str) -> bool:
    """Whether a notice was not given in this look before."""
    seen = _SEEN.get()
    if seen is None:
        return True
    new = text not in seen.said
    seen.said.add(text)
    return new


def since(result: Result) -> Since:
    """What has changed since a result was made, of what can be compared without running anything.

    A result that says nothing of where it comes from and is of no kind that is stored (a foreign surface) is left
    alone.
    """
    return since_of(result.kind, result.record, result.path)


def since_of(kind: str, record: Mapping[str, object], stored: Path | None = None) -> Since:
    """The same of a record: that of a result which lies at ``stored``, or, of kind ``training``, a ``run.json``."""
    seen = _SEEN.get() or _Seen()
    if kind == "training":
        return _since_training(record, seen)
    if kind not in ALGORITHMS:
        return Since()
    identity, made_of = record.get("identity"), record.get("origins")
    if not isinstance(identity, Mapping):
        return Since(unknown=(UNTOLD,))
    stale = _algorithm(identity.get("algorithm"), kind) + _versions({"torch": identity.get("torch")})
    if not isinstance(made_of, Mapping):
        stale += _weights_by_identity(record, identity, stored, seen)
        return Since(tuple(stale), ("its code and data were not recorded: cannot tell",))
    stale += _weights(made_of.get("weights") or (), stored, seen)
    return _with_code(stale, [], made_of, seen)


def changes(results: Sequence[Result]) -> list[str]:
    """Sentences on what has changed since results were made, and on those made with different versions of a file.

    Results of which nothing was recorded are counted, too. What only running code could tell is not: it holds for
    every plug-in.
    """
    with one_look():
        found = [since(r) for r in results]
    by_reason: dict[str, list[str]] = {}
    for result, one in zip(results, found, strict=True):
        for reason in (*one.stale, *(u for u in one.unknown if u == UNTOLD and result.path is not None)):
            by_reason.setdefault(reason, []).append(f"{result.kind} of {result.label}")
    notes = []
    for reason, names in by_reason.items():
        kinds = list(dict.fromkeys(names))
        more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
        notes.append(f"{len(names)} result(s) are {reason} ({', '.join(kinds[:3])}{more})")
    contents: dict[str, set[str]] = {}
    for one in found:
        for path, content in one.versions.items():
            contents.setdefault(path, set()).add(content)
    for path, different in contents.items():
        if len(different) > 1:
            notes.append(f"{len(different)} versions of {Path(path).name} made the results that are shown together")
    return notes


def _since_training(record: Mapping[str, Any], seen: _Seen) -> Since:
    made_of, versions = record.get("origins"), record.get("versions") or {}
    stale = _versions({"torch": versions.get("torch")}) if versions.get("torch") else []
    if isinstance(made_of, Mapping):
        return _with_code(stale + _algorithm(made_of.get("algorithm"), "training"), [], made_of, seen)
    ingredients = record.get("ingredients")
    if not isinstance(ingredients, Mapping):
        return Since(tuple(stale), (UNTOLD,) if record.get("spec") else ())
    named = {k: v for k, v in ingredients.items() if k in _WHAT and isinstance(v, Mapping) and v.get("path")}
    code = {k: [[v["path"], v.get("sha256")]] for k, v in named.items()}
    unknown = ["the files that its code imports were not recorded: cannot tell"] if code else []
    return _with_code(stale, unknown, {"code": code}, seen)


def _with_code(stale: list[str], unknown: list[str], made_of: Mapping[str, Any], seen: _Seen) -> Since:
    versions = {str(p): str(s) for pairs in (made_of.get("code") or {}).values() for p, s in pairs}
    for what, pairs in (made_of.get("code") or {}).items():
        changed = [Path(p).name for p, s in pairs if seen.content(p) not in (s, None)]
        gone = [Path(p).name for p, _ in pairs if seen.content(p) is None]
        if changed:
            stale.append(f"made with another version of {_WHAT[what]}: {_few(changed)}")
        if gone:
            stale.append(f"made with {_WHAT[what]} that is no longer there: {_few(gone)}")
    stale += _versions(made_of.get("libraries") or {})
    data = made_of.get("data") or {}
    if data.get("folder"):
        now = seen.listed(data["folder"])
        if now is None:
            stale.append(f"made of data that is no longer there: {data['folder']}")
        elif now[0] != data.get("listing"):
            stale.append(f"made of other files than are now in {data['folder']}")
        elif now[1] != data.get("newest"):
            unknown.append(f"files in {data['folder']} were written since, with the names and sizes of then")
    elif "data" in (made_of.get("code") or {}):
        unknown.append("whether its data's code returns the same examples: only running it could tell")
    return Since(tuple(stale), tuple(unknown), versions)


def _algorithm(then: object, kind: str) -> list[str]:
    now = ALGORITHMS[kind]
    return [] if then in (None, now) else [f"made by algorithm version {then}, now {now}"]


def _versions(then: Mapping[str, object]) -> list[str]:
    return [
        f"made with {name} {was}, now {version(name) or 'not installed'}"
        for name, was in then.items()
        if was and version(name) != was
    ]


def _weights(pairs: Sequence[Sequence[Any]], stored: Path | None, seen: _Seen) -> list[str]:
    found = []
    for path, then in pairs:
        here = _at_home(Path(path), stored)
        now = seen.weight(here)
        if now is None:
            found.append(f"of weights that are no longer there: {path}")
        elif now != then:
            found.append(f"of other weights than are now in {here}")
    return found


def _weights_by_identity(
    record: Mapping[str, object], identity: Mapping[str, object], stored: Path | None, seen: _Seen
) -> list[str]:
    """The same for a result that kept no places: of a run's checkpoint the header says what the identity has."""
    target = record.get("target")
    if not target:
        return []
    path = _at_home(Path(str(target)), stored)
    if seen.weight(path) is None:
        return [f"of weights that are no longer there: {target}"]
    own = path.parent.name == "checkpoints" and said_hash(path)
    return [f"of other weights than are now in {path}"] if own and own != identity.get("weights") else []


def _at_home(path: Path, stored: Path | None) -> Path:
    """Where a checkpoint is now: a run that was moved as a whole has it still."""
    if path.exists() or stored is None or stored.parent.name != "results":
        return path
    moved = stored.parent.parent / "checkpoints" / path.name
    return moved if path.parent.name == "checkpoints" and moved.exists() else path


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more

"""Lazy names: ``name -> "module:object"``, resolved on first use, with neighbours for unknown names.

Nothing here imports torch, so that lists and the command's help answer at once.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UsageError

log = logging.getLogger(__name__)

MOST_NAMES = 60  # that an error lists; all registries are shorter


@dataclass(frozen=True)
class Entry:
    """One registered object.

    Attributes:
        target: ``"package.module:object"``.
        summary: One line for ``landscape list``.
        details: Named facts shown beside it (formula, cost, paper, ...).
        options: Names of the flags the object understands (optimizers and measures).
    """

    target: str
    summary: str
    details: Mapping[str, str] | None = None
    options: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the module and return the object."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


GROUP = "flatminima.plugins"  # the entry points by which other distributions bring names


class Registry(Mapping[str, Entry]):
    """A fixed mapping from names to entries, and what installed distributions add to it.

    A distribution adds names by an entry point of the group ``flatminima.plugins``, which points to a mapping from
    kinds (``optimizer``, ``measure``, ``figure``, ``direction``, ``study``, ``model``, ``data set``, ``loss``) to
    names to entries. It cannot take a name of ours; one that cannot be imported is left out with a warning.

    A name ``PREFIX:ARGUMENT`` (argument in capitals) stands for a family: its object takes the text after the
    colon as its first argument.

    Args:
        kind: What is registered, in the singular; used in messages.
        entries: The entries, in the order in which they are listed.
        sums: ``module:object`` that makes one of several (see `landscape.base.terms`), where that means something.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry], *, sums: str | None = None) -> None:
        self.kind = kind
        self.sums = None if sums is None else Entry(sums, f"a weighted sum of {kind}es")
        self._own = dict(entries)

    @property
    def _entries(self) -> dict[str, Entry]:
        return {**installed().get(self.kind, {}), **self._own} if installed() else self._own

    def __getitem__(self, name: str) -> Entry:
        if name in self._own:
            return self._own[name]
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_name(self.kind, name, self) from None

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *(k for k in self._entries if k not in self._own)])

    def __len__(self) -> int:
        return len(self._entries)

    def is_own(self, name: str) -> bool:
        """Whether the name is of this package, whose version says what it does."""
        return name in self._own

    def get(self, name: str, default: object = None) -> Any:
        """The entry called ``name``, or ``default``."""
        return self._own.get(name) or self._entries.get(name, default)

    def family(self, name: str) -> str | None:
        """The registered ``PREFIX:ARGUMENT`` that ``name`` belongs to, or None."""
        prefix, colon, rest = name.partition(":")
        return next((k for k in self if colon and rest and k.startswith(f"{prefix}:")), None)

    def load(self, name: str) -> Any:
        """Import and return the object called ``name``.

        Raises:
            UsageError: If there is no such name; the message lists neighbours and all names.
        """
        return self[name].load()


@functools.cache
def installed() -> Mapping[str, Mapping[str, Entry]]:
    """What other distributions add, by kind and name; looked at once."""
    from importlib.metadata import entry_points

    found: dict[str, dict[str, Entry]] = {}
    for point in entry_points(group=GROUP):
        try:
            brought = {kind: {str(k): e for k, e in names.items()} for kind, names in dict(point.load()).items()}
            wrong = [k for names in brought.values() for k, e in names.items() if not isinstance(e, Entry)]
        except Exception as error:  # another's code, at the start of a command that may not need it
            log.warning("the plug-in %s is left out: %s: %s", point.value, type(error).__name__, error)
            continue
        if wrong:
            log.warning("the plug-in %s is left out: %s is no landscape.base.names.Entry", point.value, wrong[0])
            continue
        for kind, names in brought.items():
            found.setdefault(kind, {}).update(names)
    return found


def neighbours(name: str, known: Iterable[str]) -> list[str]:
    """Names a reader may have meant: near in spelling, or sharing a prefix of three letters."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    return near or [k for k in known if len(name) >= 3 and k[:3].lower() == name[:3].lower()]


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> UsageError:
    """The error for an unknown name, with a did-you-mean and the list, whose end is cut where it is very long."""
    known = list(known)
    near = neighbours(name, known)
    meant = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", where, f"{meant}there is: {enumerated(known) or 'nothing'}")


def enumerated(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Names with commas between them; of very many the first ones, and how many more there are."""
    more = f", ... and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def name_matcher(pattern: str) -> Callable[[str], object]:
    """A function that says whether a regular expression matches a parameter's name anywhere.

    Raises:
        UsageError: If the pattern is broken.
    """
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}", "`params=`", "mend it") from None

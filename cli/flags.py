"""Flags: how the fields of specs and options are spelled on the command line, and in what the library says.

The library names what a user gave as Python does, ```dtype='float64'``` (see `landscape.base.errors`).
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import typing
from typing import Any

# Arguments of Python functions whose flag has another name.
_OTHERWISE = {"trust": "trust_run", "formats": "format", "form": "format", "changes": "set"}
_PHRASES = {
    "see the traceback": "run with --debug for the traceback",
    "report it with the traceback": "report it with the output of --debug",
}
_ARGUMENT = re.compile("`([a-z][a-z0-9_]*)=([^`]*)`")


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def flags_of(arguments: type[object]) -> list[str]:
    """All flags of a command."""
    return [flag(name) for name in _fields(arguments)]


def in_flags(text: str) -> str:
    """A text of the library as the command line says it.

    Example:
        >>> in_flags("`epochs=` and `steps=` contradict each other: use `dtype='float64'` and `force=True`")
        '--epochs and --steps contradict each other: use --dtype float64 and --force'
    """
    for said, ours in _PHRASES.items():
        text = text.replace(said, ours)
    return _ARGUMENT.sub(_flag_and_value, text)


def everywhere(value: object) -> Any:
    """`in_flags` in every text of an object of JSON."""
    if isinstance(value, dict):
        return {key: everywhere(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [everywhere(inner) for inner in value]
    return in_flags(value) if isinstance(value, str) else value


def _flag_and_value(found: re.Match[str]) -> str:
    name, text = _OTHERWISE.get(found[1], found[1]), found[2]
    if name not in _known():
        return found[0]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # nothing, or what stands for a value, like N
        value = text
    if value is True:
        value = ""
    return " ".join([flag(name), *map(str, value if isinstance(value, tuple) else [value])]).strip()


@functools.cache
def _known() -> frozenset[str]:
    """Every field that some command has a flag for."""
    from .app import COMMANDS, command_module

    return frozenset(name for command in COMMANDS for name in _fields(command_module(command).Arguments))


def _fields(arguments: type[object]) -> list[str]:
    hints = typing.get_type_hints(arguments).values()
    return [f.name for kind in hints if dataclasses.is_dataclass(kind) for f in dataclasses.fields(kind)]

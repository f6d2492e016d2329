"""Tables of an experiment file: read with their types checked, merged, and changed from the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ..base.errors import UsageError


def merged(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, Any]:
    """``base`` with the values of ``over``; tables are merged key by key, lists are replaced."""
    made = dict(base)
    for key, value in over.items():
        inside = made.get(key)
        made[key] = merged(inside, value) if isinstance(inside, Mapping) and isinstance(value, Mapping) else value
    return made


def change(text: str) -> dict[str, Any]:
    """``part.key=value`` as the table that it changes."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+(\.[A-Za-z_-]+)*", key.strip()):
        raise UsageError(f"{text!r} changes nothing", "`changes=`", "write `changes='train.epochs=3'`")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return tomllib.loads(f"{key} = '''{value}'''")


def text_of(content: Mapping[str, object], key: str, where: str) -> str:
    """A text of one line; empty where there is none."""
    value = content.get(key, "")
    if not isinstance(value, str):
        raise UsageError(f"{key} = {value!r} has the wrong type", where, "expected text")
    return " ".join(value.split())


def table_of(content: Mapping[str, object], key: str, where: str) -> dict[str, Any]:
    """A table; empty where there is none."""
    value = content.get(key, {})
    if not isinstance(value, Mapping):
        raise UsageError(f"{key} = {value!r} has the wrong type", where, f"expected a table [{key}]")
    return {str(k).replace("-", "_"): v for k, v in value.items()}


def tables_of(content: Mapping[str, object], key: str, where: str) -> list[dict[str, Any]]:
    """A list of tables; empty where there is none."""
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
        raise UsageError(f"{key} has the wrong type", where, f"expected tables [[{key}]]")
    return [{str(k).replace("-", "_"): v for k, v in one.items()} for one in value]


def placed(error: UsageError, where: str) -> UsageError:
    """The same error, which also says where in the file it is."""
    return UsageError(error.what, f"{where}, {error.where}" if error.where else where, error.fix)


def at_least(key: str, value: int, least: int) -> None:
    """Refuse a whole number that is too small."""
    if value < least:
        raise UsageError(f"{key} = {value}", key, f"expected a whole number >= {least}")

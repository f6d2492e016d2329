"""From words to arguments: tyro reads the specs' fields; its complaints become one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from landscape.base.errors import UsageError
from landscape.base.names import neighbours, unknown_name
from landscape.specs import Spec

from .flags import flags_of

T = TypeVar("T")
_APPENDED = ("--model-arg", "--data-arg")


def parse(arguments: type[T], words: list[str], *, command: str, description: str, example: str = "") -> T:
    """Build the command's arguments.

    Args:
        arguments: What to build.
        words: The command line behind the command's name.
        command: Its name.
        description: What the help says of it.
        example: The end of the help.

    Raises:
        UsageError: For anything that does not parse, as one line.
    """
    prog = f"landscape {command}"
    default = _from_config(arguments, words)
    options = {
        "prog": prog,
        "description": "",
        "default": default,
        "registry": _plain_help(),
        "config": (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    }
    words = list(_one_value_each(words))
    if {"-h", "--help"} & set(words):
        print("\n".join(textwrap.wrap(description, shutil.get_terminal_size().columns)) + "\n")
        try:
            return _read(arguments, words, options)  # prints and leaves
        finally:
            print(f"example: {example}" if example else "", end="\n" if example else "")
    complaint = io.StringIO()
    with _wide_terminal(), contextlib.redirect_stderr(complaint):
        try:
            return _read(arguments, words, options)
        except SystemExit:
            raise _one_line(complaint.getvalue(), prog, flags_of(arguments)) from None


def _plain_help() -> ConstructorRegistry:
    """Let the help say nothing where there is no default: a field's own sentence says what then happens."""
    registry, asking = ConstructorRegistry(), False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if asking:  # tyro's own rules are asked through the same door
            return None
        asking = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return dataclasses.replace(spec, fields=tuple(map(_plain, spec.fields)))

    return registry


# What the fields of `Arguments` are called in the help, above their flags.
_GROUPS = {"spec": "main", "problem": "network and examples", "common": "output", "options": "command"}
_PLACES = {
    "target": "TARGET",
    "targets": "TARGET [TARGET ...]",
    "results": "RESULT [RESULT ...]",
    "experiment": "EXPERIMENT",
    "what": "WHAT",
    "action": "ACTION",
}


def _plain(field: StructFieldSpec) -> StructFieldSpec:
    place = _PLACES.get(field.name)
    if place:
        shown: Any = Annotated[field.type, tyro.conf.arg(metavar=place, help_behavior_hint=""), tyro.conf.Positional]
        return dataclasses.replace(field, type=shown)
    if field.name in _GROUPS and dataclasses.is_dataclass(field.type):
        grouped: Any = Annotated[field.type, tyro.conf.arg(name=_GROUPS[field.name])]
        return dataclasses.replace(field, type=grouped)
    choices = [kind for kind in typing.get_args(field.type) if kind is not types.NoneType]
    optional = types.NoneType in typing.get_args(field.type)
    metavar = "|".join(map(_metavar, choices)) if optional else None
    nothing = field.default is None or field.default is False or field.default == ()
    hint = "" if nothing else None
    if hint is None and metavar is None:
        return field
    kind: Any = Annotated[field.type, tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)]
    return dataclasses.replace(field, type=kind)


def _metavar(kind: object) -> str:
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return str(getattr(kind, "__name__", kind)).upper()


def _read(arguments: type[T], words: list[str], options: dict[str, Any]) -> T:
    parsed: T = tyro.cli(arguments, args=words, **options)
    return parsed


def _one_value_each(words: list[str]) -> Iterator[str]:
    """Let ``--model-arg a=1 b=2`` mean the same as ``--model-arg a=1 --model-arg b=2``."""
    flag = None
    for word in words:
        if word in _APPENDED:
            flag, first = word, True
            yield word
        elif flag and re.match(r"[A-Za-z_]\w*=", word):
            if not first:
                yield flag
            first = False
            yield word
        else:
            flag = None
            yield word


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    """Keep tyro from wrapping what is about to be one line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _one_line(box: str, prog: str, flags: list[str]) -> UsageError:
    """The sense of tyro's framed complaint."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│╭╮╰╯ ").strip() for line in plain.splitlines()]
    # A frame, or where the terminal has no such letters plain rules: a title, the message, where to find help.
    blocks: list[list[str]] = [[]]
    for line in filter(None, lines):
        if set(line) <= set("─-"):
            blocks.append([])
        else:
            blocks[-1].append(line)
    message = " ".join(blocks[0][1:] or (blocks[1] if len(blocks) > 1 else blocks[0]))
    own = re.fullmatch(r"Error parsing [\w ]+: (.*)", message)
    if own:  # a spec refused its values, and its line says everything
        return UsageError(own[1])
    message = re.sub(r"Got errors:.*", "", message)
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
    choice = re.fullmatch(
        r"invalid choice '(.*?)' for argument '(.*?)'. Expected one of \((.*)\)", message.strip(" .")
    )
    if choice:
        given, name, known = choice.groups()
        kind = name.lstrip("-").replace("-", " ") if name.startswith("-") else "choice"
        return unknown_name(kind, given, [k for k in re.findall(r"'([^']*)'", known) if k != "None"], name)
    no_number = re.fullmatch(r"Error parsing (\S+?): (invalid literal for int|could not convert).*?('.*')", message)
    if no_number:
        kind = "whole number" if "int" in no_number[2] else "number"
        return UsageError(f"{no_number[3]} is no {kind}", no_number[1], f"see {prog} --help")
    missing = re.fullmatch(r"Missing from landscape \w+: (\S+) (.*?)\W*\(required\)\W*", message)
    if missing:
        return UsageError(f"{missing[1]} is missing", "command line", missing[2][0].lower() + missing[2][1:])
    near: list[str] = []
    if message.startswith("Unrecognized options: --"):
        near = neighbours(message.split()[2].strip(",").partition("=")[0], flags)
    fix = f"did you mean {' or '.join(near)}? see {prog} --help" if near else f"see {prog} --help"
    return UsageError(message.strip(" .") or "the command line does not parse", "command line", fix)


# -- configuration files -------------------------------------------------------------------------------------------


def _from_config(arguments: type[object], words: list[str]) -> object:
    """Defaults of ``arguments`` from the file named by ``--config``, or None."""
    path = None
    for i, word in enumerate(words):
        if word == "--config" and i + 1 < len(words):
            path = Path(words[i + 1])
        elif word.startswith("--config="):
            path = Path(word.partition("=")[2])
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration: {error.strerror}", str(path), "check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration is no TOML: {error}", str(path), "mend the file") from None
    return _filled(arguments, {str(k).replace("-", "_"): v for k, v in content.items()}, path)


def _filled(arguments: type[Any], content: dict[str, Any], path: Path) -> Any:
    hints = typing.get_type_hints(arguments)
    parts = {f.name: hints[f.name] for f in dataclasses.fields(arguments)}
    known: list[str] = []
    values: dict[str, Any] = {}
    for name, kind in parts.items():
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind)]
            known += names
            mine = {k: v for k, v in content.items() if k in names}
            if isinstance(kind, type) and issubclass(kind, Spec):
                values[name] = _read_spec(kind, mine, path)
            else:
                values[name] = kind(**{k: Path(v) if k == "out" else v for k, v in mine.items()})  # type: ignore[operator]
        else:
            known.append(name)
            if name in content:
                values[name] = tuple(content[name]) if isinstance(content[name], list) else content[name]
    for key in content:
        if key not in known:
            raise unknown_name("key", key, known, str(path))
    required = {
        f.name: tyro.MISSING
        for f in dataclasses.fields(arguments)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return arguments(**required, **values)


def _read_spec(kind: type[Spec], content: dict[str, Any], path: Path) -> Spec:
    try:
        return kind.from_dict(content, str(path))
    except UsageError as error:
        if str(path) in error.where:
            raise
        raise UsageError(error.what, f"{path}, {error.where}", error.fix) from None

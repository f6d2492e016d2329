"""Flags are the command line's: the library names arguments, and what a user reads names flags."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from landscape_cli.app import main
from landscape_cli.flags import _OTHERWISE, _known, everywhere, in_flags
from landscape_cli.screen import Screen

import landscape
from landscape.base.errors import UsageError, argument
from landscape.base.names import unknown_name
from landscape.specs import HessianSpec, ProblemSpec, TrainSpec

LIBRARY = Path(landscape.__file__).parent
SOURCES = {file: file.read_text(encoding="utf-8") for file in sorted(LIBRARY.rglob("*.py"))}
# Whole commands, which are shown to be copied, name their flags.
COMMAND = re.compile("`+landscape [a-z][^`]*`")


def test_the_library_names_no_flag():
    """The sentences of fields in ``specs/`` are the help of the flags, which tyro makes of the fields."""
    named = {
        f"{file.relative_to(LIBRARY)}: {found}"
        for file, text in SOURCES.items()
        for found in re.findall(r"(?<![\w-])--[a-z{][a-z-]*", COMMAND.sub("", text))
        if file.parent.name != "specs"
    }
    assert not named


def test_the_errors_of_specs_name_no_flag():
    for file, text in SOURCES.items():
        if file.parent.name == "specs":
            assert not re.search(r'["(, ]--[a-z][a-z-]*"', text), file
            assert not [line for line in text.split("\n") if "Error(" in line and "--" in COMMAND.sub("", line)], file


def test_every_argument_that_the_library_names_has_a_flag():
    named = {name for text in SOURCES.values() for name in re.findall("(?<!`)`([a-z][a-z0-9_]*)=[^`]*`(?!`)", text)}
    assert len(named) > 60
    assert not {name for name in named if _OTHERWISE.get(name, name) not in _known()}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (argument("save_every"), "--save-every"),
        (argument("dtype", "float64"), "--dtype float64"),
        (argument("measure", ("margin", "m-sharpness")), "--measure margin m-sharpness"),
        (argument("m", 16), "--m 16"),
        ("pass `force=True` or `trust=True`", "pass --force or --trust-run"),
        ("choose one with `key=NAME`", "choose one with --key NAME"),
        ("mend it, or see the traceback", "mend it, or run with --debug for the traceback"),
        ("write `changes='train.epochs=3'`", "write --set train.epochs=3"),
        ("timm says `num_classes=3` and `loss`", "timm says `num_classes=3` and `loss`"),
        ("see `landscape list figures`", "see `landscape list figures`"),
    ],
)
def test_what_is_shown(said: str, shown: str):
    assert in_flags(said) == shown
    assert everywhere({"a": [said, 1]}) == {"a": [shown, 1]}


def test_python_callers_read_arguments():
    with pytest.raises(UsageError) as caught:
        TrainSpec(epochs=1, steps=2)
    assert str(caught.value) == "`epochs=` and `steps=` contradict each other (`steps=`): give one of them"
    with pytest.raises(UsageError) as caught:
        ProblemSpec(replay_seed=1)
    assert caught.value.where == "`replay_seed=`"
    with pytest.raises(UsageError, match=r"^top=0 \(`top=`\): expected a number >= 1$"):
        HessianSpec(top=0)


def test_people_at_a_terminal_read_flags(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--epochs", "1", "--steps", "2"]) == 2
    assert "--epochs and --steps contradict each other (--steps): give one of them" in capsys.readouterr().err
    with Screen(json=False) as screen:
        logging.getLogger("landscape.weights").warning("its %r is taken; `key=` chooses another", "model")
        screen.line("use `dtype='float64'`")
    out = capsys.readouterr()
    assert out.err == "notice: its 'model' is taken; --key chooses another\n"
    assert out.out.strip() == "use --dtype float64"


def test_an_unknown_name_where_an_argument_is():
    assert str(unknown_name("colour", "zzz", ["red"], argument("colour"))).startswith(
        "unknown colour 'zzz' (`colour=`)"
    )

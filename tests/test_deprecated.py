"""Names of before work for one release, and say what they are called now."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest
import torch

from landscape import Problem, _deprecated


@pytest.mark.parametrize("old", sorted(_deprecated.MOVED))
def test_every_module_is_found_under_its_old_name(old: str):
    new = importlib.import_module(f"landscape.{_deprecated.MOVED[old]}")
    names = [n for n, v in vars(new).items() if getattr(v, "__module__", None) == new.__name__]
    with pytest.warns(DeprecationWarning, match="has moved to landscape") if names else pytest.MonkeyPatch.context():
        module = importlib.import_module(f"landscape.{old}")
        for name in names:
            assert getattr(module, name) is getattr(new, name)


@pytest.mark.parametrize("name", sorted(_deprecated.NAMES))
def test_names_that_left_their_module(name: str):
    old, _, word = name.partition(":")
    with warnings.catch_warnings(action="ignore"):
        module = importlib.import_module(f"landscape.{old}")
    with pytest.warns(DeprecationWarning, match=rf"landscape\.{_deprecated.NAMES[name]}\.{word}"):
        found = getattr(module, word)
    assert found is getattr(importlib.import_module(f"landscape.{_deprecated.NAMES[name]}"), word)


def test_the_warning_names_the_line_of_the_user():
    code = "import landscape\n\nfrom landscape.losses import as_loss\nfrom landscape.problem import Problem\n"
    ran = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", "-c", code], capture_output=True, text=True, check=True
    )
    said = [line for line in ran.stderr.splitlines() if "has moved to" in line]
    assert said
    assert all(line.startswith(("<string>:3: DeprecationWarning", "<string>:4: DeprecationWarning")) for line in said)
    assert any("landscape.losses has moved to landscape.data.losses" in line for line in said)


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("landscape.nothing")
    with pytest.raises(ImportError):
        exec("from landscape.problem import nothing", {})


def test_the_library_itself_uses_no_old_name():
    """Its own imports would warn, and pytest turns that into an error; nothing else asks for `former`."""
    assert _deprecated.former("landscape.data.losses") == "landscape.losses"
    assert _deprecated.former("torch.nn") == "torch.nn"


@pytest.mark.parametrize("name", sorted(_deprecated.RENAMED))
def test_public_names_that_are_called_otherwise(name: str):
    package, _, word = name.partition(":")
    module = importlib.import_module(package)
    with pytest.warns(DeprecationWarning, match=rf"{package}\.{_deprecated.RENAMED[name]}"):
        assert getattr(module, word) is getattr(module, _deprecated.RENAMED[name])


@pytest.mark.parametrize("name", sorted(_deprecated.METHODS["Problem"]))
def test_methods_of_a_problem_that_are_called_otherwise(name: str):
    problem = Problem(torch.nn.Linear(2, 2), (torch.ones(3, 2), torch.tensor([0, 1, 0])), "cross_entropy")
    new = _deprecated.METHODS["Problem"][name]
    with pytest.warns(DeprecationWarning, match=rf"Problem\.{name} has moved to Problem\.{new}"):
        assert getattr(problem, name) == getattr(problem, new)
    assert not hasattr(problem, "nothing_of_this_name")

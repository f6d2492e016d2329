"""Every public name shows how it is used, and what it shows runs."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest
import torch

import landscape
import landscape.testing

ERRORS = tuple(
    n for n in landscape.__all__ if inspect.isclass(e := getattr(landscape, n)) and issubclass(e, Exception)
)
SPECS = tuple(n for n in landscape.__all__ if n.endswith("Spec"))
SHOWN = tuple(n for n in landscape.__all__ if n not in (*ERRORS, *SPECS))


@pytest.mark.parametrize("name", [*SHOWN, *landscape.testing.__all__])
def test_the_example_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    shown = getattr(landscape.testing if name in landscape.testing.__all__ else landscape, name)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(shown) or "", {}, name, None, 0)
    assert examples.examples, f"{name} shows no example"
    assert any(not e.options.get(doctest.SKIP) for e in examples.examples), f"no example of {name} is run"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert not said, "".join(said)

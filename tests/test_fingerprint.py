"""What a network or a loss computes has one name: another for each thing that changes a number."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.fingerprint import fingerprint, state_fingerprint
from landscape.plugins import resolve
from landscape.registry import MODELS


class Scaled(nn.Module):
    """A hyper-parameter that is neither weight nor buffer, and that no repr shows."""

    def __init__(self, scale: float, then: Callable[[torch.Tensor], torch.Tensor] = torch.tanh) -> None:
        super().__init__()
        self.inner, self.scale, self.then = nn.Linear(2, 2), scale, then
        self.register_buffer("mask", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.inner(x) * self.scale * self.mask)


def masked() -> nn.Module:
    model = Scaled(1.0)
    model.mask[0] = 0
    return model


def hooked(function: Callable[..., torch.Tensor]) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_forward_hook(function)
    return model


def patched() -> nn.Module:
    model = nn.Linear(2, 2)
    model.forward = lambda x: 2 * x
    return model


def closing_over(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * number


PAIRS = {
    "a hyper-parameter in the repr": (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.2)),
    "an attribute": (lambda: Scaled(1.0), lambda: Scaled(2.0)),
    "an activation": (lambda: Scaled(1.0, torch.tanh), lambda: Scaled(1.0, torch.sigmoid)),
    "a partial argument": (
        lambda: Scaled(1.0, functools.partial(F.leaky_relu, negative_slope=0.1)),
        lambda: Scaled(1.0, functools.partial(F.leaky_relu, negative_slope=0.2)),
    ),
    "what a function closes over": (lambda: Scaled(1.0, closing_over(1.0)), lambda: Scaled(1.0, closing_over(2.0))),
    "the code of a lambda": (lambda: Scaled(1.0, lambda x: x["a"]), lambda: Scaled(1.0, lambda x: x["b"])),
    "a buffer outside the state dict": (lambda: Scaled(1.0), masked),
    "a hook": (lambda: nn.Linear(2, 2), lambda: hooked(lambda m, i, o: 2 * o)),
    "the code of a hook": (lambda: hooked(lambda m, i, o: 3 * o), lambda: hooked(lambda m, i, o: 2 * o)),
    "a replaced forward": (lambda: nn.Linear(2, 2), patched),
    "the class": (nn.Tanh, nn.Sigmoid),
    "the order of layers": (
        lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
        lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
    ),
    "what is frozen": (lambda: nn.Linear(2, 2), lambda: nn.Linear(2, 2).requires_grad_(False)),
    "a default": (lambda: Scaled(1.0, _with_default(1)), lambda: Scaled(1.0, _with_default(2))),
}


def _with_default(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def function(x: torch.Tensor, power: int = number) -> torch.Tensor:
        return x**power

    return function


@pytest.mark.parametrize("what", PAIRS)
def test_what_changes_a_number_changes_the_fingerprint(what: str):
    first, second = PAIRS[what]
    assert fingerprint(first()) == fingerprint(first())
    assert fingerprint(first()) != fingerprint(second())


def test_weights_are_not_part_of_it():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    assert not torch.equal(a.weight, b.weight)
    assert fingerprint(a) == fingerprint(b)


def test_weights_of_a_loss_are_part_of_it():
    first, second = (lambda o, t, w=w: F.cross_entropy(o, t, weight=w) for w in (torch.ones(3), torch.arange(3.0)))
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(nn.CrossEntropyLoss(label_smoothing=0.1)) != fingerprint(nn.CrossEntropyLoss())


def test_a_global_that_a_function_reads_is_part_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "_POWER", 2)
    before = fingerprint(_to_the_power)
    monkeypatch.setitem(globals(), "_POWER", 3)
    assert fingerprint(_to_the_power) != before


def _to_the_power(x: torch.Tensor) -> torch.Tensor:
    return x**_POWER  # type: ignore[name-defined, no-any-return]  # noqa: F821


_CODE = """
import functools, torch, sys
from torch import nn
from landscape.fingerprint import fingerprint
model = nn.Sequential(nn.TransformerEncoderLayer(8, 2), nn.Linear(8, 2), nn.LSTM(2, 3))
model.names = {"some", "words", "in", "a", "set"}
model.then = functools.partial(torch.nn.functional.leaky_relu, negative_slope=.1)
model.register_forward_hook(lambda m, i, o: o)
print(fingerprint(model), fingerprint(nn.CrossEntropyLoss(label_smoothing=.1)))
"""


def test_another_process_finds_the_same():
    """Hashes of texts, addresses and the numbers of hooks differ from process to process."""
    words = [sys.executable, "-c", _CODE]
    found = {subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1
    assert len(found.pop().split()) == 2


def test_the_files_behind_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its own file, a neighbour that it imports, and what that one imports; a moved folder changes nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    texts = {
        "plug_a.py": "import torch\nfrom plug_b import width\ndef net(): return torch.nn.Linear(width, 2)\n",
        "plug_b.py": "import plug_c\nwidth = 2\n",
        "plug_c.py": "nothing = 0\n",
        "plug_d.py": "nothing = 0\n",
    }

    def code(folder: str, **edited: str) -> tuple[str, str]:
        place = tmp_path / folder
        place.mkdir()
        for name, text in texts.items():
            (place / name).write_text(text + edited.get(name[:-3], ""))
        for name in ("plug_b", "plug_c", "plug_d"):
            sys.modules.pop(name, None)
        made = resolve(f"{place / 'plug_a.py'}:net", MODELS)
        return made.record["code"], fingerprint(made.call())

    first = code("one")
    assert code("two")[0] == first[0]
    for name in ("plug_a", "plug_b", "plug_c"):
        assert code(f"with {name}", **{name: "# other\n"})[0] != first[0], name
    assert code("unrelated", plug_d="# other\n")[0] == first[0]
    for name in ("plug_a", "plug_b", "plug_c"):
        sys.modules.pop(name, None)


def test_what_a_pass_changes():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = state_fingerprint(model)
    model.eval()(torch.ones(4, 3))
    assert state_fingerprint(model) == before
    model.train()(torch.randn(4, 3))
    model[1].calls = 1
    after = state_fingerprint(model)
    assert {k for k in before if before[k] != after[k]} == {"0", "1"}

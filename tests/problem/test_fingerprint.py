"""What a network or a loss computes has one name: another for each thing that changes a number."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.base.plugins import resolve
from landscape.problem.fingerprint import fingerprint, state_fingerprint
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
    "the weights of a teacher in a list": (lambda: Scaled(1.0, _teacher(1)), lambda: Scaled(1.0, _teacher(2))),
    "a constant of a traced network": (lambda: _traced(2.0), lambda: _traced(3.0)),
    "what lies deep": (lambda: _nested(0.1), lambda: _nested(0.2)),
    "what a chain of functions ends in": (lambda: Scaled(1.0, _chain(2.0)), lambda: Scaled(1.0, _chain(3.0))),
    "an attribute of a function": (lambda: Scaled(1.0, _marked(1)), lambda: Scaled(1.0, _marked(2))),
    "the end of bytes": (lambda: Scaled(1.0, bytearray(20_000)), lambda: Scaled(1.0, bytearray(19_999) + b"1")),
    "a sparse matrix": (
        lambda: Scaled(1.0, torch.eye(3).to_sparse()),
        lambda: Scaled(1.0, (2 * torch.eye(3)).to_sparse()),
    ),
    "a method of a tensor": (
        lambda: Scaled(1.0, torch.tensor(1.0).mul),
        lambda: Scaled(1.0, torch.tensor(2.0).mul),
    ),
    "a default": (lambda: Scaled(1.0, _with_default(1)), lambda: Scaled(1.0, _with_default(2))),
}


def _teacher(seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    torch.manual_seed(seed)
    hidden = [nn.Linear(2, 2)]
    return lambda x: 2 * hidden[0](x)


def _traced(number: float) -> nn.Module:
    class Times(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * number

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        return torch.jit.trace(Times(), torch.ones(2))


def _nested(slope: float) -> nn.Module:
    model: nn.Module = nn.LeakyReLU(slope)
    for _ in range(60):
        model = nn.Sequential(model)
    return model


def _chain(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def after(inner: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: inner(x) + 1

    function = closing_over(number)
    for _ in range(60):
        function = after(function)
    return function


def _marked(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x * function.number

    function.number = number
    return function


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
from landscape.problem.fingerprint import fingerprint
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


GLOBALS = {
    "an object with settings": ("class S: pass\nC = S()\nC.k = {}\n", "C.k * o"),
    "a criterion": ("C = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, {}]))\n", "C(o, y)"),
    "a partial": ("C = functools.partial(torch.mul, {})\n", "C(o)"),
    "a set": ("C = {{{}}}\n", "o if 1.0 in C else -o"),
    "a class inside a class": ("class C:\n    class D:\n        k = {}\n", "C.D.k * o"),
    "a class with a network": ("class C:\n    k = torch.nn.LeakyReLU({})\n", "C.k(o)"),
    "a cached function": ("C = functools.lru_cache((lambda k: lambda o: k * o)({}))\n", "C(o)"),
    "another module": ("C = type(torch)('settings')\nC.k = {}\n", "C.k * o"),
    "the environment": (
        "import os\nos.environ['LANDSCAPE_TEST_K'] = '{}'\n",
        "float(os.environ['LANDSCAPE_TEST_K']) * o",
    ),
}


@pytest.mark.parametrize("name", GLOBALS)
def test_globals_that_a_loss_uses_count_by_their_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_TEST_K", "")  # so that it is gone afterwards

    def found(number: float) -> str:
        module = type(torch)("losses_of_a_user")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        before, result = GLOBALS[name]
        made = before.format(number)
        exec(f"import torch, functools\n{made}def loss(o, y):\n    return {result}\n", module.__dict__)
        return fingerprint(module.loss)

    assert found(1.0) == found(1.0) != found(2.0)


def test_class_weights_of_a_loss_count_and_those_of_the_network_do_not() -> None:
    def loss(weight: float) -> nn.Module:
        return nn.CrossEntropyLoss(weight=torch.tensor([1.0, weight]))

    model = nn.Linear(2, 2)
    assert fingerprint(loss(1.0), weights_of=model) == fingerprint(loss(1.0), weights_of=model)
    assert fingerprint(loss(1.0), weights_of=model) != fingerprint(loss(2.0), weights_of=model)
    assert fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "make", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_weight_that_the_forward_makes_of_others_is_no_constant(make: Callable[..., nn.Module]) -> None:
    first, second = make(nn.Linear(3, 3)), make(nn.Linear(3, 3))
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)


def test_a_log_and_an_open_file_are_no_part_of_a_network(tmp_path: Path) -> None:
    before, logger = fingerprint(Scaled(1.0, logging.getLogger("a"))), logging.getLogger("a")
    logger.addHandler(logging.NullHandler())
    assert fingerprint(Scaled(1.0, logger)) == before
    with open(tmp_path / "a", "w") as one, open(tmp_path / "b", "w") as other:
        assert fingerprint(Scaled(1.0, one)) == fingerprint(Scaled(1.0, other))


@pytest.mark.parametrize("edited", ["later.py", "latest.py", "around/__init__.py", "around/deep.py"])
def test_modules_that_are_imported_inside_a_function_count_and_are_found(tmp_path: Path, edited: str) -> None:
    """The folder is not on the path of the process: a forward finds its neighbours all the same."""
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "__init__.py").write_text("b = 1.0\n")
    (tmp_path / "around" / "deep.py").write_text("c = 1.0\n")
    (tmp_path / "around" / "low.py").write_text("def f():\n    from .deep import c\n    return c\n")
    (tmp_path / "later.py").write_text("from latest import a\n")
    (tmp_path / "latest.py").write_text("a = 1.0\n")
    (tmp_path / "plugin.py").write_text(
        "import around.low\ndef net():\n    from later import a\n    return lambda: a * around.b * around.low.f()\n"
    )
    (tmp_path / "elsewhere").mkdir()
    program = (
        "from landscape.base.plugins import resolve\nfrom landscape.registry import MODELS\n"
        "found = resolve('../plugin.py:net', MODELS)\nprint(found.record['code'], found.call()())\n"
    )

    def run() -> list[str]:
        folder = tmp_path / "elsewhere"
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.split()

    before = run()
    with (tmp_path / edited).open("a") as file:
        file.write("".join(f"{n} = 2.0\n" for n in "abc"))
    after = run()
    assert (before[1], after[1]) == ("1.0", "2.0")
    assert before[0] != after[0]

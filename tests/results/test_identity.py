"""A stored result is returned for the same computation and for no other: every ingredient in turn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from landscape.analyses.analyze import analyze
from landscape.analyses.joint import path as path_of
from landscape.analyses.joint import surfaces
from landscape.results import identity
from landscape.specs import DomainsSpec, HessianSpec, PathSpec, ProblemSpec, SharpnessSpec, SurfaceSpec
from landscape.specs.base import Spec

MODEL = """
import torch
from parts import SLOPE
class Scaled(torch.nn.Module):
    def __init__(self, factor): super().__init__(); self.factor = factor
    def forward(self, x): return self.factor * x
def net(act="tanh", factor=1.0):
    torch.manual_seed(0)
    layer = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[act]()
    from torch.nn import BatchNorm1d, Linear
    return torch.nn.Sequential(Linear(2, 4), layer, BatchNorm1d(4), Scaled(factor), Linear(4, 3))
"""
PARTS = "SLOPE = 1\n"
DATA = """
import torch
def data(shift=0.0):
    torch.manual_seed(1)
    parts = {n: torch.randn(20, 2) + i + shift for i, n in enumerate("ab")}
    def labelled(by):
        moved = {n: x + by for n, x in parts.items()}
        return {n: (x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()) for n, x in moved.items()}
    return {"train": labelled(0), "test": labelled(1)}
"""
LOSS = """
import torch
def loss(o, t): return torch.nn.functional.cross_entropy(o, t, reduction="none")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with plug-ins and two checkpoints; a result that is asked for anew is forgotten by Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, text in (("m.py", MODEL), ("parts.py", PARTS), ("d.py", DATA), ("l.py", LOSS)):
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    module = importlib.import_module("m")
    torch.save(module.net().state_dict(), "w.pt")
    other = module.net()
    with torch.no_grad():
        other[0].weight += 0.1
    torch.save(other.state_dict(), "v.pt")
    third = module.net()
    with torch.no_grad():
        third[4].weight -= 0.1
    torch.save(third.state_dict(), "u.pt")
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    """What another process would not know."""
    for name in [n for n in sys.modules if n in ("m", "parts", "d", "l") or n.startswith("landscape_plugin_")]:
        del sys.modules[name]


PROBLEM = ProblemSpec(model="m.py:net", data="d.py:data", loss="l.py:loss", device="cpu")
CHANGES: dict[str, tuple[Callable[[], None], dict[str, Any]]] = {
    "an argument of the model": (lambda: None, {"model_arg": ("act=relu",)}),
    "an argument that no repr shows": (lambda: None, {"model_arg": ("factor=2.0",)}),
    "the file of the model": (lambda: _edit("m.py", "return self.factor * x", "return self.factor * x.sin()"), {}),
    "a module that it imports": (lambda: _edit("parts.py", "SLOPE = 1", "SLOPE = 2"), {}),
    "the file of the loss": (lambda: _edit("l.py", "(o, t, reduction", "(2 * o, t, reduction"), {}),
    "another loss": (lambda: None, {"loss": "cross_entropy"}),
    "the examples": (lambda: None, {"data_arg": ("shift=0.1",)}),
    "the split": (lambda: None, {"split": "test"}),
    "the domains": (lambda: None, {"domain": ("a",)}),
    "how many examples": (lambda: None, {"examples": 30}),
    "the parameters": (lambda: None, {"params": "^0"}),
    "the mode": (lambda: None, {"mode": "train"}),
    "the precision": (lambda: None, {"dtype": "float64"}),
    "the seed": (lambda: None, {"seed": 1}),
    "what the loss is over": (lambda: None, {"loss_over": "batch", "batch_size": 8}),
    "a penalty": (lambda: None, {"weight_decay": 0.1}),
    "each domain": (lambda: None, {"per_domain": True}),
    "the weights": (lambda: Path("v.pt").replace("w.pt"), {}),
}
ASK: dict[str, Callable[[ProblemSpec], Any]] = {
    "hessian": lambda p: analyze("hessian", "w.pt", p, HessianSpec(top=1)),
    "sharpness": lambda p: analyze("sharpness", "w.pt", p, SharpnessSpec(m=(8,))),
    "surface": lambda p: analyze("surface", "w.pt", p, SurfaceSpec(dim=1, points=3)),
    "domains": lambda p: analyze("domains", "w.pt", p, DomainsSpec()),
    "path": lambda p: path_of("w.pt", "u.pt", p, PathSpec(points=3, bn="keep")),
}


def _edit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def numbers(result: Any) -> Any:
    return [v.values.tobytes() for v in result.data.data_vars.values()]


@pytest.mark.parametrize("kind", ASK)
@pytest.mark.parametrize("what", CHANGES)
def test_a_second_answer_for_another_computation(place: Path, what: str, kind: str):
    change, options = CHANGES[what]
    if kind == "path" and what == "the parameters":
        options = {"params": "."}  # all of them lie between checkpoints; it is the same request
        assert ASK[kind](PROBLEM.with_(**options)).path == ASK[kind](PROBLEM).path
        return
    first = ASK[kind](PROBLEM)
    _forget()
    assert ASK[kind](PROBLEM).path == first.path
    change()
    _forget()
    second = ASK[kind](PROBLEM.with_(**options))
    assert second.path != first.path
    names = {*first["identity"], *second["identity"]}  # what came later stands there where it is asked for
    named = {k: (first["identity"].get(k), second["identity"].get(k)) for k in names}
    assert any(a != b for a, b in named.values())
    _forget()
    assert ASK[kind](PROBLEM.with_(**options)).path == second.path


@pytest.mark.parametrize("kind", ASK)
def test_what_changes_no_number_finds_the_stored_result(place: Path, kind: str, caplog: pytest.LogCaptureFixture):
    first = ASK[kind](PROBLEM)
    (place / "elsewhere").mkdir()
    for name in ("m.py", "parts.py", "d.py", "l.py"):
        (place / "elsewhere" / name).write_text((place / name).read_text())
    _forget()
    with caplog.at_level("INFO", "landscape"):
        again = ASK[kind](PROBLEM.with_(batch_size=7))
        _forget()
        moved = ASK[kind](PROBLEM.with_(model="elsewhere/m.py:net", data="elsewhere/d.py:data"))
    assert caplog.text.count("stored result, same weights, network, data and options") == 2
    assert numbers(again) == numbers(first) == numbers(moved)


def test_planes_through_three_checkpoints(place: Path):
    def ask(problem: ProblemSpec) -> Any:
        _forget()
        return surfaces(["w.pt", "v.pt", "u.pt"], problem, SurfaceSpec(plane=True, points=3, bn="keep"))[0].path

    first = ask(PROBLEM)
    assert ask(PROBLEM) == first
    assert ask(PROBLEM.with_(mode="train")) != first
    assert ask(PROBLEM.with_(model_arg=("act=relu",))) != first


def test_files_that_an_analysis_reads_are_known_by_their_content(place: Path):
    """Another file under the same name is another request."""
    spec = SharpnessSpec(measure=("distance-from-start",), start="v.pt")
    first = analyze("sharpness", "w.pt", PROBLEM, spec)
    Path("u.pt").replace("v.pt")
    _forget()
    second = analyze("sharpness", "w.pt", PROBLEM, spec)
    assert second["measures"][0]["value"] != first["measures"][0]["value"]
    toward = SurfaceSpec(dim=1, points=3, direction=("checkpoint:v.pt",))
    _forget()
    before = analyze("surface", "w.pt", PROBLEM, toward)
    torch.save({k: v + 0.01 if v.is_floating_point() else v for k, v in torch.load("v.pt").items()}, "v.pt")
    _forget()
    assert analyze("surface", "w.pt", PROBLEM, toward).path != before.path


def test_the_version_of_the_algorithm_is_in(place: Path, monkeypatch: pytest.MonkeyPatch):
    for kind, ask in ASK.items():
        _forget()
        first = ask(PROBLEM).path
        monkeypatch.setattr(identity, "ALGORITHMS", {**identity.ALGORITHMS, kind: 99})
        _forget()
        assert ask(PROBLEM).path != first, kind


def test_products_of_a_killed_run_are_of_one_network(place: Path):
    """The folder of a run's products is named by the whole identity, too."""
    from landscape.analyses.opening import open_problem
    from landscape.curvature.lanczos.journal import journal_name

    def name(**options: Any) -> str:
        _forget()
        return journal_name(open_problem("w.pt", PROBLEM.with_(**options)), "hessian", 1, 0)

    first = name()
    assert name() == first
    assert name(model_arg=("factor=2.0",)) != first
    assert name(loss="cross_entropy") != first
    assert name(batch_size=7) != first  # bits, and not only numbers, are those of one division


# -- the fields of every spec ----------------------------------------------------------------------------------------


def test_every_field_of_the_problem_decides_an_ingredient_or_says_why_not():
    fields = {f.name for f in dataclasses.fields(ProblemSpec)}
    assert set(identity.DECIDES) | set(ProblemSpec._not_in_key) == fields
    assert not set(identity.DECIDES) & set(ProblemSpec._not_in_key)


@pytest.mark.parametrize("spec", [HessianSpec, SharpnessSpec, SurfaceSpec, DomainsSpec, PathSpec])
def test_every_field_of_an_analysis_is_in_or_says_why_not(spec: type[Spec], place: Path):
    from landscape.analyses.opening import open_problem

    problem, plain = open_problem("w.pt", PROBLEM), spec()
    kind = spec.__name__.removesuffix("Spec").lower()
    options = identity.identity(kind, problem, plain, PROBLEM)["options"]
    for field in dataclasses.fields(spec):
        if field.name in plain._later:  # at its default it is what a result of before it was
            assert field.name not in options
            continue
        assert (field.name in options) != (field.name in plain._not_in_key), field.name
    assert all(len(reason.split()) > 2 for reason in plain._not_in_key.values())


def test_a_field_that_came_later_counts_where_it_is_not_at_its_default(place: Path):
    from landscape.analyses.opening import open_problem

    problem = open_problem("w.pt", PROBLEM)
    asked = [HessianSpec(operator="empirical-fisher", unit=u) for u in (None, "example", "prediction")]
    found = [identity.key("hessian", identity.identity("hessian", problem, spec, PROBLEM)) for spec in asked]
    assert len(set(found)) == 3
    assert "unit" not in identity.identity("hessian", problem, asked[0], PROBLEM)["options"]


def test_what_is_asked_of_the_problem_is_what_decides():
    """Each name in `DECIDES` is an ingredient that there is."""
    from cases import domain_data, problem_of, small_mlp

    # What came later stands there where it is asked for.
    problem = problem_of(small_mlp(), domain_data(), weight_decay=0.1, product="exact")
    found = identity.identity("hessian", problem, HessianSpec(), PROBLEM)
    assert set(identity.DECIDES.values()) <= set(found)


def test_a_run_goes_on_with_the_code_that_it_was_made_of(place: Path):
    """A neighbour of the plug-in that changed makes it another training; earlier runs said nothing of neighbours."""
    import landscape
    from landscape.base.errors import UsageError
    from landscape.base.files import read_json, write_json
    from landscape.specs import TrainSpec
    from landscape.training.setup import open_inputs
    from landscape.training.trainer import _hash_of, _without_code

    options: dict[str, Any] = {"model": "m.py:net", "data": "d.py:data", "optimizer": ("sgd",), "steps": 2}
    (run,) = landscape.train("runs", **options)
    _forget()
    assert landscape.train("runs", **options)[0].record["weights_hash"] == run.record["weights_hash"]
    ingredients = open_inputs(TrainSpec(**options))
    record = read_json(run.path / "run.json")
    before = {**record, "ingredients": _without_code(record["ingredients"])}
    (single,) = TrainSpec(**options).runs()
    before["config_hash"] = _hash_of(single, ingredients, before["ingredients"])
    write_json(run.path / "run.json", before)
    _forget()
    landscape.train("runs", **options)
    write_json(run.path / "run.json", record)
    _edit("parts.py", "SLOPE = 1", "SLOPE = 2")
    _forget()
    with pytest.raises(UsageError, match="a run of another configuration"):
        landscape.train("runs", **options)

"""Points of a surface that are evaluated in one pass: the numbers of one at a time, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import domain_data, problem_of, small_mlp
from torch import Tensor, nn

from landscape.base.errors import Interrupted, UsageError
from landscape.models.convnet import convnet
from landscape.problem.problem import Problem
from landscape.surfaces.evaluate import grid, row_cache, stacked
from landscape.surfaces.evaluate.evaluator import Evaluator
from landscape.surfaces.evaluate.stacked import Choice
from landscape.surfaces.surface import surface


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(40, 1, 8, 8), torch.arange(40) % 3


def normalised() -> nn.Module:
    model = small_mlp()
    return nn.Sequential(model[0], nn.BatchNorm1d(model[0].out_features).double(), *model[1:])


class Branching(nn.Module):
    """Looks at a number that depends on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_mlp()

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        return found if bool(found.sum() > -1e9) else -found


class Lying(nn.Module):
    """Other numbers for a row of weights than for one point."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_mlp()

    def forward(self, x: Tensor) -> Tensor:
        alone = not torch._C._functorch.is_batchedtensor(self.inner[0].weight)
        return self.inner(x) * (1.0 if alone else 1.001)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "domains": lambda: problem_of(small_mlp(), domain_data()),
    "several batches": lambda: problem_of(small_mlp(), domain_data(), batch_size=16),
    "some parameters": lambda: problem_of(small_mlp(), domain_data(), params="^0"),
    "weight decay": lambda: problem_of(small_mlp(), domain_data(), weight_decay=0.1),
    "regression": lambda: problem_of(nn.Linear(5, 1), (torch.randn(20, 5), torch.randn(20, 1)), "mse"),
    "kept statistics": lambda: problem_of(normalised(), domain_data(), dtype="float64"),
    "convolutions": lambda: problem_of(convnet((1, 8, 8), 3, (4, 4, 4)), images(), dtype="float64"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plane": {"points": 9},
    "slices": {"dim": 1, "points": 9, "repeats": 8},
    "adaptive": {"points": 13, "adaptive_grid": True},
}


def found_by(way: Choice, problem: Problem, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(grid, "choose", lambda *_: way)
        return surface(problem, bn="keep", **options)


CASES = [*((name, "plane") for name in PROBLEMS), *(("several batches", kind) for kind in OPTIONS if kind != "plane")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_several_points_at_once_have_the_numbers_of_one_at_a_time(name: str, kind: str, monkeypatch):
    problem = PROBLEMS[name]()
    tolerance = 1e-12 if problem.dtype == torch.float64 else 1e-5
    one = found_by(Choice(1, "asked for"), problem, monkeypatch, **OPTIONS[kind])
    for many in (4, 18):
        found = found_by(Choice(many, "asked for"), problem, monkeypatch, **OPTIONS[kind])
        assert found["passes"] == {"at_once": many, "because": "asked for"}
        for variable in one.data.data_vars:
            np.testing.assert_allclose(found.data[variable], one.data[variable], rtol=tolerance, atol=tolerance)
        assert found["restored"]


def test_with_a_test_split(monkeypatch):
    problem = PROBLEMS["domains"]()
    options = {"test": problem.restrict_to_domain("art"), "metrics": ("loss", "test-loss"), "points": 9}
    one, several = (found_by(Choice(k, ""), problem, monkeypatch, **options).data for k in (1, 9))
    assert set(one.data_vars) == {"loss", "test_loss"}
    for variable in one.data_vars:
        np.testing.assert_allclose(several[variable], one[variable], rtol=1e-12)


def chosen(problem: Problem, monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float], **options: Any) -> Any:
    """What is chosen where the clock says so."""
    monkeypatch.setattr(stacked.time, "process_time", clock)
    return surface(problem, **{"points": 9, **options})["passes"]


def clock_of(*seconds: float) -> Callable[[], float]:
    """A clock that has so much passed between its first two readings, the next two, ..."""
    readings = iter([t for k, s in enumerate(seconds) for t in (100.0 * k, 100.0 * k + s)])
    return lambda: next(readings)


def test_the_faster_way_is_taken(monkeypatch):
    problem = PROBLEMS["domains"]()
    fast = chosen(problem, monkeypatch, clock_of(4, 3, 8))  # three points one at a time, nine at once
    assert fast == {"at_once": 9, "because": "measured: faster than one at a time"}
    slow = chosen(problem, monkeypatch, clock_of(3, 4, 9, 8.5))
    assert slow == {"at_once": 1, "because": "measured: as fast as several at once"}
    assert chosen(problem, monkeypatch, clock_of(3, 3, 90)) == slow  # hopeless: not measured twice


REFUSED = {
    "vectorised": (lambda: problem_of(Branching(), domain_data()), {}),
    "other numbers": (lambda: problem_of(Lying(), domain_data()), {}),
    "few points": (PROBLEMS["domains"], {"points": 7}),
    "statistics": (lambda: problem_of(normalised(), domain_data()), {"bn": "recalibrate"}),
    "given together": (
        lambda: problem_of(small_mlp(), domain_data(), lambda o, t: F.cross_entropy(o, t, reduction="none")),
        {},
    ),
    "operations are large": (
        lambda: problem_of(nn.Linear(1000, 500), (torch.randn(40, 1000), torch.arange(40))),
        {},
    ),
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_one_at_a_time_where_anything_speaks_against_it(reason: str, monkeypatch):
    make, options = REFUSED[reason]
    found = chosen(make(), monkeypatch, clock_of(100, 100, 1, 1), **options)
    assert found["at_once"] == 1
    assert reason in found["because"]


def test_without_memory_fewer_points_are_taken(monkeypatch):
    problem = PROBLEMS["domains"]()
    expected = found_by(Choice(1, ""), problem, monkeypatch, points=9).data["loss"]
    plain, sizes = stacked.outputs_at, []

    def short_of_memory(problem: Problem, points: Tensor, batch: Any) -> Tensor:
        sizes.append(len(points))
        if len(points) > 3:
            raise MemoryError
        return plain(problem, points, batch)

    monkeypatch.setattr("landscape.surfaces.evaluate.accumulator.outputs_at", short_of_memory)
    found = found_by(Choice(9, ""), problem, monkeypatch, points=9).data["loss"]
    assert max(sizes) == 9
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_was_chosen_is_kept_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(row_cache, "_SECONDS_BETWEEN_WRITES", 0)
    problem = PROBLEMS["several batches"]()
    whole = found_by(Choice(9, "first"), problem, monkeypatch, points=9)
    plain, calls = Evaluator.over, []

    def over(self: Evaluator, places: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, places)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "over", over)
        with pytest.raises(Interrupted):
            found_by(Choice(9, "first"), problem, patch, points=9, store=tmp_path)
    found = found_by(Choice(1, "second"), problem, monkeypatch, points=9, store=tmp_path)
    assert found["passes"] == {"at_once": 9, "because": "first"}
    assert found.data["loss"].values.tobytes() == whole.data["loss"].values.tobytes()
    (tmp_path / "passes.json").unlink()  # rows of before there was a choice
    assert surface(problem, bn="keep", points=9, store=tmp_path)["passes"]["at_once"] == 1


def test_a_network_is_the_same_afterwards():
    problem = PROBLEMS["kept statistics"]()
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}
    assert surface(problem, points=9, bn="keep")["passes"]["at_once"] >= 1
    assert all(torch.equal(v, before[k]) for k, v in problem.model.state_dict().items())


def test_neighbours_in_a_pass_depend_on_nothing_that_is_stored() -> None:
    """A row's bits may depend on its neighbours: after a kill, or in several processes, they are the same ones."""
    from landscape.surfaces.evaluate.row_cache import RowCache

    names, asked = [f"row{i}" for i in range(7)], []

    def made(few: list[int]) -> list[np.ndarray]:
        asked.append(few)
        return [np.full(2, float(i)) for i in few]

    rows = RowCache(None)
    rows._done = {"row0": np.zeros(2), "row1": np.ones(2), "row2": np.full(2, 2.0), "row4": np.full(2, 4.0)}
    found = rows.compute("rows", names, made, 3)
    assert asked == [[3, 4, 5], [6]]
    assert [row[0] for row in found] == list(range(7))


def test_a_test_split_of_another_network_is_refused() -> None:
    """Its network would not move: every cell had one value."""
    data = (torch.randn(20, 4), torch.arange(20) % 3)
    model = nn.Linear(4, 3)
    problem, other = (Problem(model, data, "cross_entropy") for _ in range(2))
    for name in ("test", "training"):
        with pytest.raises(UsageError, match=rf"problem of another network \(`{name}=`\)"):
            surface(problem, points=5, metrics=("loss",), **{name: other})

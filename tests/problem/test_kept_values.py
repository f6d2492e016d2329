"""Networks that keep values made of their weights between passes, against the same networks without that habit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import assert_untouched, dense, problem_of, small_mlp, snapshot
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.curvature.hessian import hessian
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.m_sharpness import block_sharpness
from landscape.surfaces.surface import surface

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(7, 4, generator=G, dtype=torch.float64), torch.randint(0, 3, (7,), generator=G)


class Plain(nn.Module):
    """A table of weights, indexed and mixed, in front of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

    def made(self) -> Tensor:
        return torch.tanh(self.table[[3, 0, 0, 2]]) + self.table

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x * self.made()))


class InDictionary(Plain):
    """As LeViT's attention: by device, in eval mode, until it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            self.cache = {}
        return super().train(mode)

    def made(self) -> Tensor:
        if str(self.table.device) not in self.cache:
            self.cache[str(self.table.device)] = super().made()
        return self.cache[str(self.table.device)]


class AsAttribute(Plain):
    """Kept where nothing was."""

    kept: Tensor | None = None

    def made(self) -> Tensor:
        if self.kept is None:
            self.kept = super().made()
        return self.kept


class InList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Tensor] = []

    def made(self) -> Tensor:
        if not self.steps:
            self.steps.append(super().made())
        return self.steps[0]


class Detached(Plain):
    """Made without a graph, so that derivatives never see the table; ours is then the same, and not a cache's."""

    def made(self) -> Tensor:
        with torch.no_grad():
            return super().made()


KEEPERS = {"dictionary": InDictionary, "attribute": AsAttribute, "list": InList}


def made(kind: type[Plain]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return kind().double().eval()


def attributes(model: nn.Module) -> dict[str, list[int]]:
    """Which objects the model's attributes are, and which are in its containers."""

    def ids(value: object) -> list[int]:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [id(value), *map(id, inside)]

    return {name: ids(value) for name, value in vars(model).items() if name != "_parameters"}


@pytest.mark.parametrize("before", ["nothing", "no_grad", "graph", "float32"])
@pytest.mark.parametrize("name", KEEPERS)
def test_what_is_kept_is_forgotten(name: str, before: str):
    """Whether the caller has passed something through the network before, with a graph or without, or not."""
    model, plain = made(KEEPERS[name]), made(Plain)
    if before == "float32":
        model = copy.deepcopy(model).float()
        model(X.float())
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
                mine.data = theirs.detach().clone()
    elif before != "nothing":
        with torch.set_grad_enabled(before == "graph"):
            model(X)
    seen, held = snapshot(model), attributes(model)
    problem = problem_of(model, (X, Y), batch_size=4)
    loss, gradient, matrix = dense(plain, X, Y)
    assert problem.loss() == pytest.approx(loss, rel=1e-12)
    assert float((problem.gradient() - gradient).norm() / gradient.norm()) < 1e-11
    v = torch.randn(19, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float((problem.hvp(v) - matrix @ v).norm() / (matrix @ v).norm()) < 1e-11
    top = hessian(problem, top=1, tol=1e-8).record["eigenvalues"][0]
    assert top == pytest.approx(np.linalg.eigvalsh(matrix.numpy())[-1], rel=1e-8)
    slice_ = surface(problem, dim=1, points=3)
    expected = surface(problem_of(plain, (X, Y), batch_size=4), dim=1, points=3)
    np.testing.assert_allclose(slice_.data["loss"], expected.data["loss"], rtol=1e-12)
    assert len(problem.forgotten) == 1
    assert problem.describe()["forgotten_values"] == problem.forgotten
    assert_untouched(model, seen)
    assert attributes(model) == held


@pytest.mark.parametrize("name", KEEPERS)
def test_some_weights_move(name: str):
    model, plain = made(KEEPERS[name]), made(Plain)
    found = problem_of(model, (X, Y), params="table").gradient()
    assert torch.allclose(found, problem_of(plain, (X, Y), params="table").gradient(), rtol=1e-11)
    assert found.abs().min() > 0
    assert problem_of(model, (X, Y), params="head").forgotten == []  # a constant, then


@pytest.mark.parametrize("name", KEEPERS)
def test_single_examples_side_by_side_leave_nothing_behind(name: str):
    rises = []
    for kind in (KEEPERS[name], Plain):
        problem = problem_of(made(kind), (X, Y))
        rises += [
            block_sharpness(problem, [NormBall(0.1)], m=1, way=way)[0].value for way in ("stack", "loop", "stack")
        ]
    assert rises == pytest.approx([rises[-1]] * 6, rel=1e-10)


def test_a_copy_of_a_problem_forgets_in_itself():
    problem = problem_of(made(InDictionary), (X, Y))
    other = problem.with_model(problem.model)
    with other.temporary_weights() as tensors:
        tensors[0].add_(1)
        moved = other.loss()
    assert problem.loss() != moved
    assert len(other.model._forward_hooks) == len(problem.model._forward_hooks)
    assert other.model.cache == problem.model.cache == {}


class Shown(Plain):
    """What every pass leaves for whoever looks, and a table that is no weight's."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = torch.linspace(0.5, 1, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.tanh(x * self.made() * self.rotation)
        return self.head(self.seen)


def test_what_is_made_in_every_pass_stays():
    problem = problem_of(made(Shown), (X, Y), batch_size=7)
    assert problem.forgotten == []
    problem.loss()
    assert problem.model.seen.shape == (7, 4)
    assert problem.model.rotation is not None
    assert problem_of(small_mlp(4), (X, Y)).forgotten == []


def test_a_value_of_other_weights_is_refused():
    """As after loading weights into a network that has been asked before."""
    model = made(InDictionary)
    model(X)
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    with pytest.raises(UsageError, match=r"keeps a value from one pass to the next .*\(cache\): empty it"):
        problem_of(model, (X, Y))
    model.train().eval()
    assert problem_of(model, (X, Y)).loss() == pytest.approx(F.cross_entropy(model(X), Y).item(), rel=1e-12)


def test_a_value_made_without_a_graph_in_every_pass_is_left_alone():
    model = made(Detached)
    problem = problem_of(model, (X, Y), batch_size=7)
    expected = torch.autograd.grad(F.cross_entropy(model(X), Y), list(model.parameters()), allow_unused=True)
    assert problem.forgotten == []
    assert torch.equal(problem.gradient()[:4], torch.zeros(4, dtype=torch.float64))
    assert expected[0] is None

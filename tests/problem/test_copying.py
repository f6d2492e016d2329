"""A network and its copy: the copy computes with its own weights, or is refused; the original stays as it was."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import dense
from torch import Tensor, nn

import landscape
from landscape.base.errors import UsageError
from landscape.problem.copying import copied
from landscape.problem.problem import Problem


class Base(nn.Module):
    """Two layers; others compute the same in ways that reach the original in a plain deep copy."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.tanh(self.a(x)))


class Lambda(Base):
    def __init__(self) -> None:
        super().__init__()
        self.f = lambda x: self.o(torch.tanh(self.a(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Partial(Base):
    def __init__(self) -> None:
        super().__init__()
        self.f = functools.partial(lambda net, x: net.o(torch.tanh(net.a(x))), self)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class InDictionary(Base):
    def __init__(self) -> None:
        super().__init__()
        self.steps = {"first": [lambda x: torch.tanh(self.a(x))], "second": (lambda x: 1.0 * self.o(x),)}

    def forward(self, x: Tensor) -> Tensor:
        return self.steps["second"][0](self.steps["first"][0](x))


class Hook(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.a.register_forward_hook(lambda m, i, o: self.kept.__setitem__("a", o))

    def forward(self, x: Tensor) -> Tensor:
        self.a(x)
        return self.o(torch.tanh(self.kept["a"]))


class Default(Base):
    def __init__(self) -> None:
        super().__init__()

        def f(x: Tensor, net: nn.Module = self) -> Tensor:
            return net.o(torch.tanh(net.a(x)))

        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Wrapped(Base):
    """As libraries wrap a forward: a closure over the bound method before it."""

    def __init__(self) -> None:
        super().__init__()
        before = self.forward

        @functools.wraps(before)
        def forward(x: Tensor) -> Tensor:
            return before(x)

        self.forward = forward


class Bound(Base):
    def __init__(self) -> None:
        super().__init__()
        self.f = types.MethodType(lambda net, x: net.o(torch.tanh(net.a(x))), self)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Holder:
    """An object of the user's that is no module."""

    def __init__(self, net: nn.Module) -> None:
        self.call = lambda x: net.o(torch.tanh(net.a(x)))


class Held(Base):
    def __init__(self) -> None:
        super().__init__()
        self.holder = Holder(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.holder.call(x)


KINDS = (Lambda, Partial, InDictionary, Hook, Default, Wrapped, Bound, Held)


def case(kind: type[Base]) -> tuple[Base, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = kind().double()
    return model, (torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_number_is_that_of_the_callers_own_network(kind: type[Base]):
    """Against the plain network with the same weights, which no function reads from outside."""
    model, data = case(kind)
    plain = Base().double()
    plain.load_state_dict(model.state_dict())
    model(data[0])  # hooks have kept what this pass gave
    problem = Problem(model, data, "mse", device="cpu")
    assert not any(p is q for p in problem.model.parameters() for q in model.parameters())
    matrix = dense(plain, *data, F.mse_loss)[2]
    found = landscape.hessian(problem, top=2, bottom=1, tol=1e-6)
    assert found["eigenvalues"] == pytest.approx(torch.linalg.eigvalsh(matrix).flip(0)[:2].tolist(), rel=1e-6)
    slices = landscape.surface(problem, dim=1, points=3).data["loss"].values
    same = landscape.surface(Problem(plain, data, "mse", device="cpu"), dim=1, points=3).data["loss"].values
    assert slices == pytest.approx(same, rel=1e-12)
    assert abs(slices[0] - slices[1]) > 1e-3
    assert float(torch.linalg.vector_norm(problem.gradient())) == pytest.approx(found["gradient_norm"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_a_plain_deep_copy_would_be_wrong(kind: type[Base]):
    """If this fails, the test above shows nothing (bound methods and partials are copied by Python itself)."""
    model, data = case(kind)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.a.weight.zero_()
        try:
            follows = not torch.equal(other(data[0]), model(data[0]))
        except KeyError:  # its hook has told the original
            follows = False
    assert follows == (kind in (Partial, Bound))


def test_the_original_stays_as_it_was():
    model, data = case(Hook)
    model.train()
    model.a.weight.grad = torch.ones_like(model.a.weight)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    versions = [p._version for p in model.parameters()]
    drawn = torch.get_rng_state()
    Problem(model, data, "mse", device="cpu")
    assert model.training
    assert torch.equal(model.a.weight.grad, torch.ones_like(model.a.weight))
    assert [p._version for p in model.parameters()] == versions
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


_GLOBAL: dict[str, nn.Module] = {}


class Elsewhere(Base):
    """Reads a network by a global name, which no copy can follow."""

    def forward(self, x: Tensor) -> Tensor:
        net = _GLOBAL["net"]
        return self.o(torch.tanh(net.a(x)))


def test_what_a_copy_cannot_follow_is_refused_and_can_be_handed_over():
    model, data = case(Elsewhere)
    _GLOBAL["net"] = model
    with pytest.raises(UsageError, match=r"is not the network.*does not follow its own a\.weight"):
        Problem(model, data, "mse", device="cpu")
    plain = Base().double()
    plain.load_state_dict(model.state_dict())
    found = Problem(model, data, "mse", device="cpu", copy=False).gradient()
    assert torch.allclose(found, Problem(plain, data, "mse", device="cpu").gradient(), rtol=1e-12)


def test_twins_of_what_was_handed_over_are_compared_too():
    model, data = case(Elsewhere)
    _GLOBAL["net"] = model
    problem = Problem(model, data, "mse", device="cpu", copy=False)
    with pytest.raises(UsageError, match="a copy of the network is not the network"):
        problem.twin()


def test_shared_functions_stay_shared():
    model = Lambda()
    model.g = model.f
    other = copied(model)
    assert other.g is other.f
    assert other.f is not model.f


def test_functions_that_hold_nothing_are_not_copied():
    def plain(x: Any) -> Any:
        return x

    model = Base()
    model.f = plain
    assert copied(model).f is plain


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:Sparse CSC")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize("buffer", [True, False])
def test_sparse_tensors_of_a_network_are_copied(layout: torch.layout, buffer: bool):
    """Of compressed rows torch has no deep copy."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, adjacency = nn.Linear(3, 2), torch.eye(5).to_sparse(layout=layout)
            if buffer:
                self.register_buffer("adjacency", adjacency)
            else:
                self.adjacency = adjacency

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(self.adjacency, self.layer(x))

    network = Graph()
    other = copied(network)
    assert other.adjacency is not network.adjacency
    assert other.adjacency.layout == layout
    assert torch.equal(other.adjacency.to_dense(), torch.eye(5))
    assert other.layer.weight is not network.layer.weight

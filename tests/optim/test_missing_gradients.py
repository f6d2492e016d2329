"""Closures without ``backward``, losses that are none, parameters that are reached in some passes or steps only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.optim import SAM, BatchLoss, MicroBatches

from .problems import METHODS, NEED_DOMAINS, ONE_PASS, Nothing, closure_of, sgd, smooth

OWN_BACKWARD = [m for m in METHODS if m not in NEED_DOMAINS]


def two_domains(loss: Tensor) -> BatchLoss:
    return BatchLoss(loss, torch.stack([loss, loss]), torch.tensor([1, 1]))


# -- no backward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OWN_BACKWARD)
@pytest.mark.parametrize("gradients", ["none yet", "of the last step", "zeroed in place"])
def test_a_closure_that_forgets_backward_is_refused(method: str, gradients: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    if gradients != "none yet":
        optimizer.step(closure_of(model))
    before = [p.detach().clone() for p in model.parameters()]

    def closure() -> Tensor:
        if gradients == "zeroed in place":
            optimizer.zero_grad(set_to_none=False)
        return closure_of(model)().mean

    with pytest.raises(UsageError, match=r"left no gradient.*loss.backward\(\)"):
        optimizer.step(closure)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("method", [m for m in OWN_BACKWARD if m not in ONE_PASS])
def test_also_where_only_the_first_pass_calls_it(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    before = [p.detach().clone() for p in model.parameters()]
    calls: list[int] = []

    def closure() -> Tensor:
        loss = closure_of(model)().mean
        if not calls:
            loss.backward()
        calls.append(1)
        return loss

    with pytest.raises(UsageError, match="left no gradient"):
        optimizer.step(closure)
    assert len(calls) == 2
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda loss: loss.item(), "returned a float"),
        (lambda loss: (loss, 1), "returned a tuple"),
        (lambda loss: {"loss": loss}, "returned a dict"),
        (lambda loss: loss * torch.ones(3), r"the loss has shape \(3,\)"),
        (lambda loss: loss * 1j, r"type complex128"),
        (lambda loss: BatchLoss(loss.detach()), "depends on no trainable parameter"),
        (lambda loss: BatchLoss(loss.item()), "a loss that is a float"),
        (lambda loss: BatchLoss(loss * torch.ones(3)), r"the loss has shape \(3,\)"),
        (lambda loss: MicroBatches([loss.detach], [1]), "a loss that is a Tensor"),
        (lambda loss: MicroBatches([lambda: BatchLoss(loss.detach())], [1]), "depends on no trainable parameter"),
    ],
)
def test_what_is_no_loss_is_refused(made: Callable[[Tensor], Any], message: str):
    model = smooth()

    def closure() -> Any:
        loss = closure_of(model)().mean
        returned = made(loss)
        if isinstance(returned, Tensor):
            loss.backward()
        return returned

    with pytest.raises(UsageError, match=message):
        SAM(sgd(model), rho=0.3).step(closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), smooth().parameters(), strict=True))


@pytest.mark.parametrize("method", OWN_BACKWARD)
@pytest.mark.parametrize("own", [True, False])
def test_a_loss_of_shape_one_is_one_number(method: str, own: bool):
    a, b = smooth(), smooth()
    one, other = METHODS[method](sgd(a), rho=0.3), METHODS[method](sgd(b), rho=0.3)

    def closure() -> Any:
        loss = closure_of(a)().mean.reshape(1)
        if not own:
            return BatchLoss(loss)
        one.zero_grad()
        loss.backward()
        return loss

    for _ in range(2):
        loss = one.step(closure)
        assert loss.shape == ()
        assert loss.item() == other.step(closure_of(b)).item()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("method", OWN_BACKWARD)
def test_a_detached_loss_may_be_returned_once_it_is_differentiated(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = closure_of(model)().mean
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), smooth().parameters(), strict=True))


@pytest.mark.parametrize("method", OWN_BACKWARD)
def test_a_loss_that_is_no_number_is_said(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = closure_of(model)().mean * math.nan
        loss.backward()
        return loss

    with pytest.raises(NumericalError, match="not finite"):
        optimizer.step(closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), smooth().parameters(), strict=True))


# -- no gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_a_step_without_any_gradient_moves_nothing_and_is_forgotten(method: str):
    """The loss reaches parameters of somebody else; ordinary steps stand before and after it."""

    def go(visits: tuple[bool, ...]) -> list[Tensor]:
        own, other = (nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
        optimizer = METHODS[method](torch.optim.SGD([("weight", own)], lr=0.1, momentum=0.9), rho=0.3)
        for ours in visits:
            before = own.detach().clone()
            optimizer.step(lambda ours=ours: two_domains(((own if ours else other) ** 2).sum()))
            assert torch.equal(own, before) == (not ours)
        return [own.detach()]

    with_gap, without = go((True, False, True)), go((True, True))
    if method == "looksam":  # every second step is a SAM step, and the step without a gradient was one of them
        without = go((True,))
        assert not torch.equal(with_gap[0], without[0])
        return
    assert torch.equal(with_gap[0], without[0])
    go((False, True))


@pytest.mark.parametrize("method", list(METHODS))
def test_all_frozen_is_a_step_of_nothing(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    optimizer.step(closure_of(model))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
    model.requires_grad_(False)

    def closure() -> BatchLoss:
        made = closure_of(model)()
        return BatchLoss(made.mean + shift, made.domains + shift, made.counts)

    optimizer.step(closure)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("method", list(METHODS))
def test_frozen_between_steps_and_thawed_again(method: str):
    """A parameter that is frozen for some steps is as if it were not there; what was left in .grad does not count."""
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    for frozen in (False, True, True, False):
        model[0].requires_grad_(not frozen)
        before = model[0].weight.detach().clone()
        optimizer.step(closure_of(model))
        assert torch.equal(model[0].weight, before) == frozen
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("method", list(METHODS))
def test_parameters_that_take_turns(method: str):
    """Each step reaches one of two; a memory of the other neither counts nor is lost, and no step fails."""
    a, b = (nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
    optimizer = METHODS[method](torch.optim.SGD([("a.weight", a), ("b.weight", b)], lr=0.1), rho=0.3)
    for chosen, other in ((a, b), (b, a), (a, b), (b, a)):
        optimizer.zero_grad()
        before = other.detach().clone()
        optimizer.step(lambda chosen=chosen: two_domains((chosen**2).sum()))
        if method != "looksam":
            assert torch.equal(other, before)
    assert all(torch.isfinite(p).all() and p.abs().max() < 2 for p in (a, b))


# -- reached elsewhere only ----------------------------------------------------------------------------------------


def routed(w: nn.Parameter, experts: list[nn.Parameter], dense: bool) -> Tensor:
    """The router sends its example to the first expert where w < 1 and to the second elsewhere."""
    gates = (w < 1).double(), (w >= 1).double()
    loss = w.square().sum() / 2
    for gate, expert in zip(gates, experts, strict=True):
        if dense or bool(gate):
            loss = loss + (gate * (expert + 3).square()).sum()
    return loss


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ONE_PASS and m != "entropy-sgd"])
def test_an_expert_that_only_the_second_pass_reaches_has_a_zero_gradient_in_the_first(method: str):
    """The same network where every expert takes part, weighted by a gate that is zero."""
    seen = []
    for dense in (False, True):
        w = nn.Parameter(torch.tensor([0.97], dtype=torch.float64))
        experts = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
        names = ["w.weight", "a.weight", "b.weight"]
        base = Nothing(list(zip(names, [w, *experts], strict=True)))
        optimizer = METHODS[method](base, rho=2.0)

        def closure(dense: bool = dense, w: Any = w, experts: Any = experts) -> BatchLoss:
            return two_domains(routed(w, experts, dense))

        optimizer.step(closure)
        assert [w.item(), *[e.item() for e in experts]] == [0.97, 0, 0]
        seen.append(dict(zip(names, [p.grad for p in (w, *experts)], strict=True)))
    sparse, dense_seen = seen
    assert sparse.keys() == dense_seen.keys()
    for name, g in dense_seen.items():
        found = sparse[name] if sparse[name] is not None else torch.zeros(1, dtype=torch.float64)
        assert torch.allclose(found, g, rtol=0, atol=1e-14), name

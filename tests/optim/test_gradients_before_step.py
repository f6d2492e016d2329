"""What is in ``.grad`` before ``step(closure)``: of no effect, or refused, never mixed into one pass of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.optim import ERM, SAM, BatchLoss

from .problems import METHODS, NEED_DOMAINS, assert_same_bits, batch, close, closure_of, pieces_closure, sgd, smooth

OWN_BACKWARD = [m for m in METHODS if m not in NEED_DOMAINS]
SEVERAL_PASSES = [m for m in OWN_BACKWARD if m != "erm"]
REFUSED = r"adds onto gradients that were there before step\(\).*zero_grad\(\).*MicroBatches"


def loss_of(model: nn.Module, rows: slice = slice(None)) -> Tensor:
    x, y, _ = batch()
    return F.cross_entropy(model(x[rows]), y[rows])


def adding(model: nn.Module, rows: slice = slice(None), share: float = 1.0) -> Callable[[], Tensor]:
    """A closure that zeroes nothing."""

    def closure() -> Tensor:
        loss = loss_of(model, rows) * share
        loss.backward()
        return loss

    return closure


ZEROINGS: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]] = {
    "the optimizer's": lambda model, optimizer: optimizer.zero_grad(),
    "the model's": lambda model, optimizer: model.zero_grad(),
    "in place": lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
    "by hand": lambda model, optimizer: [p.grad.zero_() for p in model.parameters() if p.grad is not None],
}


@pytest.mark.parametrize("method", OWN_BACKWARD)
@pytest.mark.parametrize("zeroing", list(ZEROINGS))
def test_what_the_closure_zeroes_does_not_count(method: str, zeroing: str):
    """A backward of the same batch before the step (davda54's idiom), and what the last step has left."""
    ends = []
    for before in (False, True):
        model = smooth()
        optimizer = METHODS[method](sgd(model), rho=0.3)

        def closure(model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
            ZEROINGS[zeroing](model, optimizer)
            return adding(model)()

        for _ in range(3):
            if before:
                (7 * loss_of(model)).backward()
            optimizer.step(closure)
        ends.append(model.state_dict())
    assert_same_bits(*ends)


@pytest.mark.parametrize("method", SEVERAL_PASSES)
@pytest.mark.parametrize("idiom", ["half before step", "the batch before step", "left by the last step"])
def test_a_closure_that_adds_onto_them_is_refused(method: str, idiom: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    if idiom == "half before step":
        (loss_of(model, slice(0, 8)) / 2).backward()
        closure = adding(model, slice(8, 16), 0.5)
    elif idiom == "the batch before step":
        loss_of(model).backward()
        closure = adding(model)
    else:
        closure = adding(model)
        optimizer.step(closure)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    momentum = {p: s["momentum_buffer"].clone() for p, s in optimizer.state.items()}
    with pytest.raises(UsageError, match=REFUSED):
        optimizer.step(closure)
    assert_same_bits(model.state_dict(), before)
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], v) for p, v in momentum.items())
    assert not any(p._backward_hooks for p in model.parameters())
    optimizer.zero_grad()
    optimizer.step(closure)  # as the message says
    assert close(model, smooth()) > 1e-3


@pytest.mark.parametrize("method", SEVERAL_PASSES)
def test_zeroed_by_the_loop_it_is_right(method: str):
    """A loop that zeroes after each step, around a closure that does not."""
    a, b = smooth(), smooth()
    one, other = METHODS[method](sgd(a), rho=0.3), METHODS[method](sgd(b), rho=0.3)
    for _ in range(3):
        one.step(adding(a))
        one.zero_grad(set_to_none=False)
        other.step(lambda: BatchLoss(loss_of(b)))
    assert close(a, b) < 1e-15


def test_one_pass_adds_as_torch_does():
    a, b = smooth(), smooth()
    plain, wrapped = sgd(a), ERM(sgd(b))
    for _ in range(3):
        for model, optimizer in ((a, plain), (b, wrapped)):
            (loss_of(model, slice(0, 8)) / 2).backward()
            optimizer.step(adding(model, slice(8, 16), 0.5))
            optimizer.zero_grad()
    assert_same_bits(a.state_dict(), b.state_dict())
    assert close(a, smooth()) > 1e-3


@pytest.mark.parametrize("method", [m for m in OWN_BACKWARD if m != "entropy-sgd"])
def test_accumulated_inside_the_closure_it_is_the_batch(method: str):
    whole, parts, pieces = smooth(), smooth(), smooth()
    a, b, c = (METHODS[method](sgd(m), rho=0.3) for m in (whole, parts, pieces))

    def micro_batches() -> Tensor:
        b.zero_grad()
        return torch.stack([adding(parts, slice(s, s + 8), 0.5)().detach() for s in (0, 8)]).sum()

    for _ in range(3):
        a.step(closure_of(whole))
        b.step(micro_batches)
        c.step(pieces_closure(pieces, (8, 8)))
    assert close(whole, parts) < 1e-12
    assert close(whole, pieces) < 1e-12


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("closure", [closure_of, pieces_closure])
def test_a_loss_that_we_differentiate_drops_no_gradient_of_others(method: str, closure: Any):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    optimizer.step(closure(model))
    optimizer.step(closure(model))  # what a step has left is of no use to the next
    before = {k: v.clone() for k, v in model.state_dict().items()}
    (loss_of(model) / 2).backward()  # onto what the step has left
    with pytest.raises(UsageError, match=r"would be lost.*zero_grad\(\) before step\(\).*MicroBatches"):
        optimizer.step(closure(model))
    assert_same_bits(model.state_dict(), before)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step(closure(model))
    assert close(model, smooth()) > 1e-3


def test_after_a_failed_step_the_next_is_an_ordinary_one():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    with pytest.raises(NumericalError):
        optimizer.step(lambda: BatchLoss(loss_of(model) * torch.inf))
    optimizer.step(closure_of(model))
    fresh = smooth()
    SAM(sgd(fresh), rho=0.3).step(closure_of(fresh))
    assert close(model, fresh) == 0


# -- closures that treat gradients in ways of their own ------------------------------------------------------------


def by_hand(model: nn.Module, how: str) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss = loss_of(model)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for p, g in zip(model.parameters(), gradients, strict=True):
            if how == "assigned" or p.grad is None:
                p.grad = g
            else:
                p.grad.add_(g)
        return loss

    return closure


def test_gradients_assigned_by_hand_are_the_closures_own():
    a, b = smooth(), smooth()
    one, other = SAM(sgd(a), rho=0.3), SAM(sgd(b), rho=0.3)
    for _ in range(3):
        one.step(by_hand(a, "assigned"))
        other.step(closure_of(b))
    assert close(a, b) < 1e-15


def test_gradients_added_by_hand_are_refused():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    optimizer.step(by_hand(model, "added"))
    with pytest.raises(UsageError, match=REFUSED):
        optimizer.step(by_hand(model, "added"))


@pytest.mark.parametrize("zeroes", [True, False])
@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_with_a_graph_is_a_new_tensor_and_seen_all_the_same(zeroes: bool):
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)

    def closure() -> Tensor:
        if zeroes:
            optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward(create_graph=True)
        return loss.detach()

    loss_of(model).backward()
    if zeroes:
        optimizer.step(closure)
        fresh = smooth()
        SAM(sgd(fresh), rho=0.3).step(closure_of(fresh))
        assert close(model, fresh) < 1e-15
    else:
        with pytest.raises(UsageError, match=REFUSED):
            optimizer.step(closure)
    model.zero_grad()


@pytest.mark.parametrize("to_none", [True, False])
def test_a_backward_before_the_closure_zeroes_does_not_count(to_none: bool):
    """A closure that differentiates something else first, and then zeroes."""
    a, b = smooth(), smooth()
    one, other = SAM(sgd(a), rho=0.3), SAM(sgd(b), rho=0.3)

    def closure() -> Tensor:
        (loss_of(a) * 3).backward()
        one.zero_grad(set_to_none=to_none)
        return adding(a)()

    for _ in range(3):
        one.step(closure)
        other.step(closure_of(b))
    assert close(a, b) < 1e-15


@pytest.mark.parametrize("first", ["replaces them", "returns a BatchLoss"])
@pytest.mark.parametrize("then", ["adds", "adds with a graph"])
@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_closure_that_changes_its_ways_is_seen(first: str, then: str):
    """Hooks are left out where the last closure had no use for them."""
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)

    def replacing() -> Any:
        if first == "returns a BatchLoss":
            return BatchLoss(loss_of(model))
        optimizer.zero_grad()
        return adding(model)()

    def changed() -> Tensor:
        loss = loss_of(model)
        loss.backward(create_graph=then == "adds with a graph")
        return loss.detach()

    for _ in range(3):
        optimizer.step(replacing)
    with pytest.raises(UsageError, match=REFUSED):
        optimizer.step(changed)
    optimizer.zero_grad()
    optimizer.step(changed)
    with pytest.raises(UsageError, match=REFUSED):
        optimizer.step(changed)
    model.zero_grad()


def test_zero_in_part_of_the_groups_only_is_refused():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    loss_of(model).backward()

    def closure() -> Tensor:
        model[0].zero_grad()
        return adding(model)()

    with pytest.raises(UsageError, match=REFUSED):
        optimizer.step(closure)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_scaler_around_the_step_is_refused(method: str):
    """Its closure would leave gradients that are 2^16 times too large, and nobody to divide them."""
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model)).backward()
    with pytest.raises(UsageError, match=r"scaler=scaler\), and call step\(closure\)"):
        scaler.step(optimizer, closure_of(model))
    assert close(model, smooth()) == 0
    optimizer.zero_grad()
    optimizer.step(closure_of(model))
    assert close(model, smooth()) > 1e-3

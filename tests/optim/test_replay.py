"""A step that knows its micro-batches: the loop's passes are the first, and the others go through them again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from landscape.base.errors import NumericalError, UsageError
from landscape.optim import ERM, SAM, WSAM, BatchLoss
from landscape.optim.core.replay import Replay

from .problems import METHODS, NEED_DOMAINS, assert_same_bits, close, network, pieces_closure, sgd, smooth

SIZES = (5, 5, 6)


def micro_batches(model: Any, optimizer: Any, scaler: Any = None) -> list[Any]:
    """Forward and backward passes, with the weights that `MicroBatches` gives its pieces."""
    pieces = pieces_closure(model, SIZES)()

    def micro_batch(k: int) -> Any:
        def call() -> Tensor:
            made = pieces[k]()
            loss = optimizer.objective(made) if optimizer.needs_domains else made.mean
            loss = loss * SIZES[k] / 16
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss.detach()

        return call

    return [micro_batch(k) for k in range(3)]


def one_step(replay: Replay, calls: list[Any]) -> float:
    return float(torch.stack([replay.run(c, last=c is calls[-1]) for c in calls]).sum())


@pytest.mark.parametrize("method", list(METHODS))
def test_as_with_micro_batches_of_a_closure(method: str):
    """BatchNorm, InstanceNorm and dropout on the way: per micro-batch counted once, drawn alike."""
    ends = []
    for ours in (True, False):
        model = network().train()
        optimizer = METHODS[method](sgd(model), rho=0.3)
        optimizer._seed = 1
        torch.manual_seed(3)
        replay, losses = Replay(optimizer), []
        for _ in range(3):
            if ours:
                losses.append(float(optimizer.step(pieces_closure(model, SIZES))))
            else:
                losses.append(one_step(replay, micro_batches(model, optimizer)))
                optimizer.step()
                optimizer.zero_grad()
        ends.append({**model.state_dict(), "losses": torch.tensor(losses), "random": torch.rand(1)})
    for name, value in ends[0].items():
        assert float((value.double() - ends[1][name].double()).abs().max()) < 1e-12, name


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_scaler_in_the_usual_order(method: str, clip: float | None):
    """scale, unscale_, clip, step, update, as PyTorch's recipe has it."""
    a, b = smooth(), smooth()
    one = METHODS[method](sgd(a), rho=0.3, **({"clip": clip} if clip else {}))
    other = METHODS[method](sgd(b), rho=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    replay = Replay(other, scaler.get_scale)
    for _ in range(3):
        one.step(pieces_closure(a, SIZES))
        one_step(replay, micro_batches(b, other, scaler))
        if clip:
            scaler.unscale_(other)
            torch.nn.utils.clip_grad_norm_(b.parameters(), clip)
        scaler.step(other)
        scaler.update()
        other.zero_grad()
    assert close(a, b) < 1e-12
    assert scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("erm", "vrex")])
@pytest.mark.parametrize("bad", [1, 4])
def test_an_overflow_in_any_pass(method: str, bad: int):
    """The loop's scaler finds it in the update gradient, skips the step and lowers the scale."""
    model, fresh = smooth(), smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    replay = Replay(optimizer, scaler.get_scale)
    calls, count = micro_batches(model, optimizer, scaler), [0]

    def counted(call: Any) -> Any:
        def run() -> Tensor:
            count[0] += 1
            loss = call()
            if count[0] == bad + 3 * (method in NEED_DOMAINS):  # their first pass is gone through twice
                model[0].weight.grad[0, 0] = torch.inf
            return loss

        return run

    one_step(replay, [counted(c) for c in calls])
    assert_same_bits(model.state_dict(), fresh.state_dict())
    scaler.step(optimizer)
    scaler.update()
    assert_same_bits(model.state_dict(), fresh.state_dict())
    assert scaler.get_scale() == 2.0**9
    assert not optimizer.base.state
    optimizer.zero_grad()
    one_step(replay, micro_batches(model, optimizer, scaler))
    scaler.step(optimizer)
    METHODS[method](sgd(fresh), rho=0.3).step(pieces_closure(fresh, SIZES))
    assert close(model, fresh) < 1e-12


def test_without_a_scaler_it_is_an_error():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    Replay(optimizer).run(lambda: [(p.sum() * torch.nan).backward() for p in model.parameters()], last=True)
    with pytest.raises(NumericalError, match="no weight was changed"):
        optimizer.step()
    assert_same_bits(model.state_dict(), smooth().state_dict())


def test_a_micro_batch_that_fails_in_the_second_pass():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    calls, count = micro_batches(model, optimizer), [0]

    def failing() -> Tensor:
        count[0] += 1
        if count[0] == 2:
            raise ValueError("out of memory, say")
        return calls[0]()

    replay = Replay(optimizer)
    with pytest.raises(ValueError, match="say"):
        one_step(replay, [failing, *calls[1:]])
    assert_same_bits(model.state_dict(), smooth().state_dict())
    with pytest.raises(UsageError, match="needs a closure"):
        optimizer.step()
    optimizer.zero_grad()
    one_step(replay, calls)
    optimizer.step()
    fresh = smooth()
    SAM(sgd(fresh), rho=0.3).step(pieces_closure(fresh, SIZES))
    assert close(model, fresh) < 1e-12


@pytest.mark.parametrize("how", ["forgotten", "in place", "set to none"])
def test_gradients_of_the_last_step(how: str):
    """Zeroed they do not count, else they are refused: the other passes would lack them."""
    model, fresh = smooth(), smooth()
    optimizer, other = (SAM(sgd(m), rho=0.3) for m in (model, fresh))
    replay = Replay(optimizer)
    one_step(replay, micro_batches(model, optimizer))
    optimizer.step()
    if how == "forgotten":
        with pytest.raises(UsageError, match="adds onto gradients that were there"):
            one_step(replay, micro_batches(model, optimizer))
        assert not any(p._backward_hooks for p in model.parameters())
        return
    optimizer.zero_grad(set_to_none=how == "set to none")
    one_step(replay, micro_batches(model, optimizer))
    optimizer.step()
    for _ in range(2):
        other.step(pieces_closure(fresh, SIZES))
    assert close(model, fresh) < 1e-12


def test_the_second_of_two_gradients_follows_a_clip_by_norm_only():
    model = smooth()
    optimizer = WSAM(sgd(model), rho=0.3)
    one_step(Replay(optimizer), micro_batches(model, optimizer))
    torch.nn.utils.clip_grad_value_(model.parameters(), 1e-3)
    with pytest.raises(UsageError, match=r"entry by entry.*decouple=False"):
        optimizer.step()
    assert_same_bits(model.state_dict(), smooth().state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: SAM(base, scaler=torch.amp.GradScaler("cpu")), "scaler="),
        (lambda base: SAM(base, micro_batches=True), "micro_batches=True"),
        (lambda base: SAM(base, order=2), "order=2"),
        (type("Own", (SAM,), {"update_gradient": lambda *_: None}), "update_gradient"),
    ],
)
def test_what_only_a_loop_of_ones_own_can_serve(make: Any, message: str):
    with pytest.raises(UsageError, match=message + " works in loops of your own only"):
        Replay(make(sgd(smooth())))


def test_a_step_that_is_not_ready():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    calls = micro_batches(model, optimizer)
    Replay(optimizer).run(calls[0], last=False)
    with pytest.raises(UsageError, match=r"needs a closure .*landscape.integrations"):
        optimizer.step()
    optimizer.zero_grad()
    one_step(Replay(optimizer), calls)
    optimizer.step()
    with pytest.raises(UsageError, match="needs a closure"):
        optimizer.step()


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("scaled", [None, "at step", "before clipping"])
def test_one_pass_steps_as_torch_does(base: str, scaled: str | None):
    """With gradients of anybody's, accumulated or scaled."""
    ends = []
    for wrapped in (False, True):
        model = smooth()
        made: Any = sgd(model) if base == "sgd" else torch.optim.AdamW(model.named_parameters(), lr=0.01)
        optimizer = ERM(made) if wrapped else made
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled is not None)
        for k in range(5):
            for piece in pieces_closure(model, SIZES)():
                loss = piece().mean * (torch.inf if k == 2 and scaled else 1.0)
                scaler.scale(loss).backward()
            if scaled == "before clipping":
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert scaler.get_scale() == (2.0**9 if scaled else 1.0)
        ends.append(model.state_dict())
    assert_same_bits(*ends)
    assert close(model, smooth()) > 1e-3


def test_decay_in_the_pass_of_somebody_else():
    ends = []
    for own in (True, False):
        model = smooth()
        base = torch.optim.SGD(model.named_parameters(), lr=0.1, weight_decay=0.3)
        optimizer = ERM(base, {"weight_decay_in_perturbation": True, "clip": 0.5})
        for _ in range(3):
            closure = lambda model=model: BatchLoss(pieces_closure(model, (16,))()[0]().mean)  # noqa: E731
            if own:
                optimizer.step(closure)
            else:
                optimizer.zero_grad()
                closure().mean.backward()
                optimizer.step()
        ends.append(model.state_dict())
    assert_same_bits(*ends)

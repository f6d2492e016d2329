"""first_step() and second_step(): the same step as step(closure), and every misuse refused."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.optim import ERM, SAM, BatchLoss, EntropySGD, LookSAM

from .problems import (
    METHODS,
    NEED_DOMAINS,
    ONE_PASS,
    assert_same_bits,
    batch,
    close,
    closure_of,
    network,
    sgd,
    smooth,
    torch_closure,
)

TWO_CALLS = [m for m in METHODS if m not in (*ONE_PASS, "sam three steps", "looksam", "entropy-sgd")]


def loss_of(model: nn.Module, optimizer: Any, scaler: Any = None) -> Tensor:
    made = closure_of(model)()
    mean = optimizer.objective(made) if optimizer.needs_domains else made.mean
    return mean if scaler is None else scaler.scale(mean)


def two_calls(model: nn.Module, optimizer: Any, scaler: Any = None) -> None:
    loss_of(model, optimizer, scaler).backward()
    optimizer.first_step(zero_grad=True)
    loss_of(model, optimizer, scaler).backward()
    optimizer.second_step(zero_grad=True)


@pytest.mark.parametrize("method", TWO_CALLS)
@pytest.mark.parametrize(
    "common", [{}, {"clip": 0.1}, {"weight_decay_in_perturbation": True}, {"bn_second_pass": "update"}]
)
def test_as_with_a_closure(method: str, common: dict[str, Any]):
    """BatchNorm's statistics included; dropout apart, which only a closure can draw again."""
    a, b = network().train(), network().train()
    for model in (a, b):
        model[7] = nn.Identity()
    one, other = (METHODS[method](sgd(m), rho=0.3, **common) for m in (a, b))
    for _ in range(4):
        one.step(closure_of(a))
        two_calls(b, other)
        assert all(p.grad is None for p in b.parameters())
    error = {n: float((v.double() - b.state_dict()[n].double()).abs().max()) for n, v in a.state_dict().items()}
    assert max(error.values()) < 1e-12, error
    assert other.gradient_evaluations == 2
    assert int(b.state_dict()["6.num_batches_tracked"]) == (8 if common.get("bn_second_pass") == "update" else 4)


def test_as_davda54_writes_it():
    """The published two calls, written out."""
    model, twin = smooth(), smooth()
    optimizer, base = SAM(sgd(model), rho=0.05), sgd(twin)
    x, y, _ = batch()
    for _ in range(3):
        F.cross_entropy(model(x), y).backward()
        optimizer.first_step(zero_grad=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.second_step(zero_grad=True)

        home = [p.detach().clone() for p in twin.parameters()]
        gradients = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p.add_(g * 0.05 / (norm + 1e-12))
        there = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()))
        with torch.no_grad():
            for p, w, g in zip(twin.parameters(), home, there, strict=True):
                p.copy_(w)
                p.grad = g
        base.step()
    assert close(model, twin) < 1e-14


@pytest.mark.parametrize("method", TWO_CALLS)
def test_frozen_parameters_and_groups(method: str):
    a, b = smooth(), smooth()
    optimizers = []
    for model in (a, b):
        model[0].bias.requires_grad_(False)
        named = list(model.named_parameters())
        groups = [{"params": named[:2]}, {"params": named[2:], "lr": 0.02}]
        optimizers.append(METHODS[method](torch.optim.SGD(groups, lr=0.1), rho=0.3))
    for _ in range(3):
        optimizers[0].step(closure_of(a))
        two_calls(b, optimizers[1])
    assert close(a, b) < 1e-12
    assert torch.equal(b[0].bias, smooth()[0].bias)


@pytest.mark.parametrize("method", TWO_CALLS)
@pytest.mark.parametrize("bad", [None, 1, 2])
def test_with_the_constructors_scaler(method: str, bad: int | None):
    a, b = smooth(), smooth()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    one, other = METHODS[method](sgd(a), rho=0.3), METHODS[method](sgd(b), rho=0.3, scaler=scaler)
    if bad is not None:
        for k in (1, 2):
            (loss_of(b, other, scaler) * (torch.inf if k == bad else 1.0)).backward()
            other.first_step() if k == 1 else other.second_step(zero_grad=True)
        assert other.step_was_skipped
        assert scaler.get_scale() == 2.0**9
        assert_same_bits(b.state_dict(), smooth().state_dict())
    for _ in range(3):
        one.step(closure_of(a))
        two_calls(b, other, scaler)
    assert close(a, b) < 1e-12


@pytest.mark.parametrize("bad", [1, 2])
def test_a_gradient_that_is_not_finite(bad: int):
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    (loss_of(model, optimizer) * (torch.inf if bad == 1 else 1.0)).backward()
    optimizer.first_step()
    (loss_of(model, optimizer) * torch.nan).backward()
    with pytest.raises(NumericalError, match="no weight was changed"):
        optimizer.second_step(zero_grad=True)
    assert_same_bits(model.state_dict(), smooth().state_dict())
    optimizer.zero_grad()
    two_calls(model, optimizer)
    assert close(model, smooth()) > 1e-3


@pytest.mark.parametrize("method", ["sam", "asam", "gsam", "sagm"])
def test_misuse(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)

    def refused(call: Any, message: str) -> None:
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(UsageError, match=message):
            call()
        assert_same_bits(model.state_dict(), before)

    refused(optimizer.second_step, r"second_step\(\) without first_step\(\)")
    refused(optimizer.first_step, r"first_step\(\) without a gradient.*backward\(\)")
    loss_of(model, optimizer).backward()
    optimizer.first_step(zero_grad=True)
    between = r"between first_step\(\) and second_step\(\).*undo_first_step"
    refused(optimizer.second_step, r"second_step\(\) without a gradient")
    refused(optimizer.first_step, r"first_step\(\) " + between)
    refused(optimizer.step, r"step\(\) " + between)
    refused(lambda: optimizer.step(closure_of(model)), r"step\(\) " + between)
    refused(optimizer.state_dict, r"state_dict\(\) " + between)
    refused(lambda: optimizer.load_state_dict({}), r"load_state_dict\(\) " + between)
    refused(lambda: copy.deepcopy(optimizer), "a copy " + between)
    refused(lambda: pickle.dumps(optimizer), "a copy " + between)
    optimizer.undo_first_step()
    assert_same_bits(model.state_dict(), smooth().state_dict())
    refused(optimizer.second_step, "without first_step")
    optimizer.zero_grad()
    two_calls(model, optimizer)
    twin = smooth()
    METHODS[method](sgd(twin), rho=0.3).step(closure_of(twin))
    assert close(model, twin) < 1e-12
    copy.deepcopy(optimizer).state_dict()
    torch.save(optimizer.state_dict(), io.BytesIO())


def test_gradients_that_are_still_there():
    """The idiom without zero_grad would add each step's gradient onto the last."""
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    loss_of(model, optimizer).backward()
    optimizer.first_step()
    loss_of(model, optimizer).backward()
    optimizer.second_step()
    assert all(p.grad is not None for p in model.parameters())
    loss_of(model, optimizer).backward()
    with pytest.raises(UsageError, match=r"still there.*second_step\(zero_grad=True\)"):
        optimizer.first_step()
    optimizer.zero_grad()
    two_calls(model, optimizer)


def test_a_second_pass_that_fails():
    model = network().train()
    optimizer = SAM(sgd(model), rho=0.3)
    before = {k: v.clone() for k, v in model.named_parameters()}
    loss_of(model, optimizer).backward()
    statistics = model[6].running_mean.clone()
    optimizer.first_step()
    model(batch()[0])
    optimizer.undo_first_step()
    assert_same_bits(dict(model.named_parameters()), before)
    assert torch.equal(model[6].running_mean, statistics)
    model(batch()[0])
    assert not torch.equal(model[6].running_mean, statistics)  # and the layers count again


def test_an_optimizer_that_is_dropped_leaves_the_weights_at_home():
    """And the layers count again."""
    model = network().train()
    optimizer = SAM(sgd(model), rho=0.3)
    loss_of(model, optimizer).backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer.first_step()
    assert close(model, network()) > 1e-3
    del optimizer
    gc.collect()
    assert_same_bits(model.state_dict(), before)
    assert not nn.modules.module._global_forward_pre_hooks
    model(batch()[0])
    assert not torch.equal(model[6].running_mean, before["6.running_mean"])


def test_a_parameter_that_the_second_pass_alone_reaches():
    model = smooth()
    optimizer = SAM(sgd(model), rho=0.3)
    x, y, _ = batch()
    F.cross_entropy(model[2](torch.tanh(model[0](x)).detach()), y).backward()
    optimizer.first_step()
    F.cross_entropy(model(x), y).backward()
    optimizer.second_step(zero_grad=True)
    assert not torch.equal(model[0].weight, smooth()[0].weight)


@pytest.mark.parametrize(
    "make",
    [
        LookSAM,
        lambda base: SAM(base, ascent_steps=3),
        lambda base: SAM(base, order=2),
        lambda base: SAM(base, micro_batches=True),
    ],
)
def test_methods_that_do_not_fit_two_calls(make: Any):
    model = smooth()
    optimizer = make(sgd(model))
    closure_of(model)().mean.backward()
    with pytest.raises(UsageError, match=r"call step\(closure\)"):
        optimizer.first_step()
    assert not hasattr(ERM, "first_step")
    assert not hasattr(EntropySGD, "first_step")


@pytest.mark.parametrize("method", sorted(NEED_DOMAINS - {"vrex"}))
def test_domains_have_to_be_shown(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    closure_of(model)().mean.backward()
    with pytest.raises(UsageError, match=r"optimizer.objective\(BatchLoss"):
        optimizer.first_step()


def test_the_value_of_an_objective_is_the_mean_loss():
    model = smooth()
    for method in METHODS:
        optimizer = METHODS[method](sgd(model), rho=0.3)
        made = closure_of(model)()
        assert optimizer.objective(made).item() == pytest.approx(made.mean.item(), rel=1e-14)
        with torch.no_grad():
            assert optimizer.objective(BatchLoss(closure_of(model)().mean)).item() == made.mean.item()


@pytest.mark.parametrize("where", ["first_step", "second_step"])
def test_a_gradient_that_is_unscaled_already_is_refused(where: str):
    """It was divided by the scale twice, without a word."""
    model = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = METHODS["sam"](sgd(model), rho=0.3, scaler=scaler)
    loss_of(model, optimizer, scaler).backward()
    if where == "second_step":
        optimizer.first_step()
        loss_of(model, optimizer, scaler).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(UsageError, match=rf"unscale_\(\) has divided the gradient already \({where}\(\)\)"):
        getattr(optimizer, where)()
    optimizer.undo_first_step()


def test_a_loss_that_the_scaler_has_not_scaled_is_refused():
    model = network()
    optimizer = METHODS["sam"](sgd(model), rho=0.3, scaler=torch.amp.GradScaler("cpu"))
    loss_of(model, optimizer).backward()
    with pytest.raises(UsageError, match=r"has scaled no loss \(first_step\(\)\)"):
        optimizer.first_step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))  # of another network
    optimizer = METHODS["sam"](sgd(model), rho=0.3, scaler=scaler)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(UsageError, match=r"the closure's loss was not scaled"):
        optimizer.step(torch_closure(model, optimizer))
    assert all(map(torch.equal, before, model.parameters()))
    optimizer.step(torch_closure(model, optimizer, scaler))
    assert "scale" not in vars(scaler)

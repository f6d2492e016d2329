"""What every method must do as an optimizer of torch: one set of tests over all of them."""

from __future__ import annotations

import copy
import gc
import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.optim import ASAM, DISAM, FSAM, SAM, BatchLoss

from .problems import (
    METHODS,
    MICRO,
    NEED_DOMAINS,
    ONE_PASS,
    Nothing,
    assert_same_bits,
    close,
    closure_of,
    ends,
    network,
    pieces_closure,
    sgd,
    smooth,
    torch_closure,
)

# -- weights come back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_weights_return_bit_for_bit_into_the_same_storage(method: str):
    model = network().train()
    with torch.no_grad():
        model[1].bias.requires_grad_(False).fill_(0.25)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    pointers = [p.data_ptr() for p in model.parameters()]
    optimizer = METHODS[method](Nothing(model.named_parameters()), rho=0.3)
    for _ in range(10):
        optimizer.step(closure_of(model))
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    assert [p.data_ptr() for p in model.parameters()] == pointers


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ONE_PASS])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_also_when_the_second_pass_fails(method: str, error: type[BaseException]):
    model = network().train()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    pointers = [p.data_ptr() for p in model.parameters()]
    plain, calls, buffers = closure_of(model), [], {}

    def failing() -> BatchLoss:
        calls.append(1)
        loss = plain()
        if len(calls) == 2:
            assert any(not torch.equal(p, before[k]) for k, p in model.named_parameters())
            raise error("in the closure")
        buffers.update({k: b.clone() for k, b in model.named_buffers()})
        return loss

    with pytest.raises(error, match="in the closure"):
        optimizer.step(failing)
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert all(torch.equal(b, buffers[k]) for k, b in model.named_buffers())
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    assert not hooks


@pytest.mark.parametrize("method", list(METHODS))
def test_frozen_parameters_neither_move_nor_count(method: str):
    model = network().train()
    model[5].requires_grad_(False)
    before = model[5].weight.detach().clone()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    for _ in range(3):
        optimizer.step(closure_of(model))
    assert torch.equal(model[5].weight, before)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_zero_gradient_moves_nothing(method: str):
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = METHODS[method](torch.optim.SGD([("weight", p)], lr=0.1), rho=0.3)
    visited = []

    def closure() -> BatchLoss:
        visited.append(p.detach().clone())
        return BatchLoss((p * 0).sum(), torch.stack([(p * 0).sum(), (p * 0).sum()]))

    optimizer.step(closure)
    assert p.tolist() == [1, 2]
    assert visited[-1].tolist() == [1, 2]


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_leaves_the_weights(method: str, bad: float):
    """Section 12, last line: non-finite gradient, weights unchanged after the step (which may also refuse)."""
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = METHODS[method](torch.optim.SGD([("weight", p)], lr=0.1), rho=0.3)
    with suppress(NumericalError):
        optimizer.step(lambda: BatchLoss((p * bad).sum(), torch.stack([(p * bad).sum(), p.sum()])))
    assert p.tolist() == [1, 2]


# -- normalisation layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_running_statistics_are_those_of_the_first_pass(method: str):
    model, twin = network().train(), network().train()
    optimizer = METHODS[method](Nothing(model.named_parameters()), rho=0.5)
    for _ in range(3):
        state = torch.get_rng_state()
        optimizer.step(closure_of(model))
        torch.set_rng_state(state)
        closure_of(twin)()  # what plain forward passes at the same weights do
    assert int(model[6].num_batches_tracked) == 3
    assert int(model[2].num_batches_tracked) == int(twin[2].num_batches_tracked)
    assert not torch.equal(model[2].running_mean, torch.zeros(4).double())
    for (name, a), b in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_frozen_batchnorm_stays_frozen():
    model = network().train()
    model[6].eval()
    before = {k: b.clone() for k, b in model[6].named_buffers()}
    SAM(sgd(model), rho=0.5).step(closure_of(model))
    assert all(torch.equal(b, before[k]) for k, b in model[6].named_buffers())
    assert not model[6].training


def test_batchnorm_momentum_is_left_alone():
    model = network().train()
    SAM(sgd(model), rho=0.5).step(closure_of(model))
    assert model[6].momentum == 0.1


# -- as an optimizer of torch ------------------------------------------------------------------------------------


def test_the_loss_returned_is_that_before_the_step():
    model = network().train()
    torch.manual_seed(1)
    expected = closure_of(copy.deepcopy(model))().mean
    torch.manual_seed(1)
    found = SAM(sgd(model), rho=0.5).step(closure_of(model))
    assert found.item() == expected.item()
    assert not found.requires_grad


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_saving_and_loading_continues_bit_for_bit(method: str, base: str, tmp_path):
    make = {"sgd": sgd, "adam": lambda m: torch.optim.Adam(m.named_parameters(), lr=0.01)}[base]

    def go(interrupted: bool) -> dict[str, Tensor]:
        model = network().train()
        optimizer = METHODS[method](make(model), rho=0.2)
        torch.manual_seed(0)
        for _ in range(3):
            optimizer.step(closure_of(model))
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        if interrupted:
            torch.save({"optimizer": optimizer.state_dict(), "model": model.state_dict()}, tmp_path / "state.pt")
            saved = torch.load(tmp_path / "state.pt", weights_only=True)
            model = network(seed=9).train()
            model.load_state_dict(saved["model"])
            optimizer = METHODS[method](make(model), rho=0.9)
            optimizer.load_state_dict(saved["optimizer"])
            assert optimizer.param_groups is optimizer.base.param_groups
            assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == settings
        torch.manual_seed(1)
        for _ in range(3):
            optimizer.step(closure_of(model))
        return model.state_dict()

    assert_same_bits(go(interrupted=True), go(interrupted=False))


@pytest.mark.parametrize("attached", ["wrapper", "base"])
def test_a_scheduler_on_the_wrapper_drives_the_base(attached: str):
    model = network().train()
    optimizer = SAM(sgd(model, lr=1.0), rho=0.2)
    target = optimizer if attached == "wrapper" else optimizer.base
    scheduler = torch.optim.lr_scheduler.StepLR(target, step_size=1, gamma=0.1)
    rates = []
    for _ in range(3):
        rates.append(optimizer.base.param_groups[0]["lr"])
        before = model[8].bias.detach().clone()
        optimizer.step(closure_of(model))
        assert not torch.equal(model[8].bias, before)
        scheduler.step()
    assert rates == pytest.approx([1, 0.1, 0.01])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_groups_have_radii_of_their_own_and_one_norm():
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double()
    start = [p.detach().clone() for p in model.parameters()]
    base = Nothing([{"params": [model.weight], "rho": 0.1}, {"params": [model.bias]}])
    closure, visited = closure_of(model), []

    def watching() -> BatchLoss:
        visited.append([p.detach() - w for p, w in zip(model.parameters(), start, strict=True)])
        return closure()

    SAM(base, rho=0.7).step(watching)
    g = torch.autograd.grad(closure().mean, list(model.parameters()))
    norm = math.sqrt(sum(float(v.square().sum()) for v in g))
    assert torch.allclose(visited[1][0], 0.1 * g[0] / norm, rtol=1e-12)
    assert torch.allclose(visited[1][1], 0.7 * g[1] / norm, rtol=1e-12)


def test_groups_added_later_are_shared():
    a, b = (nn.Parameter(torch.ones(2).double()) for _ in range(2))
    optimizer = SAM(torch.optim.SGD([a], lr=0.1), rho=0.2)
    optimizer.add_param_group({"params": [b]})
    assert optimizer.base.param_groups[1]["params"] == [b]
    assert optimizer.param_groups[1]["rho"] == 0.2
    optimizer.step(lambda: BatchLoss((a**2).sum() + (b**2).sum()))
    assert torch.equal(a, b)
    assert float(b.detach()[0]) < 1


def test_a_step_needs_a_closure_and_the_closure_a_loss():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(UsageError, match=r"needs a closure \(SAM\)") as caught:
        SAM(torch.optim.SGD([p], lr=0.1)).step()
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="the closure returned a NoneType"):
        SAM(torch.optim.SGD([p], lr=0.1)).step(lambda: None)


@pytest.mark.parametrize("closure", ["torch", "without domains"])
def test_disam_says_what_it_needs(closure: str):
    p = nn.Parameter(torch.ones(2))

    def plain() -> Any:
        loss = p.sum()
        return loss if closure == "torch" else BatchLoss(loss)

    with pytest.raises(UsageError, match=r"needs the loss of each domain.*BatchLoss\(mean, domains, counts\)"):
        DISAM(torch.optim.SGD([p], lr=0.1)).step(plain)


def test_half_precision_gradients_do_not_overflow_the_norm():
    p = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    visited = []

    def closure() -> BatchLoss:
        visited.append(p.detach().clone())
        return BatchLoss((p * 1000).sum())

    SAM(Nothing([p]), rho=0.5).step(closure)
    assert visited[1].tolist() == pytest.approx([0.25] * 4, rel=1e-2)


# -- closures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m not in NEED_DOMAINS])
def test_torchs_convention_gives_the_same_bits(method: str):
    """The closure that calls backward itself, and the one that leaves it to the optimizer."""

    def go(own: bool) -> dict[str, Tensor]:
        model = network().train()
        optimizer = METHODS[method](sgd(model), rho=0.2)
        torch.manual_seed(7)
        for _ in range(4):
            optimizer.step(torch_closure(model, optimizer) if own else closure_of(model))
        return {k: v.clone() for k, v in model.state_dict().items()}

    # SAGM adds g' onto g in one case and g onto g' in the other: the same sum, the same bits.
    assert_same_bits(go(True), go(False))


@pytest.mark.parametrize("method", list(METHODS))
def test_accumulated_pieces_are_one_batch(method: str):
    whole, parts = smooth(), smooth()
    a, b = METHODS[method](sgd(whole), rho=0.3), METHODS[method](sgd(parts), rho=0.3)
    for _ in range(4):
        a.step(closure_of(whole))
        b.step(pieces_closure(parts))
        assert a.gradient_evaluations == b.gradient_evaluations
    assert close(whole, parts) < 1e-12
    assert close(whole, smooth()) > 1e-3


@pytest.mark.parametrize("method", MICRO)
def test_micro_batches_have_a_perturbation_each(method: str):
    """The update gradient is the mean of the pieces' own, weighted by their sizes, also for a smaller last one."""
    sizes = (7, 7, 2)
    model = smooth()
    base = Nothing(model.named_parameters())
    METHODS[method](base, rho=0.3, micro_batches=True).step(pieces_closure(model, sizes))
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for call, size in zip(pieces_closure(model, sizes)(), sizes, strict=True):
        alone = Nothing(model.named_parameters())
        METHODS[method](alone, rho=0.3).step(call)
        expected = [e + g * (size / 16) for e, g in zip(expected, alone.seen[0], strict=True)]
    assert max(float((e - g).abs().max()) for e, g in zip(expected, base.seen[0], strict=True)) < 1e-14
    whole = Nothing(model.named_parameters())
    METHODS[method](whole, rho=0.3).step(pieces_closure(model, (16,)))
    assert max(float((e - g).abs().max()) for e, g in zip(expected, whole.seen[0], strict=True)) > 1e-4


@pytest.mark.parametrize("method", ["fsam", "looksam", "wsam", "entropy-sgd"])
def test_methods_that_remember_refuse_micro_batches(method: str):
    with pytest.raises(UsageError, match="no perturbation per micro-batch"):
        METHODS[method](sgd(smooth()), micro_batches=True)


# -- clipping, mixed precision, dropout --------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_clipping_scales_the_update_gradient(method: str):
    model = smooth()
    free, bound = Nothing(model.named_parameters()), Nothing(model.named_parameters())
    METHODS[method](free, rho=0.3).step(closure_of(model))
    METHODS[method](bound, rho=0.3, clip=0.01).step(closure_of(model))
    if method == "wsam":  # its base receives g only; both parts shrink by one factor
        ratio = float(bound.seen[0][0].norm() / free.seen[0][0].norm())
        assert ratio < 0.1
        return
    flat = torch.cat([g.reshape(-1) for g in bound.seen[0]])
    unclipped = torch.cat([g.reshape(-1) for g in free.seen[0]])
    assert float(flat.norm()) == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(flat / flat.norm(), unclipped / unclipped.norm(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "own_backward"),
    [(m, own) for m in METHODS for own in (False, True) if not (own and m in NEED_DOMAINS)],
)
def test_a_gradient_scaler_changes_nothing(method: str, own_backward: bool):
    """Scaled by a power of two and back, every method makes the same step; 2^10 keeps float64 exact."""
    plain, scaled = network().train(), network().train()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    a, b = METHODS[method](sgd(plain), rho=0.3), METHODS[method](sgd(scaled), rho=0.3, scaler=scaler)
    for _ in range(3):
        state = torch.get_rng_state()
        a.step(closure_of(plain))
        torch.set_rng_state(state)
        b.step(torch_closure(scaled, b, scaler) if own_backward else closure_of(scaled))
    assert scaler.get_scale() == 2.0**10
    for (name, p), q in zip(plain.state_dict().items(), scaled.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    ("method", "bad_pass"), [(m, k) for m in METHODS for k in (1, 2) if k == 1 or m not in ONE_PASS]
)
def test_an_overflow_in_either_pass_skips_the_step(method: str, bad_pass: int):
    """Weights and memory as before, the scale halved, and the next step is an ordinary one."""
    model = smooth()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = METHODS[method](sgd(model), rho=0.3, scaler=scaler)
    before = {k: p.clone() for k, p in model.state_dict().items()}
    plain, calls = closure_of(model), []

    def overflowing() -> BatchLoss:
        calls.append(1)
        loss = plain()
        factor = math.inf if len(calls) == bad_pass else 1.0
        return BatchLoss(loss.mean * factor, loss.domains, loss.counts)

    optimizer.step(overflowing)
    assert optimizer.step_was_skipped
    assert_same_bits(model.state_dict(), before)
    assert scaler.get_scale() == 2.0**9
    assert not optimizer.base.state
    optimizer.step(plain)
    assert not optimizer.step_was_skipped
    fresh = smooth()
    METHODS[method](sgd(fresh), rho=0.3).step(closure_of(fresh))
    assert close(model, fresh) < 1e-15


def test_a_second_mask_when_asked_for():
    """With ``replay=False`` the passes draw dropout masks of their own."""
    same, other = (ends(lambda m, r=r: SAM(sgd(m), rho=0.3, replay=r)) for r in (True, False))
    assert not torch.equal(same["8.weight"], other["8.weight"])
    assert not torch.equal(same["random"], other["random"])


def test_statistics_of_every_pass_when_asked_for():
    model = network().train()
    SAM(sgd(model), rho=0.3, bn_second_pass="update").step(closure_of(model))
    assert int(model[6].num_batches_tracked) == 2


def test_asam_needs_names():
    with pytest.raises(UsageError, match=r"build it with model.named_parameters\(\)"):
        ASAM(torch.optim.SGD(smooth().parameters(), lr=0.1))


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'clipping'"):
        SAM(sgd(smooth()), clipping=1.0)


def test_second_order_sam_differentiates_itself():
    model = smooth()
    optimizer = SAM(sgd(model), order=2)
    with pytest.raises(UsageError, match="return BatchLoss"):
        optimizer.step(torch_closure(model, optimizer))
    with pytest.raises(UsageError, match="one plain step"):
        SAM(sgd(model), order=2, adaptive=True)


def test_the_sample_variance_needs_counts():
    p = nn.Parameter(torch.ones(2))
    optimizer = DISAM(torch.optim.SGD([p], lr=0.1), variance="sample")
    with pytest.raises(UsageError, match="needs the examples of each domain"):
        optimizer.step(lambda: BatchLoss(p.sum(), torch.stack([p[0], p[1]])))


# -- memory ------------------------------------------------------------------------------------------------------

# Copies of the weights alive at the last pass, beside weights, gradient and the base's own state.
COPIES = {
    "sam": 1,
    "sam adaptive": 1,
    "sam three steps": 1,
    "usam": 1,
    "asam": 1,
    "disam": 1,
    "sagm": 1,
    "disam-sagm": 1,
    "gsam": 2,
    "disam-gsam": 2,
    "wsam": 2,
    "fsam": 3,
    "looksam": 3,
    "entropy-sgd": 2,
}


@pytest.mark.parametrize("method", list(COPIES))
def test_memory_beside_the_base_optimizer(method: str):
    """Bytes of all tensors that are alive in any pass of two steps, in multiples of the weights."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(300, 200))
    small = 4096  # what is smaller does not count
    optimizer = METHODS[method](torch.optim.SGD([("weight", weight)], lr=1e-3), rho=0.1)
    most = 0

    def closure() -> BatchLoss:
        nonlocal most
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in gc.get_objects()
            if issubclass(type(t), Tensor) and t.numel() >= small
        }
        most = max(most, sum(storages.values()))
        rows = weight.square().mean(1)  # its backward pass has made no gradient yet
        return BatchLoss(rows.mean(), torch.stack([rows[:100].mean(), rows[100:].mean()]), torch.tensor([100, 200]))

    alive = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.numel() >= small and t is not weight]
    others = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}.values())
    for _ in range(2):
        optimizer.step(closure)
    own = most - others
    extra = own / (weight.numel() * 4) - 1  # less the weights themselves
    gradient = 1 if method in ("sagm", "disam-sagm") else 0  # its .grad is alive then and holds g
    assert extra - gradient <= COPIES[method] + 0.05  # the rest is small: the state of the random numbers
    assert extra >= 0.99


def test_fsam_remembers_the_raw_gradient():
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = FSAM(Nothing([("weight", p)]), rho=0.1, sigma=1.0, lam=0.9)
    for slope in (1.0, 3.0):
        optimizer.step(lambda slope=slope: BatchLoss((p * slope).sum()))
    assert float(optimizer.method_state()["mean"][0]) == pytest.approx(0.9 * 1 + 0.1 * 3)

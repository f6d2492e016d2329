"""Identities that every implementation must satisfy (reference/optimizers.md, section 12)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import mean_cross_entropy
from torch import Tensor, nn

from landscape.errors import NumericalError, UsageError
from landscape.examples import Batch
from landscape.optim.build import build_optimizer
from landscape.optim.disam import DISAM
from landscape.optim.engine import ERM, BatchLoss
from landscape.optim.sagm import SAGM
from landscape.optim.sam import SAM
from landscape.registry import OPTIMIZERS
from landscape.training.augment import Mixed
from landscape.training.steps import BatchLosses

METHODS = {"sam": SAM, "sagm": SAGM, "disam": DISAM}


def network(seed: int = 0) -> nn.Sequential:
    """Dropout, BatchNorm and InstanceNorm with running statistics; float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.4),
        nn.Linear(8, 3),
    ).double()


def batch(domains: tuple[int, ...] = (9, 4, 3)) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    n = sum(domains)
    domain = torch.repeat_interleave(torch.arange(len(domains)), torch.tensor(domains))
    return (
        torch.randn(n, 6, generator=g, dtype=torch.float64) * (1 + domain[:, None]),
        torch.randint(0, 3, (n,), generator=g),
        domain,
    )


def closure_of(model: nn.Module, domains: tuple[int, ...] = (9, 4, 3)) -> Callable[[], BatchLoss]:
    x, y, domain = batch(domains)

    def closure() -> BatchLoss:
        each = F.cross_entropy(model(x), y, reduction="none")
        return BatchLoss(each.mean(), torch.stack([each[domain == i].mean() for i in domain.unique()]))

    return closure


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def ends(make: Callable[[nn.Module], ERM], domains: tuple[int, ...] = (9, 4, 3), steps: int = 4) -> dict[str, Tensor]:
    """State after some steps, the losses, and the next random number."""
    model = network().train()
    optimizer = make(model)
    torch.manual_seed(7)
    losses = torch.stack([optimizer.step(closure_of(model, domains)) for _ in range(steps)])
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return {**state, "losses": losses, "random": torch.rand(1)}


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


class Nothing(torch.optim.Optimizer):
    """A base optimizer that keeps the gradients it is handed and moves nothing."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.seen: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> None:
        self.seen.append([p.grad.clone() for g in self.param_groups for p in g["params"] if p.grad is not None])


# -- one method is another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SAM(sgd(m), rho=0.0),
        lambda m: SAGM(sgd(m), rho=0.0, alpha=0.0),
        lambda m: DISAM(sgd(m), rho=0.0, lam=0.5),
    ],
    ids=list(METHODS),
)
def test_no_radius_is_empirical_risk_minimization(make):
    """Bit for bit: the same dropout masks, running statistics of the first pass, the same random numbers after it."""
    assert_same_bits(ends(make), ends(lambda m: ERM(sgd(m))))


def test_disam_without_variance_is_sam():
    assert_same_bits(ends(lambda m: DISAM(sgd(m), rho=0.2, lam=0.0)), ends(lambda m: SAM(sgd(m), rho=0.2)))


def test_disam_of_one_domain_is_sam():
    one = (16,)
    assert_same_bits(ends(lambda m: DISAM(sgd(m), rho=0.2, lam=0.9), one), ends(lambda m: SAM(sgd(m), rho=0.2), one))


def test_disam_of_several_domains_is_not():
    a, b = ends(lambda m: DISAM(sgd(m), rho=0.2, lam=0.9)), ends(lambda m: SAM(sgd(m), rho=0.2))
    assert float((a["8.weight"] - b["8.weight"]).abs().max()) > 1e-6


def linear_problem() -> tuple[nn.Linear, Callable[[], BatchLoss]]:
    torch.manual_seed(3)
    model = nn.Linear(6, 3).double()
    return model, closure_of(model)


def update_gradient(make: Callable[[Nothing], ERM]) -> Tensor:
    model, closure = linear_problem()
    base = Nothing(model.parameters())
    make(base).step(closure)
    return torch.cat([g.reshape(-1) for g in base.seen[0]])


def test_sagm_without_alpha_is_the_mean_of_both_gradients():
    erm = update_gradient(ERM)
    sam = update_gradient(lambda b: SAM(b, rho=0.3))
    sagm = update_gradient(lambda b: SAGM(b, rho=0.3, alpha=0.0))
    assert torch.allclose(sagm, (erm + sam) / 2, rtol=0, atol=1e-15)
    assert float((erm - sam).norm()) > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 0.5, 40.0])
def test_length_of_the_climb(alpha: float):
    """SAM: rho. SAGM: |rho - alpha |g||; a large alpha turns the climb into a descent."""
    model, closure = linear_problem()
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    visited = []

    def watching() -> BatchLoss:
        visited.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - start)
        return closure()

    SAGM(Nothing(model.parameters()), rho=0.05, alpha=alpha).step(watching)
    g = update_gradient(ERM)
    assert float(visited[0].norm()) == 0
    assert float(visited[1].norm()) == pytest.approx(abs(0.05 - alpha * float(g.norm())), rel=1e-10)
    cosine = float(visited[1] @ g / (visited[1].norm() * g.norm()))
    assert cosine == pytest.approx(math.copysign(1, 0.05 - alpha * float(g.norm())), rel=1e-9)


def test_the_climb_of_disam_is_the_gradient_of_its_objective():
    model, closure = linear_problem()
    loss = closure()
    objective = loss.mean - 0.6 * ((loss.domains - loss.domains.mean()) ** 2).mean()
    d = torch.cat([g.reshape(-1) for g in torch.autograd.grad(objective, list(model.parameters()))])
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    visited = []

    def watching() -> BatchLoss:
        visited.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - start)
        return closure()

    DISAM(Nothing(model.parameters()), rho=0.2, lam=0.6).step(watching)
    assert torch.allclose(visited[1], 0.2 * d / (d.norm() + 1e-12), rtol=0, atol=1e-15)


def test_one_dimensional_quadratic():
    """SAM's G of h w^2 / 2 is h (w + rho sign(h w))."""
    for h, w in ((3.0, 0.7), (-2.0, 0.4), (1.0, -5.0)):
        p = nn.Parameter(torch.tensor([w], dtype=torch.float64))
        base = Nothing([p])
        SAM(base, rho=0.1).step(lambda p=p, h=h: BatchLoss((h * p**2 / 2).sum()))
        assert float(base.seen[0][0]) == pytest.approx(h * (w + 0.1 * math.copysign(1, h * w)), rel=1e-12)


def test_sam_ignores_the_scale_of_the_loss_in_its_climb_and_a_linear_loss_altogether():
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for make in (SAM, SAGM):
        p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        base = Nothing([p])
        make(base, rho=0.3).step(lambda p=p: BatchLoss(p @ direction))
        assert torch.allclose(base.seen[0][0], direction, rtol=1e-14)
    places = []
    for c in (1.0, 1000.0):
        p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        SAM(Nothing([p]), rho=0.3).step(
            lambda p=p, c=c: places.append(p.detach().clone()) or BatchLoss(c * (p**3).sum())
        )
    assert torch.allclose(places[1], places[3], rtol=1e-14)


# -- weights come back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_weights_return_bit_for_bit_into_the_same_storage(method: str):
    model = network().train()
    with torch.no_grad():
        model[1].bias.requires_grad_(False).fill_(0.25)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    pointers = [p.data_ptr() for p in model.parameters()]
    optimizer = METHODS[method](Nothing(model.parameters()), rho=0.3)
    for _ in range(10):
        optimizer.step(closure_of(model))
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    assert [p.data_ptr() for p in model.parameters()] == pointers


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_also_when_the_second_pass_fails(method: str, error: type[BaseException]):
    model = network().train()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    optimizer.step(closure_of(model))
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
    optimizer = METHODS[method](torch.optim.SGD([p], lr=0.1), rho=0.3)
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
    optimizer = METHODS[method](torch.optim.SGD([p], lr=0.1), rho=0.3)
    with suppress(NumericalError):
        optimizer.step(lambda: BatchLoss((p * bad).sum(), torch.stack([(p * bad).sum(), p.sum()])))
    assert p.tolist() == [1, 2]


# -- normalisation layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_running_statistics_are_those_of_the_first_pass(method: str):
    model, twin = network().train(), network().train()
    optimizer = METHODS[method](Nothing(model.parameters()), rho=0.5)
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


# -- as an optimizer of torch ----------------------------------------------------------------------------------------


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
    make = {"sgd": sgd, "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01)}[base]

    def go(interrupted: bool) -> dict[str, Tensor]:
        model = network().train()
        optimizer = METHODS[method](make(model), rho=0.2)
        torch.manual_seed(0)
        for _ in range(3):
            optimizer.step(closure_of(model))
        if interrupted:
            torch.save({"optimizer": optimizer.state_dict(), "model": model.state_dict()}, tmp_path / "state.pt")
            saved = torch.load(tmp_path / "state.pt", weights_only=True)
            model = network(seed=9).train()
            model.load_state_dict(saved["model"])
            optimizer = METHODS[method](make(model), rho=0.9)
            optimizer.load_state_dict(saved["optimizer"])
            assert optimizer.param_groups is optimizer.base.param_groups
            assert optimizer.param_groups[0]["rho"] == 0.2
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


# -- built by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("base", ["sgd", "adam", "adamw"])
def test_built_by_name(name: str, base: str):
    p = nn.Parameter(torch.ones(2))
    settings = {"rho": 0.3, "alpha": 0.2, "lam": 0.4}
    used = {k: v for k, v in settings.items() if k in OPTIMIZERS[name].options}
    own = name if name in ("sgd", "adam", "adamw") else base
    made = build_optimizer(name, [("weight", p)], base=own, lr=0.5, momentum=0.8, weight_decay=0.1, settings=used)
    assert type(made.base) is {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[own]
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)
    assert group.get("momentum") == (0.8 if own == "sgd" else None)
    assert {k: getattr(made, k, group.get(k)) for k in used} == used


@pytest.mark.parametrize("counts", [(9, 4, 3), (16,), (5, 11)])
def test_the_trainers_closure_gives_domain_losses_for_either_kind_of_loss(counts: tuple[int, ...]):
    x, y, domain = batch(counts)
    model = nn.Linear(6, 3).double()
    whole = Batch(x, y, domain + 2)  # domains 0 and 1 are not in the batch
    a = BatchLosses(model, lambda o, t: F.cross_entropy(o, t, reduction="none"), Mixed(whole))()
    b = BatchLosses(model, mean_cross_entropy, Mixed(whole))()
    expected = [F.cross_entropy(model(x[domain == i]), y[domain == i]).item() for i in range(len(counts))]
    for loss in (a, b):
        assert loss.domains.tolist() == pytest.approx(expected, rel=1e-13)
        assert float(loss.mean.detach()) == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-13)
    weights = torch.randn(len(counts), dtype=torch.float64)
    ga, gb = (torch.autograd.grad(v.domains @ weights, model.weight)[0] for v in (a, b))
    assert torch.allclose(ga, gb, atol=1e-15)

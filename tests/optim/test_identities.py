"""Identities that every implementation must satisfy, bit for bit where the arithmetic is the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import mean_cross_entropy
from torch import Tensor, nn

from landscape.data.examples import Batch
from landscape.optim import (
    ASAM,
    DISAM,
    DISAMGSAM,
    DISAMSAGM,
    ERM,
    FSAM,
    GSAM,
    SAGM,
    SAM,
    USAM,
    WSAM,
    BatchLoss,
    LookSAM,
    VREx,
)  # fmt: skip
from landscape.optim.core.build import build_optimizer
from landscape.optim.disam import climb_weights
from landscape.registry import OPTIMIZERS
from landscape.training.augment import MixupBatch
from landscape.training.steps import BatchLosses

from .problems import Nothing, assert_same_bits, batch, closure_of, ends, sgd

# -- one method is another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SAM(sgd(m), rho=0.0),
        lambda m: SAGM(sgd(m), rho=0.0, alpha=0.0),
        lambda m: DISAM(sgd(m), rho=0.0, lam=0.5),
    ],
    ids=["sam", "sagm", "disam"],
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


def test_other_methods_without_a_radius():
    assert_same_bits(ends(lambda m: USAM(sgd(m), rho=0.0)), ends(lambda m: ERM(sgd(m))))
    assert_same_bits(ends(lambda m: WSAM(sgd(m), rho=0.3, gamma=0.0)), ends(lambda m: ERM(sgd(m))))


def test_methods_that_become_sam():
    sam = ends(lambda m: SAM(sgd(m), rho=0.2))
    assert_same_bits(ends(lambda m: GSAM(sgd(m), rho=0.2, alpha=0.0)), sam)
    assert_same_bits(ends(lambda m: FSAM(sgd(m), rho=0.2, sigma=0.0)), sam)
    assert_same_bits(ends(lambda m: LookSAM(sgd(m), rho=0.2, sam_every=1)), sam)
    assert_same_bits(ends(lambda m: SAM(sgd(m), rho=0.2, p="2", ascent_steps=1)), sam)
    first = ends(lambda m: FSAM(sgd(m), rho=0.2, sigma=1.0), steps=1)
    assert_same_bits(first, ends(lambda m: SAM(sgd(m), rho=0.2), steps=1))


def test_vrex_without_variance_is_erm_and_with_it_pulls_domains_together():
    assert_same_bits(ends(lambda m: VREx(sgd(m), lam=0.0)), ends(lambda m: ERM(sgd(m))))
    # L_i = (w - a_i)^2 / 2 at w = 0: gradients -a_i, Var' = (2/M) sum (L_i - mean) (-a_i), by hand.
    a = torch.tensor([1.0, 3.0], dtype=torch.float64)
    for lam in (0.5, 2.0):
        w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = VREx(torch.optim.SGD([w], lr=1.0), lam=lam)

        def closure(w: nn.Parameter = w) -> BatchLoss:
            each = (w - a).square() / 2
            return BatchLoss(each.mean(), each, torch.tensor([5, 5]))

        optimizer.step(closure)
        losses = a.square() / 2
        gradient = -a.mean() + lam * ((losses - losses.mean()) * -a).sum()
        assert w.item() == pytest.approx(-gradient.item(), rel=1e-12)
        assert optimizer.gradient_evaluations == 1


def test_compositions_without_variance():
    assert_same_bits(
        ends(lambda m: DISAMSAGM(sgd(m), rho=0.2, alpha=0.1, lam=0.0)),
        ends(lambda m: SAGM(sgd(m), rho=0.2, alpha=0.1)),
    )
    assert_same_bits(
        ends(lambda m: DISAMGSAM(sgd(m), rho=0.2, alpha=0.1, lam=0.0)),
        ends(lambda m: GSAM(sgd(m), rho=0.2, alpha=0.1)),
    )


def test_constant_gsam_schedule_is_a_constant_radius():
    assert_same_bits(ends(lambda m: GSAM(sgd(m), rho=0.2, rho_min=0.2)), ends(lambda m: GSAM(sgd(m), rho=0.2)))


def close_ends(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def test_wsam_at_one_half_is_sam():
    sam = ends(lambda m: SAM(sgd(m), rho=0.2))
    assert close_ends(ends(lambda m: WSAM(sgd(m), rho=0.2, gamma=0.5, decouple=False)), sam) < 1e-12

    def free(model: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    plain = ends(lambda m: SAM(free(m), rho=0.2))
    assert close_ends(ends(lambda m: WSAM(free(m), rho=0.2, gamma=0.5)), plain) < 1e-12
    assert close_ends(ends(lambda m: WSAM(free(m), rho=0.2, gamma=0.6)), plain) > 1e-4


def test_looksam_without_alpha_is_erm_between_its_sam_steps():
    """Two steps: the first is SAM's; the second, with alpha = 0, is the base step at the same weights."""

    def mixed(model: nn.Module) -> ERM:
        base = sgd(model)
        sam, erm, count = SAM(base, rho=0.2), ERM(base), [0]
        step = erm.step

        def alternating(closure):
            count[0] += 1
            return sam.step(closure) if count[0] % 2 else step(closure)

        erm.step = alternating
        return erm

    assert_same_bits(ends(lambda m: LookSAM(sgd(m), rho=0.2, alpha=0.0, sam_every=2)), ends(mixed))


def test_asam_of_weights_alone_is_elementwise_adaptive_sam():
    """eta = 0 and only parameters called ``weight``; with biases the two differ."""

    def go(make, bias: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8, bias=bias), nn.Tanh(), nn.Linear(8, 3, bias=bias)).double()
        optimizer = make(sgd(model))
        for _ in range(4):
            optimizer.step(closure_of(model))
        return [p.detach() for p in model.parameters()]

    for bias, same in ((False, True), (True, False)):
        a = go(lambda b: ASAM(b, rho=0.5, eta=0.0), bias)
        b = go(lambda b: SAM(b, rho=0.5, adaptive=True), bias)
        distance = max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))
        assert (distance < 1e-10) == same


@pytest.mark.parametrize("make", [lambda b: SAM(b, 0.3, adaptive=True), lambda b: ASAM(b, 0.3, eta=0.0)])
def test_adaptive_climbs_scale_with_the_network(make):
    """A bias-free ReLU net with W1·a, W2/a is the same function and sees the same perturbed loss."""
    losses = []
    for a in (1.0, 5.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(a)
            model[2].weight.div_(a)
        plain, seen = closure_of(model), []

        def watching(plain=plain, seen=seen) -> BatchLoss:
            made = plain()
            seen.append(made.mean.item())
            return made

        make(Nothing(model.named_parameters())).step(watching)
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][1] > losses[0][0] + 1e-3


@pytest.mark.parametrize(("p", "norm"), [("1", 1), ("2", 2), ("inf", math.inf)])
def test_climbs_fill_their_ball(p: str, norm: float):
    model, closure = linear_problem()
    start = torch.cat([q.detach().reshape(-1) for q in model.parameters()])
    visited = []

    def watching() -> BatchLoss:
        visited.append(torch.cat([q.detach().reshape(-1) for q in model.parameters()]) - start)
        return closure()

    SAM(Nothing(model.parameters()), rho=0.2, p=p).step(watching)
    assert float(torch.linalg.vector_norm(visited[1], norm)) == pytest.approx(0.2, rel=1e-10)
    if p == "1":
        assert int((visited[1] != 0).sum()) == 1


def test_the_gap_direction_is_orthogonal_to_the_perturbed_gradient():
    g, there = update_gradient(ERM), update_gradient(lambda b: SAM(b, rho=0.3))
    gsam = update_gradient(lambda b: GSAM(b, rho=0.3, alpha=0.7))
    across = (there - gsam) / 0.7
    assert abs(float(across @ there)) < 1e-11
    assert float(across.norm()) > 1e-3
    assert torch.allclose(g - across, there * (g @ there) / (there @ there), atol=1e-10)


def test_usam_with_sams_scale_is_sam():
    g = update_gradient(ERM)
    usam = update_gradient(lambda b: USAM(b, rho=0.3 / (float(g.norm()) + 1e-12)))
    assert torch.allclose(usam, update_gradient(lambda b: SAM(b, rho=0.3)), rtol=0, atol=1e-12)


def test_second_order_sam_is_the_gradient_of_the_perturbed_loss():
    """Central differences of w -> L(w + e(w)); on a linear loss it is the plain gradient."""
    model, closure = linear_problem()
    parameters = list(model.parameters())

    def perturbed_loss() -> float:
        g = torch.autograd.grad(closure().mean, parameters)
        norm = math.sqrt(sum(float(v.square().sum()) for v in g)) + 1e-12
        with torch.no_grad():
            for p, v in zip(parameters, g, strict=True):
                p.add_(v, alpha=0.3 / norm)
            value = closure().mean.item()
            for p, v in zip(parameters, g, strict=True):
                p.sub_(v, alpha=0.3 / norm)
        return value

    found = update_gradient(lambda b: SAM(b, rho=0.3, order=2))
    expected = []
    for p in parameters:
        for i in range(p.numel()):
            sides = []
            for h in (1e-5, -1e-5):
                with torch.no_grad():
                    p.view(-1)[i] += h
                sides.append(perturbed_loss())
                with torch.no_grad():
                    p.view(-1)[i] -= h
            expected.append((sides[0] - sides[1]) / 2e-5)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-7)
    assert float((found - update_gradient(lambda b: SAM(b, rho=0.3))).norm()) > 1e-3


@pytest.mark.parametrize("variance", ["domain", "sample"])
def test_climb_weights_sum_to_one_and_are_autograds(variance: str):
    model, closure = linear_problem()
    loss = closure()
    counts = loss.counts.double()
    beta = climb_weights(loss.domains.detach(), counts, 0.6, variance)
    assert float(beta.sum()) == pytest.approx(1)
    share = counts / counts.sum()
    if variance == "domain":
        spread = ((loss.domains - loss.domains.mean()) ** 2).mean()
    else:
        spread = share @ (loss.domains - share @ loss.domains) ** 2
    direct = torch.autograd.grad(loss.mean - 0.6 * spread, list(model.parameters()), retain_graph=True)
    mixed = torch.autograd.grad(beta @ loss.domains, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(direct, mixed, strict=True))
    even = torch.full((3,), 4.0)
    same = [climb_weights(loss.domains.detach(), even, 0.6, v) for v in ("domain", "sample")]
    assert torch.allclose(*same, atol=1e-12)


def test_a_far_off_small_domain_gets_a_negative_weight():
    """beta_i < 0 when lam (L_i − mean) > M n_i / (2 N)."""
    beta = climb_weights(torch.tensor([0.1, 0.1, 3.0]), torch.tensor([50.0, 45.0, 5.0]), 1.0)
    assert float(beta[2]) == pytest.approx(0.05 - 2 / 3 * (3.0 - 3.2 / 3))
    assert float(beta[2]) < 0


# -- built by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("base", ["sgd", "adam", "adamw"])
def test_built_by_name(name: str, base: str):
    p = nn.Parameter(torch.ones(2))
    settings = {"rho": 0.3, "alpha": 0.2, "lam": 0.4}
    used = {k: v for k, v in settings.items() if k in OPTIMIZERS[name].options}
    own = name if name in ("sgd", "adam", "adamw") else base
    made = build_optimizer(name, [("weight", p)], base=own, lr=0.5, momentum=0.8, weight_decay=0.1, settings=used)
    assert type(made.base).__mro__[2] is {
        "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW
    }[own]  # fmt: skip
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)
    assert group.get("momentum") == (0.8 if own == "sgd" else None)
    assert {k: getattr(made, k, group.get(k)) for k in used} == used


@pytest.mark.parametrize("counts", [(9, 4, 3), (16,), (5, 11)])
def test_the_trainers_closure_gives_domain_losses_for_either_kind_of_loss(counts: tuple[int, ...]):
    x, y, domain = batch(counts)
    model = nn.Linear(6, 3).double()
    whole = Batch(x, y, domain + 2)  # domains 0 and 1 are not in the batch
    a = BatchLosses(model, lambda o, t: F.cross_entropy(o, t, reduction="none"), MixupBatch(whole))()
    b = BatchLosses(model, mean_cross_entropy, MixupBatch(whole))()
    expected = [F.cross_entropy(model(x[domain == i]), y[domain == i]).item() for i in range(len(counts))]
    for loss in (a, b):
        assert loss.domains.tolist() == pytest.approx(expected, rel=1e-13)
        assert float(loss.mean.detach()) == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-13)
    weights = torch.randn(len(counts), dtype=torch.float64)
    ga, gb = (torch.autograd.grad(v.domains @ weights, model.weight)[0] for v in (a, b))
    assert torch.allclose(ga, gb, atol=1e-15)

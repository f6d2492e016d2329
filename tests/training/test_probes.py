"""Probes: their values against direct computations, and that they leave no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from landscape.data.examples import Batch
from landscape.optim.core.passes import RandomState
from landscape.problem.problem import Problem
from landscape.training.augment import MixupBatch
from landscape.training.probes import PROBES, AscentPoint, sharpness_in_blocks, take, with_domain_names
from landscape.training.steps import BatchLosses

RHO = 0.2


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none")


@pytest.fixture
def point() -> AscentPoint:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y, domain = torch.randn(12, 4).double(), torch.arange(12) % 3, torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    losses = BatchLosses(model, cross_entropy, MixupBatch(Batch(x * (1 + domain[:, None]), y, domain)))
    values = [4.0, 3.0, 2.0, 1.5, 1.0]
    return AscentPoint(losses, list(model.parameters()), RHO, 0.5, 0.1, lambda: values, RandomState.now())


def function(point: AscentPoint):
    """The mean loss as a function of one flat vector, and that vector."""
    model, batch = point.losses.model, point.losses.batch.batch
    names = [k for k, _ in model.named_parameters()]
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def call(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [p.numel() for p in model.parameters()])
        state = {k: v.view_as(p) for k, v, p in zip(names, parts, model.parameters(), strict=True)}
        return cross_entropy(torch.func.functional_call(model, state, (batch.inputs,)), batch.targets)

    return call, start


def gradient(call, w: Tensor) -> Tensor:
    w = w.clone().requires_grad_()
    return torch.autograd.grad(call(w).mean(), w)[0]


def test_gap_alignment_and_variance(point: AscentPoint):
    call, w = function(point)
    g = gradient(call, w)
    there = w + RHO * g / g.norm()
    found = take(
        ["surrogate-gap", "gradient-alignment", "gradient-conflict", "domain-variance", "domain-weights"], point
    )
    h = float(call(there).mean() - call(w).mean())
    assert found["surrogate-gap"]["h"] == pytest.approx(h, rel=1e-10)
    assert found["surrogate-gap"]["h_scaled"] == pytest.approx(2 * h / RHO**2, rel=1e-10)
    assert found["surrogate-gap"]["gradient_norm"] == pytest.approx(float(g.norm()))
    g2 = gradient(call, there)
    cosine = float(g @ g2 / (g.norm() * g2.norm()))
    assert found["gradient-alignment"]["cosine"] == pytest.approx(cosine)
    assert found["gradient-alignment"]["angle"] == pytest.approx(np.degrees(np.arccos(cosine)))
    for name, other in (("cosine_loss", g), ("cosine_perturbed", g2)):
        gap = g2 - g
        expected = float(gap @ other / (gap.norm() * other.norm()))
        assert found["gradient-conflict"][name] == pytest.approx(expected)
    assert found["gradient-conflict"]["ratio"] == pytest.approx(float((g2 - g).norm() / g.norm()))
    assert found["gradient-alignment"]["conflict"] == pytest.approx(float((g * g2 < 0).double().mean()))
    domain = point.losses.batch.batch.domain

    def domain_losses(w: Tensor) -> np.ndarray:
        each = call(w)
        return np.array([float(each[domain == i].mean()) for i in range(3)])

    assert found["domain-variance"]["before"] == pytest.approx(domain_losses(w).var())
    assert found["domain-variance"]["after"] == pytest.approx(domain_losses(there).var())
    beta = np.array([6, 4, 2]) / 12 - 2 * 0.5 / 3 * (domain_losses(w) - domain_losses(w).mean())
    assert list(found["domain-weights"].values()) == pytest.approx(beta.tolist())


def test_second_order_direction(point: AscentPoint):
    """Against autograd through w -> L(w + rho g(w)/|g(w)|)."""
    call, w = function(point)
    leaf = w.clone().requires_grad_()
    g = torch.autograd.grad(call(leaf).mean(), leaf, create_graph=True)[0]
    full = torch.autograd.grad(call(leaf + RHO * g / g.norm()).mean(), leaf)[0]
    first = gradient(call, w + RHO * g.detach() / g.detach().norm())
    found = take(["second-order"], point)["second-order"]
    assert found["cosine"] == pytest.approx(float(full @ first / (full.norm() * first.norm())), rel=1e-8)
    assert found["norm_ratio"] == pytest.approx(float(full.norm() / first.norm()), rel=1e-8)


def test_the_inner_maximum_is_at_least_the_single_step(point: AscentPoint):
    """Against many random points of the ball and a long gradient ascent with small steps."""
    call, w = function(point)
    found = take(["inner-maximum"], point)["inner-maximum"]
    assert 0 < found["fraction"] <= 1
    assert found["one_step"] == pytest.approx(found["fraction"] * found["maximum"])
    here, e = float(call(w).mean()), torch.zeros_like(w)
    for _ in range(400):
        e = e + 0.02 * RHO * (g := gradient(call, w + e)) / g.norm()
        e = e * min(1.0, RHO / float(e.norm()))
    best = float(call(w + e).mean()) - here
    assert found["maximum"] == pytest.approx(best, rel=2e-3)


def test_eigenvalues_and_their_ratio(point: AscentPoint):
    assert take(["eigenvalues"], point)["eigenvalues"]["ratio"] == 4.0


def test_m_sharpness_is_that_of_blocks_that_climb_alone():
    """One example per block, by its own gradient in plain autograd; and domains' losses by name."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(12, 4).double(), torch.arange(12) % 3
    problem = Problem(model, (x, y), "cross_entropy", device="cpu")
    found = sharpness_in_blocks(problem, RHO)
    assert list(found) == ["m_1", "m_12"]  # there are no 16
    rises = []
    for i in range(12):
        w = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}

        def loss(w: dict[str, Tensor], i: int = i) -> Tensor:
            return F.cross_entropy(torch.func.functional_call(model, w, (x[i : i + 1],)), y[i : i + 1])

        g = torch.autograd.grad(loss(w), list(w.values()))
        norm = torch.cat([t.reshape(-1) for t in g]).norm()
        there = {k: v + RHO * t / norm for (k, v), t in zip(w.items(), g, strict=True)}
        rises.append(float((loss(there) - loss(w)).detach()))
    assert found["m_1"] == pytest.approx(np.mean(rises), rel=1e-8)


def test_domains_have_their_names(point: AscentPoint):
    taken = with_domain_names(take(["domain-losses", "domain-variance"], point), ["a", "b", "c"])
    assert list(taken["domain-losses"]) == ["a", "b", "c"]
    variance = np.var(list(taken["domain-losses"].values()))
    assert taken["domain-variance"]["before"] == pytest.approx(variance, rel=1e-9)


def test_probes_leave_no_trace(train):
    """Bit for bit the same weights with every probe at every step, under dropout and batch normalisation."""
    names = tuple(f"{name}@every=1" for name in PROBES)
    (plain,) = train("plain", optimizer=("sagm",), steps=4)
    (probed,) = train("probed", optimizer=("sagm",), steps=4, probe=names)
    a, b = load_file(plain.checkpoint()), load_file(probed.checkpoint())
    assert all(torch.equal(a[k], b[k]) for k in a)
    lines = [line["probes"] for line in probed.metrics() if "probes" in line]
    assert len(lines) == 4
    assert set(lines[0]) == set(PROBES)
    assert set(lines[0]["domain-weights"]) == set(lines[0]["domain-losses"]) == {"a", "b", "c"}
    assert lines[0]["eigenvalues"]["lambda_1"] >= lines[0]["eigenvalues"]["lambda_5"]
    assert plain.record["gradient_evaluations"] == probed.record["gradient_evaluations"]


def test_probes_come_every_so_often(train):
    (run,) = train(probe=("domain-variance@every=3",), steps=7)
    assert [line["step"] for line in run.metrics() if "probes" in line] == [1, 4, 7]

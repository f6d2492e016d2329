"""A complex weight is two real ones: every method is itself on the real view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.numerics.ascent import ascent_step, global_norm, norm_one_by_one
from landscape.optim import SAM, BatchLoss, MicroBatches
from landscape.optim.core.inner_product import inner

from .problems import METHODS, MICRO, NEED_DOMAINS, ONE_PASS

BASES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


class Network(nn.Module):
    """Complex weights beside real ones, as complex numbers or as pairs of real ones."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        w, self.pairs = torch.randn(4, 6, 2, generator=g, dtype=torch.float64), pairs
        phase = torch.randn(4, 2, generator=g, dtype=torch.float64)
        self.weight = nn.Parameter(w if pairs else torch.view_as_complex(w))
        self.phase = nn.Parameter(phase if pairs else torch.view_as_complex(phase))
        self.out = nn.Linear(4, 3).double()
        with torch.no_grad():
            for p in self.out.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        weight, phase = (torch.view_as_complex(p) if self.pairs else p for p in (self.weight, self.phase))
        return self.out(torch.tanh((x.to(weight.dtype) @ weight.T + phase).abs()))

    def numbers(self) -> Tensor:
        real = [torch.view_as_real(p) if p.is_complex() else p for p in self.parameters()]
        return torch.cat([p.detach().reshape(-1) for p in real])


def closure_of(model: Network, rows: slice = slice(None)) -> Callable[[], BatchLoss]:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 6, generator=g, dtype=torch.float64)[rows], torch.randn(12, 3, generator=g).double()[rows]
    domain = torch.arange(12)[rows] % 3

    def closure() -> BatchLoss:
        each = (model(x) - y).square().mean(1)
        means = torch.stack([each[domain == i].mean() for i in range(3)])
        return BatchLoss(each.mean(), means, torch.bincount(domain))

    return closure


def distance(make: Callable[[Any], Any], closure: Any = closure_of, steps: int = 5) -> float:
    """How far the two ways of writing the network end from each other."""
    ends = []
    for pairs in (False, True):
        model = Network(pairs)
        optimizer = make(model)
        torch.manual_seed(4)
        for _ in range(steps):
            optimizer.step(closure(model))
        assert float((model.numbers() - Network(pairs).numbers()).norm()) > 1e-2
        ends.append(model.numbers())
    return float((ends[0] - ends[1]).abs().max())


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("base", list(BASES))
def test_every_method_is_itself_on_pairs_of_real_numbers(method: str, base: str):
    assert distance(lambda m: METHODS[method](BASES[base](m.named_parameters()), rho=0.3)) < 1e-12


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("option", ["clip", "decay", "scaler"])
def test_with_every_option(method: str, option: str):
    def make(model: Network) -> Any:
        common: dict[str, Any] = {
            "clip": {"clip": 0.05},
            "decay": {"weight_decay_in_perturbation": True},
            "scaler": {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**10)},
        }[option]
        return METHODS[method](BASES["sgd"](model.named_parameters()), rho=0.3, **common)

    assert distance(make) < 1e-12


@pytest.mark.parametrize("method", MICRO)
def test_with_a_perturbation_per_micro_batch(method: str):
    def pieces(model: Network) -> Any:
        return lambda: MicroBatches([closure_of(model, slice(0, 7)), closure_of(model, slice(7, 12))], [7, 5])

    make = METHODS[method]
    assert distance(lambda m: make(BASES["sgd"](m.named_parameters()), rho=0.3, micro_batches=True), pieces) < 1e-12


@pytest.mark.parametrize("method", [m for m in METHODS if m not in NEED_DOMAINS])
def test_with_a_closure_of_torchs_convention(method: str):
    def make(model: Network) -> Any:
        optimizer = METHODS[method](BASES["sgd"](model.named_parameters()), rho=0.3)
        step = optimizer.step

        def stepping(closure: Any) -> Tensor:
            def own() -> Tensor:
                optimizer.zero_grad()
                loss = closure().mean
                loss.backward()
                return loss

            return step(own)

        optimizer.step = stepping
        return optimizer

    assert distance(make) < 1e-12


def test_second_order_sam():
    assert distance(lambda m: SAM(BASES["sgd"](m.named_parameters()), rho=0.3, order=2)) < 1e-12


@pytest.mark.parametrize("method", ["fsam", "looksam"])
def test_what_is_remembered_can_be_saved(method: str, tmp_path):
    ends = []
    for interrupted in (False, True):
        model = Network(False)
        optimizer = METHODS[method](BASES["sgd"](model.named_parameters()), rho=0.3)
        for step in range(4):
            if interrupted and step == 2:
                torch.save(optimizer.state_dict(), tmp_path / "state.pt")
                optimizer = METHODS[method](BASES["sgd"](model.named_parameters()), rho=0.9)
                optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            optimizer.step(closure_of(model))
        ends.append(model.numbers())
    assert torch.equal(*ends)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ONE_PASS])
def test_weights_return_bit_for_bit(method: str):
    w = nn.Parameter(torch.tensor([1 + 2j, -0.3j], dtype=torch.complex128))
    optimizer = METHODS[method](torch.optim.SGD([("weight", w)], lr=0.0), rho=0.3)
    before, places = w.detach().clone(), set()

    def closure() -> BatchLoss:
        places.add(tuple(w.tolist()))
        loss = (w - 1 - 2j).abs().pow(2).sum() + w.imag.sum()
        return BatchLoss(loss, torch.stack([loss, loss]), torch.tensor([1, 1]))

    optimizer.step(closure)
    assert torch.equal(w, before)
    assert len(places) >= 2


@pytest.mark.parametrize(("p", "norm"), [("1", 1), ("2", 2), ("inf", torch.inf)])
@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
def test_sam_climbs_its_radius(p: str, norm: float, kind: torch.dtype):
    w = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=kind))
    at = []

    def closure() -> BatchLoss:
        at.append(torch.view_as_real(w.detach()).clone().reshape(-1))
        return BatchLoss((w - 1 - 2j).abs().pow(2).sum())

    SAM(torch.optim.SGD([w], lr=0.1), rho=0.3, p=p).step(closure)
    assert float(torch.linalg.vector_norm(at[1] - at[0], norm)) == pytest.approx(0.3, rel=1e-5)
    if p == "2":
        climbed, uphill = at[1] - at[0], at[0] - torch.tensor([1.0, 2.0] * 3)
        assert torch.allclose(climbed / 0.3, (uphill / uphill.norm()).to(climbed.dtype), rtol=1e-5)


def test_a_lazily_conjugated_gradient_is_a_gradient():
    w = nn.Parameter(torch.tensor([1 + 2j], dtype=torch.complex128))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)

    def closure() -> Tensor:
        w.grad = (2 * w.detach().conj()).resolve_conj().conj()  # 2 w, as a view that is conjugated when read
        assert w.grad.is_conj()
        return w.detach().abs().square().sum()

    optimizer.step(closure)
    assert complex(w.item()) == pytest.approx((1 + 2j) * (1 - 0.2 * (1 + 0.5 / 5**0.5)))


# -- what measures and probes share ----------------------------------------------------------------------------------


def test_norms_and_products_are_those_of_the_real_view():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, generator=g, dtype=torch.complex128) for _ in range(2))
    flat = [torch.view_as_real(t).reshape(-1) for t in (a, b)]
    assert float(global_norm([a, flat[1]])) == pytest.approx(float(torch.cat(flat).norm()), rel=1e-14)
    assert float(norm_one_by_one([a, flat[1]])) == pytest.approx(float(torch.cat(flat).norm()), rel=1e-14)
    assert float(inner([a], [b])) == pytest.approx(float(flat[0] @ flat[1]), rel=1e-14)
    assert float(global_norm([a.to(torch.complex64)])) == pytest.approx(float(flat[0].norm()), rel=1e-6)


@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_ascent_steps_are_those_of_the_real_view(p: str, adaptive: bool):
    g = torch.Generator().manual_seed(0)
    gradient, weights = (torch.randn(5, generator=g, dtype=torch.complex128) for _ in range(2))
    real_g, real_w = torch.view_as_real(gradient), torch.view_as_real(weights)
    (step,) = ascent_step([gradient], 0.3, p=p, weights=[weights] if adaptive else None)
    (expected,) = ascent_step([real_g], 0.3, p=p, weights=[real_w] if adaptive else None)
    assert step.dtype == torch.complex128
    assert torch.equal(torch.view_as_real(step), expected)
    assert float(expected.norm()) > 0.01

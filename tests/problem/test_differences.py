"""Products by differences: right within their bars, for whatever has a gradient, and the weights come back."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import assert_untouched, dense, domain_data, problem_of, small_mlp, snapshot
from random_networks import drawn
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.curvature.hessian import hessian
from landscape.problem.by_differences.either_product import EitherProducts
from landscape.problem.problem import Problem


def norm(v: Tensor) -> float:
    return float(torch.linalg.vector_norm(v))


def is_covered(seed: int) -> bool:
    """Whether every bar of one network covers the truth: of measured products, of others, of eigenvalues."""
    net = drawn(seed)
    problem = problem_of(net.model, net.data, net.loss, product="difference", **net.options)
    made = EitherProducts(problem)
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(problem.n_parameters, generator=generator, dtype=torch.float64) for _ in range(6)]
    others = [norm(made(v).double() - net.matrix @ v) / norm(v) for v in vectors]
    top = torch.linalg.eigh(net.matrix)[1][:, -1]
    good = True
    for v in (vectors[0], top):
        measured = made.measure(v)
        assert measured is not None
        good &= norm(measured.image - net.matrix @ v) <= measured.error
    assert made.differences is not None
    good &= max(others) <= made.differences.precision.error
    found = hessian(problem, top=2, bottom=1, allow_partial=True)
    exact = torch.linalg.eigvalsh(net.matrix)
    for values, bars in (("eigenvalues", "eigenvalue_errors"), ("smallest", "smallest_errors")):
        for value, bar in zip(found[values], found["product"][bars], strict=True):
            good &= float((exact - value).abs().min()) <= bar
    return good


def test_bars_cover_the_truth_in_a_few_random_networks():
    assert sum(map(is_covered, range(6))) >= 5


@pytest.mark.slow
def test_bars_cover_the_truth_in_95_of_100_random_networks():
    assert sum(map(is_covered, range(100))) >= 95


# -- what has no second derivative in the wild, beside the same network in plain operations ------------------------


class _Flash(torch.autograd.Function):
    """Attention as a fused kernel has it: its own backward, which cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        return weights @ v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, weights = ctx.saved_tensors
        inner = g @ v.mT
        scores = weights * (inner - (inner * weights).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        return scores @ k, scores.mT @ q, weights.mT @ g


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


class _Recurrence(torch.autograd.Function):
    """A recurrence as cuDNN has it: what backward needs is kept aside, and torch says that it knows no second."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        with torch.enable_grad():
            ctx.leaves = [t.detach().requires_grad_() for t in (x, w)]
            ctx.found = _recurrence(*ctx.leaves)
        return ctx.found.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return torch.autograd.grad(ctx.found, ctx.leaves, g)


def _recurrence(x: Tensor, w: Tensor) -> Tensor:
    state = torch.zeros_like(x[:, 0])
    for step in x.unbind(1):
        state = torch.tanh(step + state @ w)
    return state


class Attending(nn.Module):
    def __init__(self, attention: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project, self.out, self.attention = nn.Linear(3, 12), nn.Linear(4, 3), attention

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(*self.project(x).chunk(3, -1)).mean(1))


class Recurring(nn.Module):
    def __init__(self, recurrence: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out, self.recurrence = nn.Linear(3, 5), nn.Linear(5, 3), recurrence
        self.w = nn.Parameter(torch.randn(5, 5) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrence(self.into(x), self.w))


def sequences(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, 3, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.arange(40) % 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "fused", "plain"), [(Attending, _Flash, _attention), (Recurring, _Recurrence, _recurrence)]
)
def test_fused_kernels_have_curvature(kind: Any, fused: Any, plain: Any, dtype: torch.dtype):
    x, y = sequences(dtype)
    model = kind(fused.apply).to(dtype)
    exact = torch.linalg.eigvalsh(dense(kind(plain).to(dtype).double(), x.double(), y)[2])
    before = snapshot(model)
    tol = 1e-7 if dtype == torch.float64 else 1e-3
    found = hessian(problem_of(model, (x, y), batch_size=16), top=2, bottom=1, tol=tol)
    assert_untouched(model, before)
    product = found["product"]
    assert product["by"] == "difference"
    assert product["reason"] == f"{fused.__name__} has no second derivative (once_differentiable)"
    pairs = zip([*found["eigenvalues"], *found["smallest"]], [-1, -2, 0], strict=True)
    bars = [*product["eigenvalue_errors"], *product["smallest_errors"]]
    assert all(abs(v - float(exact[i])) <= bar for (v, i), bar in zip(pairs, bars, strict=True))
    assert max(bars) <= tol * found["residual_scale"]
    assert product["relative_error"] < tol
    assert any(product["reason"] in caution for caution in found["cautions"])
    with pytest.raises(NumericalError, match=f"{fused.__name__} has no second derivative"):
        hessian(problem_of(model, (x, y), product="exact"), top=1)


@pytest.mark.slow
def test_compiled_networks_have_curvature_by_differences_of_what_runs_compiled():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    x, y = domain_data()["art"]
    model = nn.Sequential(torch.compile(inner, backend="aot_eager"), nn.Linear(6, 3)).double()
    matrix = dense(nn.Sequential(inner, model[1]), x, y)[2]
    v = torch.randn(len(matrix), dtype=torch.float64)
    for product in ("exact", "difference"):
        found = problem_of(model, (x, y), product=product).hvp(v)
        assert norm(found - matrix @ v) < 1e-8 * norm(matrix @ v)


@pytest.mark.slow
def test_a_function_compiled_for_good_falls_back():
    from functorch.compile import aot_function, nop

    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(5, 6).double(), nn.Linear(6, 3).double()
            self.inner = aot_function(torch.tanh, nop)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.inner(self.a(x)))

    x, y = domain_data()["art"]
    model = Compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch looks at gradients of activations
        model(x)  # compiled for gradients
    plain = nn.Sequential(model.a, nn.Tanh(), model.b)
    matrix = dense(plain, x, y)[2]
    v = torch.randn(len(matrix), dtype=torch.float64)
    problem = Problem(model, (x, y), device="cpu", copy=False)
    assert norm(problem.hvp(v) - matrix @ v) < 1e-8 * norm(matrix @ v)
    assert "a compiled function has no second derivative" in problem.describe()["cautions"][0]


# -- where they are made -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_other_weights_in_parts_and_with_a_penalty(dtype: torch.dtype):
    """Ragged micro-batches, a parameter subset, a domain, a penalty, weights that somebody moved."""
    data = domain_data()
    x, y = (torch.cat([part[i] for part in data.values()]) for i in (0, 1))
    model = small_mlp()
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    problem = problem_of(
        copy.deepcopy(model).to(dtype), data, product="difference", batch_size=9, weight_decay=0.1, params="weight"
    )
    chosen = torch.cat([torch.full((p.numel(),), "weight" in k) for k, p in model.named_parameters()])
    penalty = 0.1 * torch.eye(int(chosen.sum()), dtype=torch.float64)
    v = torch.randn(len(penalty), dtype=torch.float64)

    def expected(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            return (dense(model.to(dtype).double(), x.to(dtype).double(), y)[2][chosen][:, chosen] + penalty) @ v

    def off(problem: Problem, model: nn.Module, x: Tensor, y: Tensor) -> float:
        right = expected(model, x, y)
        return norm(problem.hvp(v).double() - right) / norm(right)

    assert off(problem, copy.deepcopy(model), x, y) < tolerance
    assert off(problem.restrict_to_domain("cartoon"), copy.deepcopy(model), *data["cartoon"]) < tolerance
    moved = copy.deepcopy(model).to(dtype)
    with problem.temporary_weights() as tensors:
        for tensor in tensors:
            tensor.mul_(1.5)
        there = [t.clone() for t in tensors]
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                if "weight" in name:
                    parameter.mul_(1.5)
        assert off(problem, moved, x, y) < tolerance
        assert all(torch.equal(a, b) for a, b in zip(tensors, there, strict=True))
    assert torch.equal(problem.space.current(), problem.weights)


def test_weights_come_back_bit_for_bit_when_it_is_stopped():
    left = [-1]  # passes until one fails

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_mlp().float()

        def forward(self, x: Tensor) -> Tensor:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return self.inner(x)

    x, y = domain_data()["art"]
    problem = problem_of(Fragile(), (x.float(), y), product="difference")
    with torch.no_grad():
        next(iter(problem.model.parameters())).view(-1)[0] = -0.0
    before = [p.detach().clone() for p in problem.model.parameters()]
    for passes in (1, 2, 3, 4, 7, 12):
        left[0] = passes
        with pytest.raises(KeyboardInterrupt):
            problem.hvp(torch.ones(problem.n_parameters))
        for p, b in zip(problem.model.parameters(), before, strict=True):
            assert p.dtype == torch.float32
            assert torch.equal(p.view(torch.int32), b.view(torch.int32))


def test_losses_over_batches_and_objectives():
    x, y = domain_data()["cartoon"]
    model = small_mlp()
    matrix = dense(model, x, y)[2]
    v = torch.randn(len(matrix), dtype=torch.float64)
    over = problem_of(model, (x, y), F.cross_entropy, loss_over="batch", batch_size=10, product="difference")
    assert norm(over.hvp(v) - matrix @ v) < 1e-8 * norm(matrix @ v)  # batches of equal size

    def objective(model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])

    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    problem = Problem(model, batches, objective=objective, device="cpu", product="difference")
    assert norm(problem.hvp(v) - matrix @ v) < 1e-8 * norm(matrix @ v)


def test_a_network_without_float64_says_what_it_cannot_see():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_mlp().float()

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError("this kernel takes float32")
            return self.inner(x)

    x, y = domain_data()["photo"]
    problem = problem_of(Single(), (x.float(), y), product="difference")
    matrix = dense(small_mlp().float().double(), x.float().double(), y)[2]
    v = torch.randn(len(matrix), dtype=torch.float64)
    measured = EitherProducts(problem).measure(v)
    assert measured is not None
    assert norm(measured.image - matrix @ v) <= measured.error < 1e-3 * norm(v)
    assert "kinks that all steps average over are not seen" in problem.describe()["cautions"][0]


def test_a_choice_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="product"):
        problem_of(small_mlp(), domain_data(), product="guess")

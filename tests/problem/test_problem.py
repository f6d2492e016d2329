from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    OUT_OF_MEMORY,
    Coordinates,
    Limited,
    assert_untouched,
    dense,
    domain_data,
    mean_cross_entropy,
    oracle_4a,
    problem_of,
    small_mlp,
    snapshot,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from landscape.base.errors import DataError, NumericalError, ResourceError, UsageError
from landscape.problem.problem import Problem
from landscape.runtime.devices import pick_device


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# -- exactness ---------------------------------------------------------------------------------------------------


def test_ragged_batches_equal_the_dense_reference():
    """Batches of 32, 32 and 6: a mean of batch means would be 69 % off."""
    model, x, y, v = oracle_4a()
    loss, gradient, hessian = dense(model, x, y)
    problem = problem_of(model, (x, y), batch_size=32)
    assert problem.loss() == pytest.approx(loss, rel=1e-14)
    assert relative(problem.gradient(), gradient) < 1e-13
    assert relative(problem.hvp(v), hessian @ v) < 1e-12


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 80), seed=st.integers(0, 10**6))
def test_micro_batches_change_rounding_only(batch: int, seed: int):
    model, x, y, _ = oracle_4a()
    order = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
    v = torch.randn(83, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    whole, parts = problem_of(model, (x, y)), problem_of(model, (x[order], y[order]), batch_size=batch)
    assert parts.loss() == pytest.approx(whole.loss(), rel=1e-12)
    assert parts.evaluate().accuracy == whole.evaluate().accuracy
    assert relative(parts.gradient(), whole.gradient()) < 1e-12
    assert relative(parts.hvp(v), whole.hvp(v)) < 1e-12


def test_linear_regression_closed_form():
    """Oracle 1: L = (1/N)|Xw - y|^2, so Hv = (2/N) X'Xv."""
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(16, 5, generator=g, dtype=torch.float64), torch.randn(16, 1, generator=g, dtype=torch.float64)
    v = torch.randn(5, generator=g, dtype=torch.float64)
    problem = problem_of(nn.Linear(5, 1, bias=False).double(), (x, y), "mse", batch_size=7)
    assert torch.allclose(problem.hvp(v), 2 / 16 * x.T @ (x @ v), rtol=1e-12)


def test_binary_logistic_closed_form():
    """Oracle 2: (1/N) X' diag(s(1-s)) X v."""
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(30, 5, generator=g, dtype=torch.float64), torch.randint(0, 2, (30,), generator=g)
    v = torch.randn(5, generator=g, dtype=torch.float64)
    model = nn.Linear(5, 1, bias=False).double()
    s = torch.sigmoid(model(x)).detach().squeeze(1)
    problem = problem_of(model, (x, y), "bce_with_logits", batch_size=8)
    assert torch.allclose(problem.hvp(v), x.T @ (s * (1 - s) * (x @ v)) / 30, rtol=1e-12)
    assert torch.allclose(problem.gradient(), x.T @ (s - y) / 30, rtol=1e-12)


def test_softmax_linear_closed_form():
    """Oracle 3: mean of (diag p - pp') (x) xx'."""
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(20, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (20,), generator=g)
    model = nn.Linear(4, 3, bias=False).double()
    p = model(x).softmax(1).detach()
    matrix = (
        sum(torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(r, r)) for q, r in zip(p, x, strict=True)) / 20
    )
    problem = problem_of(model, (x, y), batch_size=6)
    columns = torch.stack([problem.hvp(e) for e in torch.eye(12, dtype=torch.float64)])
    assert torch.allclose(columns, matrix, atol=1e-14)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce_with_logits", "nll", "cross_entropy"])
def test_registered_losses_have_the_gradient_of_torchs_own(loss: str):
    x, y = domain_data((23,))["art"]
    model = small_mlp()
    reference = {
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "huber": F.huber_loss,
        "bce_with_logits": F.binary_cross_entropy_with_logits,
        "nll": F.nll_loss,
        "cross_entropy": F.cross_entropy,
    }[loss]
    target = (
        y
        if loss in ("nll", "cross_entropy")
        else torch.rand(23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    value, gradient, hessian = dense(model, x, target, reference)
    problem = problem_of(model, (x, target), loss, batch_size=9)
    assert problem.loss() == pytest.approx(value, rel=1e-13)
    assert torch.allclose(problem.gradient(), gradient, atol=1e-14)
    v = torch.linspace(-1, 1, problem.n_parameters, dtype=torch.float64)
    assert torch.allclose(problem.hvp(v), hessian @ v, atol=1e-13)


def test_zero_hessian_of_a_piecewise_linear_loss():
    problem = problem_of(
        nn.Linear(3, 1).double(), (torch.randn(5, 3).double(), torch.zeros(5, 1).double()), lambda o, t: o.sum(1)
    )
    assert torch.equal(problem.hvp(torch.ones(4, dtype=torch.float64)), torch.zeros(4, dtype=torch.float64))


# -- which parameters --------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """One frozen, one unused and one tied parameter; five that count are three."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4, bias=False)
        self.frozen.weight.requires_grad_(False)
        self.unused = nn.Linear(2, 2, bias=False)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.frozen(torch.tanh(self.second(torch.tanh(self.first(x)))))))


def test_frozen_unused_and_tied_parameters():
    torch.manual_seed(0)
    model = Odd().double()
    x, y = torch.randn(11, 4).double(), torch.randint(0, 3, (11,))
    problem = problem_of(model, (x, y), batch_size=4)
    assert problem.n_parameters == 16 + 4 + 12
    assert problem.space.names == ("first.weight", "unused.weight", "last.weight")
    assert problem.unused_parameters() == ["unused.weight"]
    _, gradient, hessian = dense_by_hand(model, x, y)
    assert torch.allclose(problem.gradient(), gradient, atol=1e-14)
    v = torch.randn(32).double()
    assert torch.allclose(problem.hvp(v), hessian @ v, atol=1e-13)
    assert torch.equal(problem.hvp(v)[16:20], torch.zeros(4).double())


def dense_by_hand(model: Odd, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    def function(w: Tensor) -> Tensor:
        a, last = w[:16].view(4, 4), w[20:].view(3, 4)
        h = torch.tanh(torch.tanh(torch.tanh(x @ a.T) @ a.T) @ model.frozen.weight.detach().T)
        return F.cross_entropy(h @ last.T, y)

    w = torch.cat([model.first.weight.reshape(-1), torch.zeros(4).double(), model.last.weight.reshape(-1)]).detach()
    return (
        function(w),
        torch.autograd.functional.jacobian(function, w),
        torch.autograd.functional.hessian(function, w),
    )


def test_params_selects_a_block_of_the_hessian():
    model, x, y, _ = oracle_4a()
    _, gradient, hessian = dense(model, x, y)
    problem = problem_of(model, (x, y), params=r"^2\.", batch_size=32)
    assert problem.space.names == ("2.weight", "2.bias")
    assert problem.n_parameters == 27
    v = torch.linspace(-1, 1, 27, dtype=torch.float64)
    assert torch.allclose(problem.gradient(), gradient[56:], atol=1e-14)
    assert torch.allclose(problem.hvp(v), hessian[56:, 56:] @ v, atol=1e-13)


def test_params_that_select_nothing_list_what_there_is():
    model, x, y, _ = oracle_4a()
    with pytest.raises(UsageError, match=r"'conv'.*`params=`.*0\.weight, 0\.bias, 2\.weight, 2\.bias") as caught:
        problem_of(model, (x, y), params="conv")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"'\('.*no regular expression"):
        problem_of(model, (x, y), params="(")


def test_a_model_that_is_frozen_altogether_is_refused():
    model, x, y, _ = oracle_4a()
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameter"):
        problem_of(model, (x, y))


# -- domains ---------------------------------------------------------------------------------------------------------


def test_domain_hessians_average_to_the_whole():
    """H = sum (n_i / n) H_i, likewise losses and gradients; counts 9, 20, 13 in batches of 8."""
    data, model = domain_data(), small_mlp()
    problem = problem_of(model, data, batch_size=8)
    v = torch.linspace(-1, 1, problem.n_parameters, dtype=torch.float64)
    parts = [problem.restrict_to_domain(d) for d in data]
    counts = [9, 20, 13]
    assert [p.n_examples for p in parts] == counts
    assert problem.present_domains() == list(data)

    def mean(values: list) -> Tensor:
        return sum(n * value for n, value in zip(counts, values, strict=True)) / 42

    assert mean([p.loss() for p in parts]) == pytest.approx(problem.loss(), rel=1e-13)
    assert torch.allclose(mean([p.gradient() for p in parts]), problem.gradient(), atol=1e-15)
    assert torch.allclose(mean([p.hvp(v) for p in parts]), problem.hvp(v), atol=1e-14)
    for part, (x, y) in zip(parts, data.values(), strict=True):
        assert torch.allclose(part.hvp(v), dense(model, x, y)[2] @ v, atol=1e-13)


def test_evaluation_by_domain_by_hand():
    data, model = domain_data(), small_mlp()
    found = problem_of(model, data, batch_size=8).evaluate()
    losses = {k: F.cross_entropy(model(x), y).item() for k, (x, y) in data.items()}
    assert {k: d.loss for k, d in found.domains.items()} == pytest.approx(losses, rel=1e-13)
    assert {k: d.accuracy for k, d in found.domains.items()} == {
        k: (model(x).argmax(1) == y).sum().item() / len(y) for k, (x, y) in data.items()
    }
    assert found.spread() == pytest.approx(
        (np.mean(list(losses.values())), np.var(list(losses.values())), np.ptp(list(losses.values())))
    )
    assert found.n == 42


def test_an_unknown_domain_suggests_a_known_one():
    problem = problem_of(small_mlp(), domain_data())
    with pytest.raises(UsageError, match=r"unknown domain 'cartoons'.*'cartoon'.*art, cartoon, photo"):
        problem.restrict_to_domain("cartoons")


def test_a_mean_only_loss_answers_as_the_per_example_loss():
    data, model = domain_data(), small_mlp()
    each = problem_of(model, data, batch_size=8)
    mean = problem_of(model, data, mean_cross_entropy, batch_size=8)
    v = torch.linspace(-1, 1, each.n_parameters, dtype=torch.float64)
    a, b = each.evaluate(), mean.evaluate()
    assert b.loss == pytest.approx(a.loss, rel=1e-13)
    assert b.accuracy == a.accuracy
    for name in data:
        assert b.domains[name].loss == pytest.approx(a.domains[name].loss, rel=1e-13)
        assert b.domains[name].accuracy == a.domains[name].accuracy
    assert torch.allclose(mean.gradient(), each.gradient(), atol=1e-15)
    assert torch.allclose(mean.hvp(v), each.hvp(v), atol=1e-15)
    assert mean.loss_name == "mean_cross_entropy"


@pytest.mark.parametrize("result", [lambda o, t: o[:2].sum(1), lambda o, t: 3.0])
def test_a_loss_of_the_wrong_shape_is_named(result):
    with pytest.raises(DataError, match=r"<lambda>.*shape \(n,\), or their mean, shape \(\)") as caught:
        problem_of(small_mlp(), domain_data(), result).loss()
    assert caught.value.exit_code == 3


def test_labels_outside_the_classes_are_refused_at_once():
    x, y = domain_data((9,))["art"]
    with pytest.raises(DataError, match=r"label 7 is outside 0\.\.2"):
        problem_of(small_mlp(), (x, y.index_fill(0, torch.tensor([4]), 7)))
    with pytest.raises(DataError, match=r"label -1 is outside 0\.\.2"):
        problem_of(small_mlp(), (x, y.index_fill(0, torch.tensor([4]), -1)))


# -- inputs of every kind ----------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_mlp(6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.net(torch.cat([a, 2 * b], 1))


def test_tuple_and_dictionary_inputs():
    x = torch.randn(17, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(17) % 3
    model = Two()
    reference = problem_of(model.net, (torch.cat([x[:, :2], 2 * x[:, 2:]], 1), y))
    v = torch.linspace(-1, 1, reference.n_parameters, dtype=torch.float64)
    for inputs in ((x[:, :2], x[:, 2:]), {"b": x[:, 2:], "a": x[:, :2]}):
        problem = problem_of(model, (inputs, y), batch_size=5)
        assert problem.loss() == pytest.approx(reference.loss(), rel=1e-13)
        assert torch.allclose(problem.hvp(v), reference.hvp(v), atol=1e-14)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int):
        return self.x[i], int(self.y[i])


def test_a_dataset_equals_its_tensors():
    data, model = domain_data(), small_mlp()
    a = problem_of(model, data, batch_size=8)
    b = problem_of(model, {k: Pairs(*v) for k, v in data.items()}, batch_size=8)
    v = torch.linspace(-1, 1, a.n_parameters, dtype=torch.float64)
    assert a.data_hash == b.data_hash
    assert a.evaluate() == b.evaluate()
    assert torch.equal(a.hvp(v), b.hvp(v))


def test_random_augmentation_is_frozen_when_the_problem_is_made():
    class Noisy(Pairs):
        def __getitem__(self, i: int):
            return self.x[i] + torch.randn(5).double(), int(self.y[i])

    problem = problem_of(small_mlp(), Noisy(*domain_data((20,))["art"]), batch_size=7)
    assert problem.loss() == problem.loss()


def test_dtype_casts_floats_and_leaves_integers():
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.int64
            return self.out(self.table(x).mean(1))

    model = Embedded()
    tokens, y = torch.randint(0, 9, (12, 5)), torch.arange(12) % 3
    problem = problem_of(model, (tokens, y), dtype="float64")
    assert problem.gradient().dtype == torch.float64
    assert problem.loss() == pytest.approx(
        F.cross_entropy(copy.deepcopy(model).double()(tokens), y).item(), rel=1e-14
    )
    assert next(model.parameters()).dtype == torch.float32


# -- the caller's model ------------------------------------------------------------------------------------------


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)).double()
    model(torch.randn(20, 5).double()).sum().backward()
    model[0].train()
    model[1].eval()
    model[4].bias.requires_grad_(False)
    return model


def use_everything(problem: Problem) -> None:
    problem.evaluate()
    problem.gradient()
    problem.hvp(torch.ones(problem.n_parameters, dtype=torch.float64))
    with problem.temporary_weights() as tensors:
        torch._foreach_add_(tensors, 1.0)
        problem.sums()
    problem.restrict_to_domain(problem.present_domains()[0]).evaluate()
    problem.require_finite()


def test_the_callers_model_is_bit_identical_afterwards():
    model = normed()
    random.seed(5)
    before, python = snapshot(model), random.getstate()
    use_everything(problem_of(model, domain_data(), batch_size=8))
    assert_untouched(model, before)
    assert random.getstate() == python


def test_also_when_the_loss_raises():
    model, calls = normed(), []

    def failing(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        torch.rand(1)
        if made and len(calls) > 2:
            raise ZeroDivisionError("in the user's loss")
        return F.cross_entropy(output, target, reduction="none")

    made: list[Problem] = []
    problem = problem_of(model, domain_data(), failing, batch_size=8)
    made.append(problem)
    calls.clear()
    weights = problem.weights.clone()
    with torch.random.fork_rng(devices=[]):
        before = snapshot(model)
        with pytest.raises(ZeroDivisionError, match="in the user's loss"):
            problem.require_finite()
        calls.clear()
        with pytest.raises(ZeroDivisionError), problem.temporary_weights() as tensors:  # noqa: PT012
            torch._foreach_add_(tensors, 1.0)
            problem.sums()
    before["torch"] = torch.get_rng_state()
    assert_untouched(model, before)
    assert torch.equal(problem.space.current(), weights)


def test_require_finite_gives_the_random_state_back():
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_mlp()

        def forward(self, x: Tensor) -> Tensor:
            np.random.rand()  # noqa: NPY002
            return self.inner(x) + 0 * torch.rand(1).double()

    problem = problem_of(Drawing(), domain_data())
    before = snapshot(problem.model)
    problem.require_finite()
    assert_untouched(problem.model, before)


def test_a_ctrl_c_inside_an_excursion_restores_the_weights():
    problem = problem_of(small_mlp(), domain_data())
    pointers = [t.data_ptr() for t in problem.space.tensors]
    with pytest.raises(KeyboardInterrupt), problem.temporary_weights() as tensors:  # noqa: PT012
        torch._foreach_mul_(tensors, 3.0)
        raise KeyboardInterrupt
    assert torch.equal(problem.space.current(), problem.weights)
    assert [t.data_ptr() for t in problem.space.tensors] == pointers


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, 64])
def test_running_out_of_memory_halves_the_batches_and_nothing_else(limit: int, caplog):
    model, x, y, v = oracle_4a()
    whole = problem_of(model, (x, y))
    tight = problem_of(Limited(model, limit), (x, y))
    assert tight.loss() == pytest.approx(whole.loss(), rel=1e-12)
    assert relative(tight.gradient(), whole.gradient()) < 1e-12
    assert relative(tight.hvp(v), whole.hvp(v)) < 1e-12
    assert limit / 2 < tight.batch_size <= limit
    assert f"micro-batches of {tight.batch_size}" in caplog.text


@pytest.mark.parametrize("first", ["gradient", "hvp"])
def test_every_product_survives_running_out_of_memory(first: str):
    model, x, y, v = oracle_4a()
    whole, tight = problem_of(model, (x, y)), problem_of(Limited(model, 9), (x, y))
    call = (lambda p: p.gradient()) if first == "gradient" else (lambda p: p.hvp(v))
    assert relative(call(tight), call(whole)) < 1e-12


def test_memory_that_does_not_hold_one_example_is_a_resource_error():
    model, x, y, _ = oracle_4a()

    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.full = model, False

        def forward(self, x: Tensor) -> Tensor:
            if self.full:
                raise RuntimeError(OUT_OF_MEMORY)
            return self.inner(x)

    problem = problem_of(Never(), (x, y), batch_size=16)
    problem.model.full = True
    with pytest.raises(ResourceError, match="one example at a time") as caught:
        problem.loss()
    assert caught.value.exit_code == 5


# -- numbers that are none, and second derivatives ------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_refused_but_evaluated():
    problem = problem_of(
        Coordinates(torch.ones(2, 2).double()),
        (torch.zeros(3, 1).double(), torch.zeros(3).double()),
        lambda o, t: o.sum(1) * torch.nan,
    )
    assert np.isnan(problem.evaluate().loss)
    with pytest.raises(NumericalError, match=r"the loss at the weights is nan \(3 examples\)") as caught:
        problem.require_finite()
    assert caught.value.exit_code == 4


def test_a_product_that_is_not_finite_is_refused():
    problem = problem_of(
        Coordinates(torch.zeros(1, 2).double()),
        (torch.zeros(3, 1).double(), torch.zeros(3).double()),
        lambda o, t: o.square().sum(1).sqrt(),
    )
    with pytest.raises(NumericalError, match="not finite"):
        problem.hvp(torch.ones(2).double())


def test_an_operation_without_second_derivative_is_named():
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return torch.segment_reduce(output.square().reshape(-1), "sum", lengths=torch.full((len(output),), 2))

    model, data = Coordinates(torch.ones(1, 2).double()), (torch.zeros(6, 1).double(), torch.arange(6))
    exact = problem_of(model, data, loss, product="exact")
    with pytest.raises(NumericalError, match="_segment_reduce_backward has no second derivative") as caught:
        exact.hvp(torch.ones(exact.n_parameters))
    assert caught.value.exit_code == 4
    problem = problem_of(model, data, loss)  # a sum of squares
    v = torch.tensor([1.0, -3.0]).double()
    assert torch.allclose(problem.hvp(v), 2 * v, rtol=1e-8)
    assert "_segment_reduce_backward has no second derivative" in problem.describe()["cautions"][0]


class OnceTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


def test_a_once_differentiable_function_is_no_zero_hessian():
    """`torch.autograd.grad(..., allow_unused=True)` stops silently there (reference/curvature.md, 4.3)."""

    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 4).double(), nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(OnceTanh.apply(self.a(x)))

    torch.manual_seed(0)

    class Plain(Once):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

    model, data = Once(), domain_data((12,))["art"]
    exact = problem_of(model, data, product="exact")
    v = torch.ones(exact.n_parameters).double()
    with pytest.raises(NumericalError, match="second derivative"):
        exact.hvp(v)
    plain = Plain()
    plain.load_state_dict(model.state_dict())
    assert relative(problem_of(model, data).hvp(v), dense(plain, *data)[2] @ v) < 1e-8


def test_fused_attention_is_replaced_by_the_plain_one():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 3)
            self.mha = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.mha(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    problem = problem_of(Attention().double(), (torch.randn(7, 3, 4).double(), torch.arange(7) % 3), batch_size=3)
    v = torch.randn(problem.n_parameters).double()
    h = 1e-5
    ends = []
    for sign in (1, -1):
        with problem.temporary_weights():
            problem.space.write(problem.weights + sign * h * v)
            with torch.enable_grad():
                ends.append(problem.gradient())
    assert relative(problem.hvp(v), (ends[0] - ends[1]) / (2 * h)) < 1e-7


def test_a_problem_says_what_it_is():
    assert repr(problem_of(small_mlp(), domain_data())) == (
        "<Problem Sequential: 57 parameters, cross_entropy over 42 examples in 3 domains, float64 on cpu>"
    )


def test_wrappers_are_taken_off():
    model, x, y, v = oracle_4a()
    assert torch.equal(problem_of(nn.DataParallel(model), (x, y)).hvp(v), problem_of(model, (x, y)).hvp(v))


# -- provenance ------------------------------------------------------------------------------------------------------


def test_provenance_says_what_was_analysed():
    data = domain_data()
    facts = problem_of(small_mlp(), data, mean_cross_entropy, batch_size=8, params="2").describe()
    assert facts["n_examples"] == 42
    assert facts["domain_counts"] == {"art": 9, "cartoon": 20, "photo": 13}
    assert facts["parameter_names"] == ["2.weight", "2.bias"]
    assert facts["n_parameters"] == 21
    assert facts["loss_function"] == "mean_cross_entropy"
    assert (facts["params"], facts["micro_batch"], facts["dtype"], facts["device"], facts["mode"]) == (
        "2",
        8,
        "float64",
        "cpu",
        "eval",
    )
    assert facts["torch"] == torch.__version__


def test_weights_hash_follows_one_changed_weight_or_buffer():
    model = normed()
    first = problem_of(model, domain_data()).weights_hash
    assert problem_of(copy.deepcopy(model), domain_data()).weights_hash == first
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-12
    second = problem_of(model, domain_data()).weights_hash
    model[1].running_mean[0] += 1e-12
    assert len({first, second, problem_of(model, domain_data()).weights_hash}) == 3


def test_of_domain_has_a_data_hash_of_its_own():
    problem = problem_of(small_mlp(), domain_data())
    whole = problem.data_hash
    assert (
        len({whole, problem.restrict_to_domain("art").data_hash, problem.restrict_to_domain("photo").data_hash}) == 3
    )
    assert problem.data_hash == whole


def test_a_device_that_is_absent_is_never_replaced_silently():
    assert pick_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match=r"CUDA is not available.*`device='cuda'`.*`device='cpu'`") as caught:
        Problem(small_mlp(), domain_data(), device="cuda")
    assert caught.value.exit_code == 2

"""Train mode: refused while anything is random, and with replayed draws a function like any other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import OUT_OF_MEMORY, assert_untouched, domain_data, problem_of, snapshot
from torch import nn

import landscape
from landscape.base.errors import ResourceError, UsageError
from landscape.problem.modes import require_fixed, set_mode


class Dropping(nn.Module):
    """BatchNorm, dropout as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.drop = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3)
        self.last = nn.Linear(6, 3)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.last(self.drop(torch.tanh(self.norm(self.first(x))))), 0.1, self.training)


class Normed(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
        self.double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*domain_data().values(), strict=True)
    return torch.cat(x), torch.cat(y)


def test_whatever_draws_is_named():
    with pytest.raises(UsageError, match=r"drop draws random numbers.*`mode='train'`.*`replay_seed=N`") as caught:
        problem_of(Dropping(), data(), mode="train")
    assert caught.value.exit_code == 2

    class Plain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(x, 0.5, self.training)

    model = Plain().train()
    with pytest.raises(UsageError, match="the forward draws"):
        require_fixed(model, lambda: model(torch.ones(3)))


def test_batch_statistics_alone_need_no_seed():
    """The Hessian of the loss with batch statistics, one batch, against torch's own on the same function."""
    model, (x, y) = Normed(), data()
    problem = problem_of(model, (x, y), mode="train")
    reference = Normed().train()
    reference[1].track_running_stats = False
    named = dict(reference.named_parameters())

    def loss(*weights: torch.Tensor) -> torch.Tensor:
        w = dict(zip(named, weights, strict=True))
        return F.cross_entropy(torch.func.functional_call(reference, w, (x,)), y)

    parts = torch.autograd.functional.hessian(loss, tuple(p.detach() for p in named.values()))
    sizes = [p.numel() for p in named.values()]
    matrix = torch.cat([torch.cat([b.reshape(n, -1) for b in row], 1) for n, row in zip(sizes, parts, strict=True)])
    found = landscape.hessian(problem, top=3, bottom=1, tol=1e-8)
    values = torch.linalg.eigvalsh(matrix)
    assert found["eigenvalues"] == pytest.approx(values.flip(0)[:3].tolist(), abs=1e-8)
    assert found["smallest"] == pytest.approx(values[:1].tolist(), abs=1e-8)
    assert (found["mode"], found["replay_seed"]) == ("train", None)
    eval_mode = landscape.hessian(problem_of(model, (x, y)), top=3)
    assert eval_mode["eigenvalues"][0] != pytest.approx(found["eigenvalues"][0], rel=1e-2)


def test_replayed_draws_make_one_function():
    """Against central differences of the gradient, each with its own pass; other seeds are other functions."""
    problem = problem_of(Dropping(), data(), batch_size=16, mode="train", replay_seed=3)
    v = torch.randn(problem.n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v /= v.norm()
    ends = []
    for sign in (1, -1):
        with problem.temporary_weights() as tensors:
            torch._foreach_add_(tensors, problem.space.split(v), alpha=sign * 1e-5)
            ends.append(problem.gradient())
    difference = (ends[0] - ends[1]) / 2e-5
    assert float((problem.hvp(v) - difference).norm()) < 1e-6 * float(difference.norm())
    found = landscape.hessian(problem, top=2, tol=1e-8)
    assert found["symmetry_error"] < 1e-12
    assert found["eigenvalues"] == landscape.hessian(problem, top=2, tol=1e-8)["eigenvalues"]
    other = problem_of(Dropping(), data(), batch_size=16, mode="train", replay_seed=4)
    assert landscape.hessian(other, top=1)["eigenvalues"][0] != pytest.approx(found["eigenvalues"][0], rel=1e-3)


def test_buffers_model_and_random_state_stay():
    model = Dropping()
    problem = problem_of(model, data(), batch_size=16, mode="train", replay_seed=3)
    own = {k: b.clone() for k, b in problem.model.named_buffers()}
    before = snapshot(model)
    first = problem.evaluate().loss
    assert problem.evaluate().loss == first
    landscape.hessian(problem, top=1)
    for k, b in problem.model.named_buffers():
        assert torch.equal(b, own[k]), k
    assert_untouched(model, before)


def test_a_copy_is_hooked_once_and_an_error_leaves_no_trace():
    problem = problem_of(Dropping(), data(), mode="train", replay_seed=3)
    again = problem.with_model(problem.model)
    hooks = again.model._forward_pre_hooks, again.model._forward_hooks
    assert [len(h) for h in hooks] == [len(problem.model._forward_pre_hooks), len(problem.model._forward_hooks)]
    assert again.evaluate().loss == problem.evaluate().loss
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        problem.model(torch.ones(2, 4).double())
    assert torch.equal(torch.get_rng_state(), state)
    assert problem.evaluate().loss == again.evaluate().loss
    count = len(problem.model._forward_pre_hooks)
    set_mode(problem.model, "eval")
    assert len(problem.model._forward_pre_hooks) == count - 1


def test_a_micro_batch_of_one_has_no_statistics():
    with pytest.raises(UsageError, match=r"BatchNorm has no statistics of 1 example.*`batch_size=`"):
        problem_of(Normed(), data(), batch_size=41, mode="train").evaluate()


def test_micro_batches_are_never_halved_unasked():
    problem = problem_of(Normed(), data(), mode="train")
    with pytest.raises(ResourceError, match="give a smaller `batch_size=`"):
        problem.shrink_after(RuntimeError(OUT_OF_MEMORY))

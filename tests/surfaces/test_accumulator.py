"""Passes that are reduced together: the bits of one pass at a time, and never for a loss that might mix examples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import domain_data, problem_of, small_mlp
from torch import nn

from landscape.problem.problem import Problem
from landscape.surfaces.evaluate import accumulator as module
from landscape.surfaces.evaluate.accumulator import Tally


def token_problem() -> Problem:
    torch.manual_seed(0)
    tokens = torch.randint(0, 5, (12, 4))
    targets = tokens.where(torch.rand(12, 4) > 0.3, -100)
    return problem_of(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)), (tokens, targets), "token_cross_entropy")


PROBLEMS = {
    "domains": lambda: problem_of(small_mlp(), domain_data()),
    "several batches": lambda: problem_of(small_mlp(), domain_data(), batch_size=16),
    "weighted tokens": token_problem,
    "regression": lambda: problem_of(nn.Linear(5, 1), (torch.randn(20, 5), torch.randn(20, 1)), "mse"),
    "loss of torch": lambda: problem_of(small_mlp(), domain_data(), nn.CrossEntropyLoss(weight=torch.arange(1.0, 4))),
    "mean of the user's": lambda: problem_of(small_mlp(), domain_data(), F.cross_entropy),
}


def scaled_passes(problem: Problem, look) -> list:
    with problem.temporary_weights() as tensors:
        found = []
        for _ in range(3):
            found.append(look())
            torch._foreach_mul_(tensors, 1.25)
        return found


@pytest.mark.parametrize("limit", [0, module._BYTES])
@pytest.mark.parametrize("name", list(PROBLEMS))
def test_sums_are_those_of_single_passes_bit_for_bit(name: str, limit: int, monkeypatch):
    monkeypatch.setattr(module, "_BYTES", limit)
    problem = PROBLEMS[name]()
    expected = torch.stack(scaled_passes(problem, problem.sums))
    tally = Tally(problem)
    with problem.forward_only():
        scaled_passes(problem, tally.look)
        assert torch.equal(tally.sums().nan_to_num(-1), expected.nan_to_num(-1))
        tally.look()
    assert torch.equal(tally.sums().nan_to_num(-1), expected[:1].nan_to_num(-1))


def test_a_loss_of_the_users_sees_the_examples_of_one_pass():
    sizes = []

    def loss(output, target):
        sizes.append(len(output))
        return F.cross_entropy(output, target, reduction="none")

    problem = problem_of(small_mlp(), domain_data(), loss)
    sizes.clear()
    tally = Tally(problem)
    with problem.forward_only():
        for _ in range(3):
            tally.look()
    tally.sums()
    assert sizes == [problem.n_examples] * 3


def test_a_pass_without_memory_is_made_again_in_smaller_batches(monkeypatch: pytest.MonkeyPatch):
    problem = problem_of(small_mlp(), domain_data())
    expected = torch.stack(scaled_passes(problem, problem.sums))
    model, full = problem.model, problem.n_examples

    def short_of_memory(module, inputs):
        if len(inputs[0]) == full and not torch.equal(next(model.parameters()), weights):
            raise MemoryError

    weights = next(model.parameters()).detach().clone()
    tally = Tally(problem)
    with problem.forward_only():
        handle = model.register_forward_pre_hook(short_of_memory)
        scaled_passes(problem, tally.look)
        handle.remove()
    assert problem.batch_size < full
    torch.testing.assert_close(tally.sums(), expected, rtol=1e-12, atol=0)

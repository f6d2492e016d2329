"""The passes of a step see the same random numbers, of torch, NumPy and Python alike."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape.optim import SAM, BatchLoss, MicroBatches
from landscape.optim.core.passes import RandomState

from .problems import METHODS, ONE_PASS

SEVERAL_PASSES = [m for m in METHODS if m not in ONE_PASS]


def draw() -> list[float]:
    return [torch.rand(1).item(), np.random.rand(), random.random()]  # noqa: NPY002 - what users' code draws from


def seed() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)


def noisy(w: Tensor, draws: list[list[float]]) -> BatchLoss:
    draws.append(draw())
    loss = ((w - sum(draws[-1])) ** 2).sum()
    return BatchLoss(loss, torch.stack([loss, loss]), torch.tensor([1, 1]))


def made(method: str, w: nn.Parameter, **common: Any) -> Any:
    return METHODS[method](torch.optim.SGD([("weight", w)], lr=0.1), rho=0.3, **common)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("method", SEVERAL_PASSES)
def test_every_pass_draws_what_the_first_drew_and_a_step_what_one_pass_draws(method: str):
    w = weight()
    optimizer = made(method, w)
    draws: list[list[float]] = []
    seed()
    for _ in range(2):
        optimizer.step(lambda: noisy(w, draws))
    after = draw()
    seed()
    expected = [draw(), draw(), draw()]
    first = draws[: len(draws) - optimizer.gradient_evaluations]
    assert len(first) >= 2
    assert all(d == expected[0] for d in first)
    assert all(d == expected[1] for d in draws[len(first) :])
    assert after == expected[2]


@pytest.mark.parametrize("method", SEVERAL_PASSES)
def test_a_closure_that_draws_in_its_first_pass_only_does_not_turn_time_back(method: str):
    """An augmented batch is made once per step; the next step's must be another."""
    w = weight()
    optimizer = made(method, w)
    batches = []
    seed()
    for _ in range(3):
        kept: list[list[float]] = []

        def closure(kept: list[list[float]] = kept) -> BatchLoss:
            if not kept:
                kept.append(draw())
            loss = ((w - sum(kept[0])) ** 2).sum()
            return BatchLoss(loss, torch.stack([loss, loss]), torch.tensor([1, 1]))

        optimizer.step(closure)
        batches.append(kept[0])
    seed()
    assert batches == [draw(), draw(), draw()]


@pytest.mark.parametrize("method", ["sam", "gsam", "sagm", "disam"])
@pytest.mark.parametrize("micro_batches", [True, False])
def test_pieces_draw_what_they_drew_in_the_first_pass(method: str, micro_batches: bool):
    w = weight()
    optimizer = made(method, w, micro_batches=micro_batches)
    draws: dict[int, list[list[float]]] = {0: [], 1: []}
    seed()
    optimizer.step(lambda: MicroBatches([lambda: noisy(w, draws[0]), lambda: noisy(w, draws[1])], [1, 1]))
    after = draw()
    seed()
    expected = [draw(), draw(), draw()]
    for k in (0, 1):
        assert len(draws[k]) >= 2
        assert all(d == expected[k] for d in draws[k])
    assert after == expected[2]


def test_a_second_pass_that_fails_leaves_the_generators_as_the_first_did():
    w, calls = weight(), []

    def closure() -> BatchLoss:
        calls.append(draw())
        if len(calls) == 2:
            raise ValueError("in the closure")
        return BatchLoss((w**2).sum())

    seed()
    with pytest.raises(ValueError, match="in the closure"):
        SAM(torch.optim.SGD([w], lr=0.1)).step(closure)
    after = draw()
    seed()
    assert [draw(), draw()][1] == after


def test_second_order_replays_too():
    w, draws = weight(), list[list[float]]()
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.3, order=2)
    seed()
    optimizer.step(lambda: noisy(w, draws))
    after = draw()
    seed()
    expected = [draw(), draw()]
    assert draws == [expected[0]] * 3
    assert after == expected[1]


def test_without_replay_every_pass_draws_its_own():
    w, draws = weight(), list[list[float]]()
    seed()
    SAM(torch.optim.SGD([w], lr=0.1), replay=False).step(lambda: noisy(w, draws))
    seed()
    assert draws == [draw(), draw()]


def test_a_random_state_comes_back_whole():
    seed()
    state = RandomState.now()
    first = [draw(), draw()]
    state.restore()
    assert [draw(), draw()] == first
    assert len({x for d in first for x in d}) == 6

"""Inner loops give the GPU work without waiting for it: one wait at their end, where the numbers are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from landscape.curvature.lanczos.krylov import Krylov
from landscape.curvature.operators import OPERATORS, operator_of
from landscape.problem.problem import Problem
from landscape.surfaces.directions.random import draw
from landscape.surfaces.evaluate.evaluator import evaluating

from .agreement import images, network


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, everything that waits for the GPU is an error."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.fixture
def problem() -> Problem:
    made = Problem(network(), images(), device="cuda", dtype="float32", batch_size=16)
    made.evaluate()  # the batches are on the device from here on
    return made


def test_it_sees_waiting(problem: Problem):
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        problem.weights.sum().item()


@pytest.mark.parametrize("kind", OPERATORS)
def test_products(problem: Problem, kind: str):
    v = torch.ones_like(problem.weights)
    with operator_of(problem, kind) as kept:
        kept(v)  # builds the graphs, and draws labels where that is needed
        with no_waiting():
            kept(v)
    if kind in ("hessian", "ggn", "fisher", "empirical-fisher"):
        rebuilt = operator_of(problem, kind, memory=0)
        rebuilt(v)
        with no_waiting():
            rebuilt(v)


def test_losses_and_gradients(problem: Problem):
    problem.loss_and_gradient()
    with no_waiting():
        problem.loss_and_gradient()
        problem.loss_tensor()
        problem.sums()


def test_a_row_of_a_surface_waits_once(problem: Problem):
    direction = draw(problem, "filter", 0, 0, "filter")
    with evaluating(problem) as walker:
        walker.over([[(0.1, direction)]])
        with no_waiting():
            for step in (0.1, 0.2, 0.3):
                walker._go([(step, direction)])


def test_a_krylov_step_reads_its_coefficients_and_nothing_else(problem: Problem, monkeypatch: pytest.MonkeyPatch):
    waits = []

    def read(tensor: torch.Tensor) -> object:
        waits.append(tensor.shape)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return tensor.cpu().numpy()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    monkeypatch.setattr("landscape.curvature.lanczos.krylov.read", read)
    start = torch.randn(1, problem.n_parameters, dtype=torch.float64, device="cuda")
    with operator_of(problem) as operator:
        space = Krylov(operator, start, lambda: start[0])
        space.grow()
        waits.clear()
        with no_waiting():
            space.grow()
            space.grow()
    assert len(waits) == 2

"""Steps of central differences: found where the errors balance, and bars that cover."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from landscape.numerics.steps import settle, step_towards


def _rounded(step: float, digits: torch.dtype) -> Tensor:
    """(sin(1 + h) − sin(1 − h)) / 2h in five copies at other places, each value rounded to a type."""
    at = torch.tensor([1.0, 1.3, 0.4, 2.2, 0.9], dtype=torch.float64)
    ahead, behind = ((at + s * step).sin().to(digits).double() for s in (1, -1))
    return (ahead - behind) / (2 * step)


TRUTH = torch.tensor([1.0, 1.3, 0.4, 2.2, 0.9], dtype=torch.float64).cos()


def test_the_step_balances_truncation_and_rounding():
    for digits, start, best in ((torch.float64, 1e-2, 6e-6), (torch.float32, 1e-5, 5e-3)):
        found = settle(lambda h, digits=digits: _rounded(h, digits), start)
        away = float((found.value - TRUTH).norm())
        assert away <= found.error
        assert found.error < 100 * torch.finfo(digits).eps ** (2 / 3)
        assert best / 20 < found.step < 20 * best


def test_a_good_start_takes_two_steps():
    asked: list[float] = []

    def quotient(step: float) -> Tensor:
        asked.append(step)
        return _rounded(step, torch.float64)

    settle(quotient, 1e-5, good=1e-9)
    assert len(asked) == 2


def test_a_jump_within_every_long_step_is_left_out_by_shorter_ones():
    def kinked(step: float) -> Tensor:
        return _rounded(step, torch.float64) + (1e-3 / (2 * step) if step > 1e-7 else 0.0)

    found = settle(kinked, 1e-5, suspicious=1e-5)
    assert float((found.value - TRUTH).norm()) <= found.error < 1e-6


def test_the_step_that_comes_closest_to_what_is_known():
    found = step_towards(lambda h: _rounded(h, torch.float32), 1e-5, TRUTH)
    assert 5e-4 < found.step < 5e-2
    assert found.distance < 1e-4


def test_quotients_that_are_never_finite_have_an_infinite_bar():
    assert settle(lambda h: torch.full((2,), math.nan, dtype=torch.float64), 1e-5).error == math.inf

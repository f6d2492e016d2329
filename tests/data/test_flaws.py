"""NaN and infinite values in data are named before any work, where they reach the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import problem_of
from torch import Tensor, nn

from landscape.base.errors import DataError

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
NAN, INF = float("nan"), float("inf")


def spoiled(rows: dict[int, float], x: Tensor = X) -> Tensor:
    x = x.clone()
    for row, value in rows.items():
        x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((spoiled({7: NAN}), Y), r"1 of 20 examples hold NaN in the inputs.* is nan \(the data set, example 7\)"),
        ((spoiled({3: INF, 9: -INF}), Y), r"2 of 20 examples hold infinite values in the inputs.*example 3\)"),
        ((spoiled({2: INF, 9: NAN}), Y), r"1 of 20 examples hold NaN in the inputs.*example 9\)"),
        ({"a": (X, Y), "b": (spoiled({4: NAN}), Y)}, r"1 of 40 examples.*example 4 of domain 'b'"),
        ([(x, int(y)) for x, y in zip(spoiled({11: NAN}), Y, strict=True)], r"1 of 20 examples.*example 11\)"),
        ((X, spoiled({5: NAN}, X[:, :3].softmax(1))), r"NaN in the targets.*example 5\)"),
        ({"x": X, "y": Y, "z": spoiled({6: NAN})}, r"1 of 20 examples hold NaN in the inputs.*example 6\)"),
    ],
)  # fmt: skip
def test_the_first_example_is_named(data, message: str):
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
            return self.inner(x if z is None else x + z)

    with pytest.raises(DataError, match=message) as caught:
        problem_of(Sum(), data)
    assert caught.value.exit_code == 3


def test_what_does_not_reach_the_loss_is_allowed():
    class Masked(nn.Module):
        """A mask of -inf, as attention takes it, and missing values that are filled."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.inner(x.nan_to_num() * mask.softmax(1))

    mask = torch.zeros(20, 4)
    mask[:, 2] = -INF
    torch.manual_seed(0)
    model, x = Masked(), spoiled({7: NAN})
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(x, mask), Y).item()
    assert problem_of(model, ((x, mask), Y)).loss() == pytest.approx(expected, rel=1e-6)
    everything_masked = mask.clone()
    everything_masked[8] = -INF  # softmax of a row of -inf is NaN
    with pytest.raises(DataError, match=r"20 of 20 examples hold infinite values in the inputs.*example 8\)"):
        problem_of(model, ((x, everything_masked), Y))


def test_a_loss_may_leave_missing_targets_out():
    target = spoiled({3: NAN}, X)
    model = nn.Linear(4, 4)

    def observed(output: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        return ((output - target.nan_to_num()).square() * known).sum(1)

    with torch.no_grad():
        expected = observed(model(X), target).mean().item()
    assert problem_of(model, (X, target), observed).loss() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(DataError, match="1 of 20 examples hold NaN in the targets"):
        problem_of(model, (X, target), "mse")


def test_a_loss_that_takes_no_example_alone_is_not_asked():
    def centred(output: Tensor, target: Tensor) -> Tensor:
        if len(output) < 2:
            raise ValueError("needs two")
        return output.square().nan_to_num().mean(1)

    assert np.isfinite(problem_of(nn.Linear(4, 3), (spoiled({7: NAN}), Y), centred).loss())


def test_examples_of_another_split_are_named_too():
    problem = problem_of(nn.Linear(4, 3), (X, Y))
    from landscape.data.examples import Examples
    from landscape.domainwise.domains import domains

    with pytest.raises(DataError, match=r"1 of 20 examples hold NaN in the inputs.*\(split 'test', example 7\)"):
        domains(problem, splits={"test": Examples.of((spoiled({7: NAN}), Y))})


def test_few_evaluations_are_made_of_many_examples():
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return self.inner(x.nan_to_num())

    problem_of(Counting(), (torch.full((1000, 4), NAN), torch.arange(1000) % 3))
    assert len(calls) < 80

"""SWA and SWAD on sequences of weights whose averages are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.optim.averaging import SWA, SWAD, recalibrate_statistics


def scalar() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, dtype=torch.float64))


def test_swa_is_the_mean_of_what_it_saw():
    p = scalar()
    average = SWA([p])
    assert not average.write()
    for value in (3.0, 5.0, 10.0):
        p.data.fill_(value)
        average.update()
    assert average.write()
    assert float(p.detach()) == pytest.approx(6.0)


def test_one_model_and_equal_models_average_to_themselves():
    for count in (1, 7):
        p = nn.Parameter(torch.tensor([0.1, 1 / 3], dtype=torch.float64))
        before, average = p.detach().clone(), SWA([p])
        for _ in range(count):
            average.update()
        average.write()
        assert torch.equal(p, before)


def swad(losses: list[float], **windows: int) -> tuple[float, SWAD]:
    """Segment k holds the weights k + 1 (two steps each); the result is the mean of the chosen segments."""
    p = scalar()
    average = SWAD([p], **windows)
    for k, loss in enumerate(losses):
        for shift in (-0.25, 0.25):
            p.data.fill_(k + 1 + shift)
            average.update()
        average.evaluated(loss)
    average.write()
    return float(p.detach()), average


# Windows 3 and 6, tolerance 0.3: the threshold is 1.3 times the mean of the first window whose oldest is lowest.
@pytest.mark.parametrize(
    ("losses", "segments"),
    [
        # Never converged: the last segment.
        ([5, 4, 3, 2], [4]),
        ([5], [1]),
        # The window 1, 1.1, 1.2 begins at segment 3; nothing before it is under 1.43; never ends.
        ([5, 4, 1, 1.1, 1.2], [3, 4, 5]),
        # Segments 2 and 3 are under the threshold 1.43 and belong to the valley; segment 1 is not.
        ([5, 1.4, 1.2, 1, 1.1, 1.2, 1.2], [2, 3, 4, 5, 6, 7]),
        # At most n_tolerance - n_converge = 3 segments are taken in backwards.
        ([1.4, 1.35, 1.3, 1.25, 1.2, 1, 1.1, 1.2], [3, 4, 5, 6, 7, 8]),
        # The valley ends before six losses in a row above the threshold.
        ([1, 1.1, 1.2, 1.3, 9, 9, 9, 9, 9, 9, 1, 1], [1, 2, 3, 4]),
        # A hump shorter than the window does not end it.
        ([1, 1.1, 1.2, 9, 9, 1.2, 1.2], [1, 2, 3, 4, 5, 6, 7]),
        # At the end, what rises above the threshold for good is left out.
        ([1, 1.1, 1.2, 1.2, 9, 9], [1, 2, 3, 4]),
    ],
)
def test_swad_chooses_the_valley(losses: list[float], segments: list[int]):
    value, _ = swad(losses)
    assert value == pytest.approx(sum(segments) / len(segments))


def test_swad_keeps_few_segments():
    _, average = swad([10 - 0.1 * k for k in range(50)])
    assert len(average.waiting) <= 7
    _, average = swad([1.0] * 50)
    assert len(average.waiting) <= 7


@pytest.mark.parametrize("kind", [SWA, SWAD])
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_averages_survive_saving(kind, stop: int, tmp_path):
    losses = [5, 1.4, 1.2, 1, 1.1, 1.2, 1.2, 3, 3, 3]

    def go(interrupted: bool) -> float:
        p = scalar()
        average = kind([p])
        for k, loss in enumerate(losses):
            p.data.fill_(k**1.5)
            average.update()
            if kind is SWAD:
                average.evaluated(loss)
            if interrupted and k == stop:
                torch.save(average.state_dict(), tmp_path / "state.pt")
                average = kind([p])
                average.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        average.write()
        return float(p.detach())

    assert go(True) == go(False)


def test_statistics_after_averaging_are_those_of_the_data():
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(3)
    model = nn.Sequential(layer, nn.Dropout(0.5)).train()
    layer.momentum = 0.3
    x = torch.randn(4, 8, 3) * 2 + 1
    random = torch.get_rng_state()

    def forward_all() -> None:
        for part in x:
            model(part)

    assert recalibrate_statistics(model, forward_all)
    assert torch.allclose(layer.running_mean, x.mean((0, 1)), atol=1e-6)
    assert torch.allclose(layer.running_var, x.var(1).mean(0), atol=1e-6)
    assert int(layer.num_batches_tracked) == 4
    assert layer.momentum == 0.3
    assert all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert not recalibrate_statistics(nn.Linear(2, 2), forward_all)

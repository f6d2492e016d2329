"""Surfaces that are interrupted: only what is missing is computed, and the bits are those of one undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import domain_data, problem_of, small_mlp
from torch import Tensor

from landscape.base.errors import Interrupted
from landscape.surfaces.evaluate import row_cache as module
from landscape.surfaces.surface import surface

# Kept outside of the losses, which are one loss by their code: what a loss holds is part of what it computes.
ASIDE = threading.local()
ASIDE.calls, ASIDE.stops = {}, {}


class Counting:
    """A loss that counts its calls and may stop one of them."""

    __name__ = "counting"

    def __init__(self, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        ASIDE.calls[id(self)], ASIDE.stops[id(self)] = 0, (stop_at or 0, error)

    @property
    def calls(self) -> int:
        """How often it was called."""
        return ASIDE.calls[id(self)]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        ASIDE.calls[id(self)] += 1
        number, error = ASIDE.stops[id(self)]
        if ASIDE.calls[id(self)] == number:
            raise error("stopped")
        return F.cross_entropy(output, target, reduction="none")


OPTIONS = {
    "plane": {"points": 5},
    "slices": {"dim": 1, "points": 5, "repeats": 5},
    "adaptive": {"points": 9, "adaptive_grid": True},
}


@pytest.fixture(autouse=True)
def write_at_once(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_WRITES", 0)


def compute(loss: Counting, store: Path | None, **options):
    ASIDE.calls[id(loss)] = -1000  # what the problem asks when it is made does not count
    problem = problem_of(small_mlp(), domain_data(), loss)
    ASIDE.calls[id(loss)] = 0
    return surface(problem, store=store, **options)


@pytest.mark.parametrize("kind", list(OPTIONS))
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_finished_is_not_computed_again(tmp_path, kind: str, error: type[BaseException]):
    whole = Counting()
    expected = compute(whole, None, **OPTIONS[kind])
    stopped = Counting(whole.calls // 2, error)
    with pytest.raises(Interrupted if error is KeyboardInterrupt else error, match="stopped") as caught:
        compute(stopped, tmp_path / "rows", **OPTIONS[kind])
    if error is KeyboardInterrupt:
        assert caught.value.exit_code == 75
        assert "computes only the rest" in str(caught.value)
    rest = Counting()
    found = compute(rest, tmp_path / "rows", **OPTIONS[kind])
    assert rest.calls < 0.75 * whole.calls
    for name in expected.data.data_vars:
        assert found.data[name].values.tobytes() == expected.data[name].values.tobytes(), name
    again = Counting()
    compute(again, tmp_path / "rows", **OPTIONS[kind])
    overhead = 4  # the label check at the door, the plain evaluation, the centre twice
    assert again.calls <= overhead
    assert whole.calls <= found["evaluated_points"] + overhead


def test_the_stored_file_has_the_same_bytes(tmp_path):
    files = []
    for name, stop in (("a", None), ("b", 15)):
        if stop:
            with pytest.raises(Interrupted):
                compute(Counting(stop), tmp_path / "rows", points=5)
        result = compute(Counting(), tmp_path / "rows" if stop else None, points=5)
        (tmp_path / name).mkdir()
        result.vectors = {}
        files.append(result.save(tmp_path / name / "surface.nc").read_bytes())
    assert files[0] == files[1]


def test_values_that_are_no_numbers_are_done_too(tmp_path):
    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(output, target, reduction="none")
        return torch.where(value.mean() > 1.3, value * torch.nan, value - value)  # NaN far away, exactly 0 near

    calls = []

    def counted(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return loss(output, target)

    problem = problem_of(small_mlp(), domain_data(), counted)
    first = surface(problem, points=5, range=3.0, store=tmp_path / "rows")
    values = first.data["loss"].values
    assert np.isnan(values).any()
    assert (values == 0).any()
    before = len(calls)
    again = surface(problem, points=5, range=3.0, store=tmp_path / "rows")
    assert len(calls) - before <= 4
    assert again.data["loss"].values.tobytes() == values.tobytes()


def test_other_weights_data_or_options_never_mix(tmp_path, caplog):
    store = tmp_path / "rows"
    compute(Counting(), store, points=5)
    different = [
        lambda: surface(problem_of(small_mlp(seed=1), domain_data(), Counting()), points=5, store=store),
        lambda: surface(problem_of(small_mlp(), domain_data(seed=1), Counting()), points=5, store=store),
        lambda: surface(problem_of(small_mlp(), domain_data(), Counting()), points=5, seed=1, store=store),
        lambda: surface(problem_of(small_mlp(), domain_data(), Counting()), points=5, range=0.5, store=store),
        lambda: surface(problem_of(small_mlp(), domain_data(), Counting(), dtype="float32"), points=5, store=store),
        lambda: surface(problem_of(small_mlp(), domain_data(), Counting(), batch_size=7), points=5, store=store),
    ]
    for other in different:
        caplog.clear()
        with caplog.at_level("WARNING", logger="landscape"):
            other()
        assert "computed under other conditions and are dropped" in caplog.text


def test_damaged_rows_are_computed_again(tmp_path, caplog):
    expected = compute(Counting(), tmp_path / "rows", points=5)
    part = sorted((tmp_path / "rows").glob("rows-*.npz"))[0]
    part.write_bytes(part.read_bytes()[:50])
    rest = Counting()
    with caplog.at_level("WARNING", logger="landscape"):
        found = compute(rest, tmp_path / "rows", points=5)
    assert "damaged" in caplog.text
    assert 0 < rest.calls < 5 + 5
    assert found.data["loss"].values.tobytes() == expected.data["loss"].values.tobytes()


SCRIPT = """
import sys, time, torch, torch.nn.functional as F
sys.path.insert(0, {tests!r})
from cases import domain_data, problem_of, small_mlp
from landscape.surfaces.evaluate import row_cache as rows
from landscape.surfaces.surface import surface
from pathlib import Path
rows._SECONDS_BETWEEN_WRITES = 0
def slow(output, target):
    time.sleep(0.004)
    return F.cross_entropy(output, target, reduction="none")
print("ready", flush=True)
result = surface(problem_of(small_mlp(), domain_data(), slow), points=15, store=Path({store!r}))
print(result.data["loss"].values.tobytes().hex(), result.record["restored"])
"""


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent.parent), store=str(tmp_path / "rows"))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout.readline() == "ready\n"
        return process

    def stored() -> int:
        return len(list((tmp_path / "rows").glob("rows-*.npz")))

    seen, rng = [0], np.random.default_rng(0)
    for _ in range(3):
        process = start()
        while stored() <= seen[-1]:  # however slow the machine is, every life gets something done
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seen.append(stored())
    assert seen == sorted(set(seen))
    assert 0 < seen[-1] < 15
    out, _ = start().communicate()
    expected = surface(problem_of(small_mlp(), domain_data()), points=15).data["loss"].values
    assert out.split() == [expected.tobytes().hex(), "True"]

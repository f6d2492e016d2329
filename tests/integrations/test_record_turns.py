"""A recorded loop that is killed anywhere goes on to the same bits, with whatever its turns do after a step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import landscape
from landscape.base.errors import UsageError
from landscape.integrations.loop_state import state_of
from landscape.integrations.loop_states import _described
from landscape.integrations.recorder import Recorder

from .test_record import begun, examples, traces

pytestmark = [pytest.mark.filterwarnings("ignore:.*fork"), pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")]
EPOCHS, PER_EPOCH = 4, 3
Here = Callable[[str], None]  # told where the loop is


def schedule_of(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def one_step(model: nn.Module, optimizer: Any) -> torch.Tensor:
    x, y, _ = examples()
    rows = torch.randperm(24)[:16]
    loss = F.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    return loss


def validated(model: nn.Module) -> None:
    """Draws random numbers, as a loader of held-out examples does when it is asked for its first batch."""
    model.eval()
    model(examples()[0][torch.randperm(24)])
    model.train()


# -- loops that somebody might write --------------------------------------------------------------------------------


def epochs_in_turns(recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here) -> None:
    for epoch in recorder.until(epochs=EPOCHS):
        for k in range(PER_EPOCH):
            optimizer.zero_grad()
            loss = one_step(model, optimizer)
            optimizer.step()
            here("stepped")
            recorder.step(loss)
            here("recorded")
            assert recorder.steps == epoch * PER_EPOCH + k + 1
        validated(model)
        here("validated")
        restore[0].step()
        here("scheduled")


def steps_in_turns(recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here) -> None:
    for step in recorder.until(steps=EPOCHS * PER_EPOCH):
        restore[0].step() if step else None  # of the turn before, as some do it
        optimizer.zero_grad()
        loss = one_step(model, optimizer)
        optimizer.step()
        here("stepped")
        recorder.step(loss)
        here("recorded")
        validated(model)
        here("validated")


def epochs_of_their_own(recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here) -> None:
    for _ in range(recorder.steps // PER_EPOCH, EPOCHS):
        for _ in range(recorder.steps % PER_EPOCH, PER_EPOCH):
            optimizer.zero_grad()
            loss = one_step(model, optimizer)
            optimizer.step()
            here("stepped")
            recorder.step(loss)
            here("recorded")
        restore[0].step()
        here("scheduled")


def steps_of_their_own(recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here) -> None:
    for step in range(recorder.steps, EPOCHS * PER_EPOCH):
        optimizer.zero_grad()
        loss = one_step(model, optimizer)
        optimizer.step()
        if step % 2:  # before it or after it
            restore[0].step()
        here("stepped")
        recorder.step(loss)
        here("recorded")
        if step % 2 == 0:
            restore[0].step()
        here("scheduled")


def accumulated_and_scaled(
    recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here
) -> None:
    """Micro-batches are turns, every fourth step overflows, and the gradient is clipped."""
    schedule, scaler = restore
    for k in recorder.until(steps=EPOCHS * PER_EPOCH):
        for _ in range(2):
            scaler.scale(one_step_loss(model) / 2 * (float("inf") if k % 4 == 3 else 1.0)).backward()
            here("half")
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        here("stepped")
        recorder.step()
        here("recorded")
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        here("scheduled")


def scaled_of_their_own(recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here) -> None:
    schedule, scaler = restore
    for k in range(recorder.steps, EPOCHS * PER_EPOCH):
        scaler.scale(one_step_loss(model) * (float("inf") if k % 4 == 3 else 1.0)).backward()
        scaler.step(optimizer)
        here("stepped")
        recorder.step()
        here("recorded")
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        here("scheduled")


def one_step_loss(model: nn.Module) -> torch.Tensor:
    x, y, _ = examples()
    rows = torch.randperm(24)[:16]
    return F.cross_entropy(model(x[rows]), y[rows])


def sam_in_two_calls(recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here) -> None:
    for _ in range(recorder.steps, EPOCHS * PER_EPOCH):
        optimizer.zero_grad()
        one_step_loss(model).backward()
        optimizer.first_step()
        here("climbed")
        optimizer.zero_grad()
        one_step_loss(model).backward()
        optimizer.second_step()
        here("stepped")
        recorder.step()
        here("recorded")
        restore[0].step()
        here("scheduled")


def shuffled_by_a_generator(
    recorder: Recorder, model: nn.Module, optimizer: Any, restore: list[Any], here: Here
) -> None:
    """A loader whose order is drawn by a generator of its own, which nothing global restores."""
    schedule, order = restore
    loader = torch.utils.data.DataLoader(torch.arange(24), 8, shuffle=True, generator=order)
    for _ in recorder.until(epochs=EPOCHS):
        for rows in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(examples()[0][rows]), examples()[1][rows])
            loss.backward()
            optimizer.step()
            here("stepped")
            recorder.step(loss)
            here("recorded")
        schedule.step()
        here("scheduled")


LOOPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs in turns": (epochs_in_turns, {"every": "1epochs", "steps_per_epoch": PER_EPOCH}),
    "epochs in turns, states in steps": (epochs_in_turns, {"every": 2}),
    "steps in turns": (steps_in_turns, {"every": 2}),
    "epochs of their own": (epochs_of_their_own, {"every": "1epochs", "steps_per_epoch": PER_EPOCH}),
    "epochs of their own, states in steps": (epochs_of_their_own, {"every": 2}),
    "steps of their own": (steps_of_their_own, {"every": 1}),
    "accumulated and scaled": (accumulated_and_scaled, {"every": 1}),
    "scaled, of their own": (scaled_of_their_own, {"every": 1}),
    "shuffled by a generator": (shuffled_by_a_generator, {"every": 2}),
    "two calls": (sam_in_two_calls, {"every": 1}),
}


def called(loop: str, folder: Path, here: Here) -> tuple[Any, list[float]]:
    """The whole script: what it has made at its end, and the learning rate of each step."""
    run, options = LOOPS[loop]
    model, optimizer = begun()
    if loop == "two calls":
        optimizer = landscape.FSAM(optimizer, rho=0.1)  # remembers a mean of gradients from step to step
    restore = [schedule_of(optimizer)]
    if "scaled" in loop:
        restore.append(torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2))
    if "generator" in loop:
        restore.append(torch.Generator().manual_seed(5))
    with landscape.record(model, optimizer, folder, restore=restore, **options) as recorder:
        run(recorder, model, optimizer, restore, here)
    rates = [r["lr"] for r in recorder.run.metrics() if r.get("lr") is not None]
    made = traces(model, optimizer)
    del made["grad"]  # a script that finds all steps made computes none
    return {**made, "restored": [_described(state_of(r)) for r in restore]}, rates


def killed(loop: str, folder: Path, at: int) -> bool:
    """Run the script in a process of its own and kill that at the ``at``-th place; whether it came there."""
    child = os.fork()
    if child == 0:
        try:
            places: Iterator[int] = iter(range(1, at + 1))

            def here(_: str) -> None:
                if next(places) == at:
                    os.kill(os.getpid(), signal.SIGKILL)

            called(loop, folder, here)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("loop", LOOPS)
def test_killed_anywhere(loop: str, tmp_path: Path):
    places: list[str] = []
    expected, rates = called(loop, tmp_path / "whole", places.append)
    assert len(set(rates)) >= EPOCHS
    assert len(rates) == EPOCHS * PER_EPOCH
    first = places.index("recorded")
    for at in range(2, len(places) + 1, 5):  # which comes to every place of a turn
        folder = tmp_path / str(at)
        assert killed(loop, folder, at)
        killed(loop, folder, first + 3)  # again, soon after it went on, if there is so much left to do
        found, course = called(loop, folder, lambda _: None)
        assert found == expected, (at, places[at - 1])
        assert course == rates


def test_a_schedule_before_the_first_step_is_sent_to_turns(tmp_path: Path):
    model, optimizer = begun()
    schedule = schedule_of(optimizer)
    with landscape.record(model, optimizer, tmp_path, restore=[schedule]) as recorder:
        with pytest.warns(UserWarning, match="lr_scheduler"):
            schedule.step()
        with pytest.raises(UsageError, match=r"one ahead.*recorder\.until"):
            optimizer.step()
    assert recorder.steps == 0


def test_turns_say_what_is_missing(tmp_path: Path):
    model, optimizer = begun()
    with landscape.record(model, optimizer, tmp_path / "a", every="1epochs", steps_per_epoch=2) as recorder:
        with pytest.raises(UsageError, match="pass epochs=N or steps=N"):
            next(recorder.until())
        with pytest.raises(UsageError, match="has recorded no step"):
            list(recorder.until(epochs=2))
        turns = recorder.until(epochs=2)
        next(turns)
        recorder.step()
        with pytest.raises(UsageError, match=r"an epoch made 1 steps.*steps_per_epoch=1"):
            next(turns)
    with pytest.raises(UsageError, match="not open"):
        next(recorder.until(steps=3))


def test_a_loop_left_by_break_goes_on_after_that_epoch(tmp_path: Path):
    def call(stop: int | None) -> list[int]:
        model, optimizer = begun()
        seen = []
        with landscape.record(model, optimizer, tmp_path) as recorder:
            for epoch in recorder.until(epochs=4):
                seen.append(epoch)
                recorder.step()
                if epoch == stop:
                    break
        return seen

    assert call(1) == [0, 1]
    assert call(None) == [2, 3]
    assert call(None) == []
    assert landscape.Run(tmp_path).record["steps"] == 4

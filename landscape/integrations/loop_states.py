"""When the state that a loop goes on from is settled: only when the whole turn of the loop is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..base.errors import UsageError
from ..optim.core.engine import ERM
from .described import optimizer_settings
from .loop_state import Moment, load_loop, load_random, save_loop, save_random, state_of

log = logging.getLogger(__name__)


class LoopStates:
    """Saves and restores the state of a loop.

    A step is recorded before its turn of the loop is over: the step of a schedule, the update of a scaler and a
    validation may come after it. What was saved right there would bring them back as they were before. So it is
    settled where the next turn begins, if the loop tells its turns (`turn`). If it does not, it is settled where the
    next step of the optimizer begins: weights, optimizer and what is restored beside it are taken as they are there,
    buffers and random numbers, which the next batch has moved by then, as they were when the step was recorded.

    Args:
        run: The folder.
        network: The network.
        optimizer: Its optimizer, ours or torch's.
        restore: What else has a ``state_dict``, and generators.
        process: Rank of this process; the first one writes, others their random numbers alone.
    """

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        restore: Sequence[Any],
        process: int,
    ) -> None:
        self.path = folder / "resume.pt"
        self.in_turns = False
        """Whether the loop tells its turns."""
        self.saved_at = 0.0
        """When it was saved last, by the monotonic clock."""
        self._folder, self._network, self._optimizer, self._restore = folder, network, optimizer, tuple(restore)
        for one in self._restore:
            if not isinstance(one, torch.Generator) and not (
                hasattr(one, "state_dict") and hasattr(one, "load_state_dict")
            ):
                fix = "list schedules, scalers, generators and whatever else has a state_dict"
                raise UsageError(f"a {type(one).__name__} has no state to restore", "restore", fix)
        self._process = process
        self._own = {id(p) for p in network.parameters()}
        self._noted: Moment | None = None
        self._owed = False
        self._at_start: list[Any] | None = None
        self._handle: Any = None
        self._lr: float | None = None

    # -- begin and end -------------------------------------------------------------------------------------------

    def attach(self, *, settles: bool) -> None:
        """Watch for steps of the optimizer; ``settles``: as the loop does not restore itself."""
        self._at_start = [_described(state_of(one)) for one in self._restore] if settles else None
        self._handle = register_optimizer_step_pre_hook(self._step_begins)
        if isinstance(self._optimizer, ERM):
            self._optimizer.by_hand.begins = self._passes_begin

    def detach(self) -> None:
        """Watch no longer; what is not settled is forgotten."""
        self._noted = None
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if isinstance(self._optimizer, ERM):
            self._optimizer.by_hand.begins = None

    def load(self) -> dict[str, Any]:
        """Bring the loop to the saved state; returns its counts.

        Raises:
            DataError: If the file is damaged or does not fit.
        """
        counts, random = load_loop(self.path, self._network, (self._optimizer, *self._restore), self._beside())
        self.saved_at = time.monotonic()
        if self._process:
            own = load_random(self._random_path, int(counts["steps"]))
            if own is None:
                log.warning("process %d: its random numbers were not saved with the state", self._process)
                return counts
            random = own
        random.restore()
        return counts

    # -- while it trains -----------------------------------------------------------------------------------------

    def recorded(self, counts: Mapping[str, Any], *, due: bool) -> None:
        """Say that a step is recorded, and whether its state is to be kept."""
        if self.in_turns:
            self._owed |= due
            return
        if self._noted is not None:  # no step has begun since, so it could not be told what the last turn still did
            self._noted, due = None, True
        if due:
            self._noted = Moment.now(self._network, counts)
            if self._process:
                save_random(self._random_path, self._noted)
                self._noted = None

    def lr(self) -> float | None:
        """Learning rate of the first group, as the step being recorded took it; the present one if none did."""
        taken, self._lr = self._lr, None
        return optimizer_settings(self._optimizer).get("lr") if taken is None else taken

    def turn(self, counts: Mapping[str, Any], *, due: bool) -> None:
        """Say that a turn of the loop is over."""
        if due or self._owed:
            self.save(counts)

    def save(self, counts: Mapping[str, Any]) -> None:
        """Keep the present state."""
        self._write(Moment.now(self._network, counts))

    def _write(self, moment: Moment) -> None:
        self._noted, self._owed = None, False
        if self._process:
            save_random(self._random_path, moment)
        else:
            save_loop(self.path, self._network, (self._optimizer, *self._restore), moment, self._beside())
        self.saved_at = time.monotonic()

    def _beside(self) -> list[Tensor]:
        """Parameters that the optimizer moves and the network does not hold: of a loss, of a head."""
        return [p for g in self._optimizer.param_groups for p in g["params"] if id(p) not in self._own]

    @property
    def _random_path(self) -> Path:
        return self._folder / f"random-{self._process}.pt"

    # -- where a step begins -------------------------------------------------------------------------------------

    def _step_begins(self, optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
        if any(id(p) in self._own for group in optimizer.param_groups for p in group["params"]):
            self._passes_begin()

    def _passes_begin(self) -> None:
        """In the two-call form, and where others compute the gradients, passes come before ``step()``."""
        lr = self._optimizer.param_groups[0].get("lr") if self._optimizer.param_groups else None
        self._lr = None if lr is None else float(lr)
        if self.in_turns:
            return
        before, self._at_start = self._at_start, None
        if before is not None and before != [_described(state_of(one)) for one in self._restore]:
            raise UsageError(
                "an object of restore= moves on before the step of the optimizer; after a kill it would be one ahead",
                str(self._folder.parent),
                "write the loop as `for epoch in recorder.until(epochs=N)` or `for step in recorder.until(steps=N)`",
            )
        if self._noted is not None:
            self._write(self._noted)


def _described(state: Any) -> Any:
    """What can be compared: tensors by their values, objects that are no plain values by nothing."""
    if isinstance(state, Tensor):
        return str(state.dtype), hash(bytes(state.detach().cpu().reshape(-1).view(torch.uint8).numpy()))
    if isinstance(state, Mapping):
        return {str(k): _described(v) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return [_described(v) for v in state]
    return state if isinstance(state, (str, bytes, int, float, bool, type(None))) else type(state).__qualname__

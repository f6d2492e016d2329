"""Which probes of a recorded loop are due, and the batch that they look at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..base.errors import UsageError
from ..base.files import jsonable
from ..data.losses import as_loss
from ..results.run import Run
from ..specs.training import probe
from .described import optimizer_settings
from .probing import Apart, Probing
from .recorded_batch import examples_of, load_examples, save_examples

log = logging.getLogger(__name__)


class DueProbes:
    """Takes the probes that a loop has asked for; their values wait for the row of the next step.

    Args:
        run: The folder, which keeps the batch.
        asked: Names as of ``landscape train --probe``.
        batch: What they look at, or None for the first batch that comes.
        loss: Of outputs and targets.
        apart: As of `Probing`.

    Raises:
        UsageError: If there are probes and no loss, or something that is no batch.
    """

    def __init__(self, run: Run, asked: Sequence[str], batch: Any, loss: Any, apart: Apart) -> None:
        self._run, self._asked = run, [probe(text, "probe") for text in asked]
        self._examples = None if batch is None else examples_of(batch)
        if self._asked and loss is None:
            raise UsageError("probes need the loss", "probe", 'pass loss="cross_entropy", or a callable')
        self._probing = Probing(as_loss(loss), apart) if self._asked else None
        self._taken = False  # whether all have been taken once
        self._waiting: dict[str, Any] = {}

    @property
    def names(self) -> list[str]:
        """As a spec names them."""
        return [f"{name}@every={k}" for name, k in self._asked]

    @property
    def wait(self) -> bool:
        """Whether values wait for their row."""
        return bool(self._waiting)

    def give(self) -> dict[str, Any]:
        """What waits."""
        given, self._waiting = self._waiting, {}
        return given

    def take(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take those that are due at the present weights.

        What fails the first time is an error; later it is said, and the training goes on.
        """
        due = [name for name, k in self._asked if step % k == 0 or not self._taken]
        if not due or self._probing is None or self._examples is None:
            return
        settings = optimizer_settings(optimizer)
        try:
            self._waiting = {"probes": jsonable(self._probing.take(due, model, self._examples, settings))}
            self._taken = True
        except Exception as error:
            if not self._taken:
                raise
            log.warning("step %d: no probes: %s", step, error)
            self._waiting = {"no_probes": f"{type(error).__name__}: {error}"}

    # -- the batch -----------------------------------------------------------------------------------------------

    def keep(self, batch: Any = None) -> None:
        """Keep the batch in the folder, once there is one."""
        path = self._run.path / "state" / "batch.pt"
        if not self._asked or path.exists():
            return
        if self._examples is None and batch is not None:
            self._examples = examples_of(batch)
        if self._examples is not None:
            save_examples(self._examples, path)
            facts = self._run.record.get("ingredients") or {}
            sizes = {"examples": len(self._examples), "domains": self._examples.domains}
            self._run.update(
                ingredients={**facts, "data_hash": {"probes": self._examples.fingerprint()}}, probed=jsonable(sizes)
            )

    def take_up(self) -> None:
        """Look at the batch that the folder keeps.

        Raises:
            UsageError: If another one was given.
        """
        path = self._run.path / "state" / "batch.pt"
        if not path.exists():
            return
        kept = load_examples(path)
        if self._examples is not None and self._examples.fingerprint() != kept.fingerprint():
            fix = "pass the same batch, or force=True to start anew"
            raise UsageError("the probes of this run look at another batch", str(self._run.path), fix)
        self._examples = kept

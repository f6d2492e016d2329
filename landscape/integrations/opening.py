"""The folder of a recorded loop: begun anew, or gone on with from where the loop stands."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.errors import UsageError
from ..base.files import jsonable
from ..results.run import Run
from ..training.trainer import versions
from ..weights.weights import weights_hash
from .described import optimizer_record, optimizer_settings, same_loop

_ANOTHER = "choose another folder, or pass force=True to start anew"


@dataclass(frozen=True)
class Opening:
    """What decides about a folder.

    Attributes:
        run: The folder.
        network: The network.
        optimizer: Its optimizer.
        names: Where network, data and loss are found again.
        spec: What the loop says of itself, as `TrainSpec` names it.
        about: Of the loop, for the record.
        start: Steps that the loop has restored itself, if it does so.
        checkpoint: Where such a loop could have gone on from.
        force: Start anew where a run exists.
    """

    run: Run
    network: nn.Module
    optimizer: torch.optim.Optimizer
    names: Mapping[str, Any]
    spec: Mapping[str, Any]
    about: Mapping[str, Any]
    start: int | None
    checkpoint: Path | None
    force: bool

    def goes_on(self) -> bool:
        """Whether the folder holds this loop's run, to be gone on with.

        Raises:
            UsageError: If it holds something else.
        """
        if self.force:
            return False
        if not Run.is_run(self.run.path):
            self.run.require_free("choose another folder, or pass force=True")
            return False
        record, where = self.run.record, str(self.run.path)
        if "recorder" not in record:
            raise UsageError("the folder holds a run of landscape train", where, "choose another folder")
        if record.get("config_hash") != self._config:
            raise UsageError("the folder holds a run of another network, optimizer or data", where, _ANOTHER)
        return True

    @property
    def _config(self) -> str:
        return same_loop(self.network, self.optimizer, self.names)

    def begin(self) -> None:
        """Write ``run.json``, and empty the folder of anything older."""
        self.run.start(
            {
                "version": 1,
                "status": "running",
                "spec": jsonable({**self.spec, **optimizer_settings(self.optimizer)}),
                "config_hash": self._config,
                "ingredients": jsonable(self.names),
                "recorder": {
                    "network": f"{type(self.network).__module__}.{type(self.network).__qualname__}",
                    "parameters": sum(p.numel() for p in self.network.parameters()),
                    "optimizer": optimizer_record(self.optimizer),
                    **jsonable(self.about),
                },
                "weights_at_start": weights_hash(self.network),
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": versions(),
            }
        )

    def require_continuable(self, steps: int) -> None:
        """Refuse what would cut off more than a kill has cost.

        Args:
            steps: After how many the loop begins.

        Raises:
            UsageError: If the run is finished, or the loop has left out the checkpoint that it could go on from.
        """
        record, where = self.run.record, str(self.run.path)
        made = max((int(line.get("step", 0)) for line in self.run.metrics()), default=0)
        if record.get("status") == "finished" and steps < (record.get("steps") or 0):
            raise UsageError(
                f"the folder holds a finished run of {record['steps']} steps, and the loop begins after {steps}",
                where,
                "go on from its last checkpoint, choose another folder, or pass force=True",
            )
        if steps == 0 and made and self.checkpoint is not None and self.checkpoint.exists():
            raise UsageError(
                f"the folder holds {made} steps of a training that was stopped, and the loop begins from nothing",
                where,
                f"go on from its checkpoint {self.checkpoint}, choose another folder, or pass force=True",
            )

    def cut(self, steps: int) -> None:
        """Drop what the log and the checkpoints have beyond so many steps: it is about to be made again."""
        lines, log = self.run.metrics(), self.run.path / "metrics.jsonl"
        if any(line.get("step", 0) > steps for line in lines) or (lines and not log.read_bytes().endswith(b"\n")):
            self.run.keep_metrics_until(steps)
        self.run.keep_checkpoints_until(steps)

"""The folder of a recorded loop: begun anew, or gone on with from where the loop stands."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
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
from .described import network_form, network_words, optimizer_name, optimizer_record, same_loop, settings_as_made

_ANOTHER = "choose another folder, or pass force=True to start anew"
# Of a spec what has to be equal for a loop to go on, beside the settings of its optimizer.
_EQUAL = ("optimizer", "base", "model", "model_arg", "data", "data_arg", "loss")


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
        made: Settings of the optimizer as the script made it; None where something may have been restored since,
            and nobody has looked before.
        equal: Fields of ``spec`` and ``about`` that have to be equal, too, if the folder has them.
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
    made: Mapping[str, Any] | None
    equal: tuple[str, ...]

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
        require_same_network(self.run, self.network)
        self._require_same(record)
        if record.get("config_hash") != self._config:
            raise UsageError("the folder holds a run of another network, optimizer or data", where, _ANOTHER)
        return True

    def _require_same(self, record: Mapping[str, Any]) -> None:
        """A restored optimizer has the settings of its checkpoint, whatever the script says now."""
        own = {**settings_as_made(self.optimizer), **(self.made or {})}
        there = {**record["recorder"], **record["spec"]}
        told = [name for name in self.equal if there.get(name) is not None]
        fields = [*_EQUAL, *([] if self.made is None else own), *told]
        _require_equal(self.run, there, {**own, **self.spec, **self.about}, fields)

    @property
    def _config(self) -> str:
        return same_loop(self.network, self.optimizer, self.names)

    def begin(self) -> None:
        """Write ``run.json``, and empty the folder of anything older."""
        self.run.start(
            {
                "version": 1,
                "status": "running",
                "spec": jsonable({**self.spec, **settings_as_made(self.optimizer)}),
                "config_hash": self._config,
                "ingredients": jsonable(self.names),
                "recorder": {
                    "network": f"{type(self.network).__module__}.{type(self.network).__qualname__}",
                    "form": network_form(self.network),
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


def require_same_network(run: Run, network: nn.Module) -> None:
    """Refuse a folder that holds a recorded run of another network.

    Raises:
        UsageError: If it does.
    """
    loop = run.record.get("recorder") if Run.is_run(run.path) else None
    if loop and loop.get("form", network_form(network)) != network_form(network):
        then = f"{str(loop.get('network')).rpartition('.')[2]} of {loop.get('parameters') or 0:,} parameters"
        now = network_words(network)
        then, now = (then, now) if then != now else (then, "the same of other names, shapes or types")
        raise UsageError(f"the folder holds a run of another network ({then}, here {now})", str(run.path), _ANOTHER)


def require_same_optimizer(run: Run, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Refuse a folder that holds a recorded run of another optimizer, or of other settings.

    Args:
        run: The folder.
        optimizer: As the script made it: nothing has been restored yet.

    Returns:
        Its settings.

    Raises:
        UsageError: If it does.
    """
    made = settings_as_made(optimizer)
    if Run.is_run(run.path) and "recorder" in run.record:
        here = {"optimizer": [optimizer_name(optimizer)], **made}
        _require_equal(run, run.spec, here, ["optimizer", "base", *made])
    return made


def _require_equal(run: Run, there: Mapping[str, Any], here: Mapping[str, Any], fields: Sequence[str]) -> None:
    here = jsonable(here)
    differs = [
        f"{name} ({_said(there.get(name))}, here {_said(here.get(name))})"
        for name in dict.fromkeys(fields)
        if there.get(name) != here.get(name)
    ]
    if differs:
        what = f"the folder holds a run of another {', another '.join(differs)}"
        raise UsageError(what, str(run.path), _ANOTHER)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)

"""A run folder of ours beside a loop that is not: its log and checkpoints, and the way back after a kill."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..base.files import jsonable
from ..base.plugins import resolve
from ..problem.weighted_losses import weighted
from ..problem.wrappers import unwrapped
from ..registry import LOSSES
from ..results.run import Run
from ..specs import key_values
from ..weights.checkpoint import read_weights
from ..weights.weights import save_weights, tensors_hash, weights_hash
from .described import inner_optimizer, names_record, optimizer_name, settings_as_made
from .due_probes import DueProbes
from .loop_states import LoopStates
from .opening import Opening
from .probing import Apart
from .told import finite, rank, steps_between

log = logging.getLogger(__name__)

_STATE_EVERY_SECONDS = 20.0
_MOST_IDLE_TURNS = 1000  # an accumulation is shorter, and so is a run of overflows


class Recorder:
    """What `record` returns.

    Args:
        model: The network.
        optimizer: Its optimizer.
        run: The folder.
        loop: Whose loop it is, for the record.
        apart: As of `Probing`.
        facts: Of the loop, for the spec: ``batch_size`` and the like.
        described: Of the loop, for the record.
        checkpoint: What a loop that restores itself could go on from.
        made: Settings of its optimizer before that, as of `settings_as_made`.
        **options: All others as of `record`.

    Attributes:
        run: The folder, a `Run`.
        steps: Steps of the optimizer that are made.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        run: Path | str,
        *,
        batch: Any = None,
        loss: Any = None,
        every: str | int | None = None,
        probe: Sequence[str] | str = (),
        steps_per_epoch: int | None = None,
        restore: Sequence[Any] = (),
        start: int | None = None,
        model_name: str | None = None,
        model_arg: Sequence[str] = (),
        data: str | None = None,
        data_arg: Sequence[str] = (),
        seed: int | None = None,
        log: Callable[[dict[str, Any]], object] | None = None,
        force: bool = False,
        loop: str = "own",
        apart: Apart = lambda _: contextlib.nullcontext(),
        facts: Mapping[str, Any] | None = None,
        described: Mapping[str, Any] | None = None,
        checkpoint: Path | None = None,
        made: Mapping[str, Any] | None = None,
    ) -> None:
        self.run, self.steps, self.seconds = Run(run), 0, 0.0
        optimizer = inner_optimizer(optimizer)
        self.model, self.network, self.optimizer = model, unwrapped(model), optimizer
        self.steps_per_epoch, self._start, self._log_row = steps_per_epoch, start, log
        self._every = steps_between(every, steps_per_epoch)
        self._in_epochs = bool(every) and str(every).rstrip("s").endswith("epoch")
        known = resolve(loss, LOSSES).call if isinstance(loss, str) else weighted(loss)
        self._probes = DueProbes(self.run, (probe,) if isinstance(probe, str) else probe, batch, known, apart)
        names = names_record(model_name, data, loss)
        key_values(model_arg, "model_arg")
        key_values(data_arg, "data_arg")
        spec = {
            "optimizer": [optimizer_name(optimizer)],
            "seed": [torch.initial_seed() if seed is None else seed],
            "model_arg": list(model_arg),
            "data_arg": list(data_arg),
            "save_every": None if every is None else str(every),
            "probe": self._probes.names,
            **{k: v["name"] for k, v in names.items()},
            **(facts or {}),
        }
        about = {"loop": loop, "steps_per_epoch": steps_per_epoch, **(described or {})}
        made = settings_as_made(optimizer) if made is None and start is None else made
        told = {"seed": seed, **about, **(facts or {})}
        equal = tuple(
            k for k in ("steps_per_epoch", "batch_size", "seed", "learning_rate") if told.get(k) is not None
        )
        self._opening = Opening(
            self.run, self.network, optimizer, names, spec, about, start, checkpoint, force, made, equal
        )
        process = rank()
        self._writes = process == 0
        if not isinstance(restore, (list, tuple)):
            raise UsageError(f"restore is a {type(restore).__name__}", "restore", "give a list of what is restored")
        self._states = LoopStates(self.run.path / "state", self.network, optimizer, restore, process)
        self._open: contextlib.ExitStack | None = None
        self._metrics: Any = None
        self._began = 0.0
        self._turns: int | None = None  # epochs of `until`
        self._turn_began: int | None = None  # after how many steps, if one is under way
        self._reopened = False  # a finished run, which no further step was made of yet
        self._evaluation: dict[str, Any] | None = None
        self._version: int | None = None  # of the weights, after the last step
        self._theirs = loop != "own"  # a library's loop, which may put other weights in after that

    def __repr__(self) -> str:
        return f"<Recorder of {self.run.path} at step {self.steps}>"

    @property
    def is_open(self) -> bool:
        """Whether it records: it was entered, and not left."""
        return self._open is not None

    @property
    def epochs(self) -> int:
        """Epochs that are made, of ``steps_per_epoch`` steps."""
        return self.steps // self._per_epoch()

    # -- begin and end ------------------------------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        """Take the folder, and bring the loop to where its record stands.

        Raises:
            UsageError: If the folder holds something else, or another process writes there.
        """
        if self._open is not None:
            raise UsageError("the recorder is open already", str(self.run.path), "make another one")
        with contextlib.ExitStack() as stack:
            if self._writes:
                stack.enter_context(self.run.writing())
            self._begin()
            self._began = time.monotonic() - self.seconds
            if self._writes:
                self._metrics = stack.enter_context(open(self.run.path / "metrics.jsonl", "a", encoding="utf-8"))
            stack.callback(self._states.detach)
            self._states.attach(settles=self._start is None)
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Write the last checkpoint; after an exception only what is known already, since a step may be half made."""
        stack, self._open = self._open, None
        if stack is None:
            return
        with stack:
            if kind is None and not self._reopened:
                self._end_turn()  # of a loop that was left by `break`
                self._save_state()
            if not self._writes:
                return
            facts = {"steps": self.steps, "seconds": round(self.seconds, 3)}
            if kind is not None:
                self.run.update(status="interrupted", stopped_by=kind.__name__, **facts)
                return
            if self._reopened:
                return
            final = self._evaluation
            self.run.update(
                status="finished",
                stopped_by=None,
                weights_hash=self._last_weights(),
                **facts,
                **({"final": final} if final else {}),
            )

    def keep_last(self) -> None:
        """Write the checkpoint of the present step now: a loop of others may put other weights in before it ends."""
        self._require_open()
        if self._writes and not self.run.checkpoint_path(self.steps).exists():
            self._save_checkpoint()

    def _last_weights(self) -> str | None:
        """The hash of the weights after the last step, whose checkpoint is written if it is not there."""
        path = self.run.checkpoint_path(self.steps)
        if not self._theirs or self._version in (None, self._present_version()):
            if not path.exists():
                self._save_checkpoint()
            return weights_hash(self.network)
        if not path.exists():  # what the network holds now is an average, or what some other step has left
            log.warning("%s: other weights came after step %d, which has no checkpoint", self.run.path, self.steps)
            return None
        return tensors_hash(read_weights(path).tensors)

    def _present_version(self) -> int:
        """A number that grows whenever the weights are written to."""
        return sum(p._version for p in self.network.parameters())

    def _begin(self) -> None:
        if not self._opening.goes_on():
            self.steps = self._start or 0
            if self._writes:
                self._take_due()  # what cannot be taken is refused before anything is written
                self._opening.begin()
                self._save_checkpoint()
                self._probes.keep()
                self._save_state()
            return
        self.steps = self._restored() if self._start is None else self._start
        self._opening.require_continuable(self.steps)
        if self._writes:
            self._go_on()

    def _restored(self) -> int:
        """Bring the loop to the saved state; how many steps that had made."""
        if not self._states.path.exists():
            if any(line.get("step") for line in self.run.metrics()):
                fix = "restore the loop yourself and pass start=STEPS, or pass force=True to start anew"
                raise UsageError("the state to go on from is gone", str(self._states.path), fix)
            return 0
        counts = self._states.load()
        self.seconds, self._turns = float(counts["seconds"]), counts.get("turns")
        log.info("continuing %s after %d steps", self.run.path, counts["steps"])
        return int(counts["steps"])

    def _go_on(self) -> None:
        self._probes.take_up()
        lines, self._reopened = self.run.metrics(), self.run.record.get("status") == "finished"
        self._opening.cut(self.steps)
        if self._start is not None:
            self.seconds = next((float(r["seconds"]) for r in reversed(lines) if r.get("seconds")), 0.0)
        if not self._reopened:
            self.run.update(status="running", stopped_by=None)
        if self.steps == 0 and not self.run.checkpoint_path(0).exists():
            self._save_checkpoint()
        self._probes.keep()
        self._take_due()

    # -- while it trains ------------------------------------------------------------------------------------------

    def until(self, *, epochs: int | None = None, steps: int | None = None) -> Iterator[int]:
        """The turns of the loop that are still to be made, each by its number from 0.

        What the loop goes on from after a kill is saved where a turn begins: everything that the turn before did is
        in it, the step of a schedule, validation and the random numbers that it drew. So a killed loop makes the same
        bits as one that was not. Inside a turn call `step` after each step of the optimizer.

        Args:
            epochs: A turn is an epoch, with any number of steps.
            steps: A turn is a step, or one micro-batch of it.

        Raises:
            UsageError: If neither or both are given, the recorder is not open, or the turns make no steps.

        Example:
            >>> import tempfile, torch, landscape
            >>> model, x = torch.nn.Linear(2, 1), torch.randn(3, 8, 2)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            >>> with landscape.record(model, optimizer, tempfile.mkdtemp(), restore=[schedule]) as recorder:
            ...     for epoch in recorder.until(epochs=2):
            ...         for batch in x:
            ...             optimizer.zero_grad()
            ...             loss = model(batch).square().mean()
            ...             loss.backward()
            ...             optimizer.step()
            ...             recorder.step(loss)
            ...         schedule.step()
            >>> recorder.steps, round(schedule.get_last_lr()[0], 6)
            (6, 0.001)
        """
        goal = steps if epochs is None else epochs
        if goal is None or (epochs is not None and steps is not None):
            raise UsageError("how long the loop goes on is not told", "until", "pass epochs=N or steps=N")
        self._require_open()
        self._states.in_turns = True
        if epochs is not None and self._turns is None:
            self._turns = self.epochs if self.steps else 0
        idle = 0
        while (self.steps if epochs is None else self._turns or 0) < goal:
            self._turn_began = before = self.steps
            yield self.steps if epochs is None else self._turns or 0
            self._require_open()
            idle = 0 if self.steps > before else idle + 1
            if idle > (_MOST_IDLE_TURNS if epochs is None else 0):
                fix = "call recorder.step(loss) after each step of the optimizer"
                raise UsageError("a turn of the loop has recorded no step", str(self.run.path), fix)
            if epochs is not None and self._in_epochs and self.steps - before != self._per_epoch():
                made = self.steps - before
                fix = f"pass steps_per_epoch={made}"
                raise UsageError(f"an epoch made {made} steps, and not steps_per_epoch", str(self.run.path), fix)
            self._end_turn()
            if idle == 0 and self._start is None:
                self._states.turn(self._counts(), due=self._late())

    def _end_turn(self) -> None:
        if self._turns is not None and self._turn_began is not None and self.steps > self._turn_began:
            self._turns += 1
        self._turn_began = None

    def step(self, loss: Any = None, *, domains: Mapping[str, Any] | None = None, batch: Any = None) -> None:
        """Say that a step of the optimizer is made; call it after ``optimizer.step()``.

        Args:
            loss: Of the batch, before the step, shape ``()``.
            domains: The loss of each domain in the batch, by name.
            batch: The batch, in a form as `record` takes it; the first one is what probes look at if none was given.

        Raises:
            UsageError: If the recorder is not open.
        """
        found = {k: finite(v) for k, v in domains.items()} if domains else None
        self.made({"loss": finite(loss), "domains": found}, batch)

    def made(self, row: Mapping[str, Any] | None = None, batch: Any = None) -> bool:
        """As `step`, for loops that say elsewhere what they log: without ``row`` only what probes found is logged.

        Returns:
            Whether a checkpoint was written.
        """
        self._require_open()
        self.steps += 1
        self.seconds, self._version = time.monotonic() - self._began, self._present_version()
        saves = bool(self._every) and self.steps % self._every == 0
        if self._writes:
            self._record(row, batch)
        if saves and self._writes:
            self._save_checkpoint()
        if self._start is None:
            at_end = not self._in_epochs or self.steps % self._per_epoch() == 0
            self._states.recorded(
                self._counts(), due=saves or (at_end and not self._states.in_turns and self._late())
            )
        if self._writes:
            self._take_due()
        return saves

    def _record(self, row: Mapping[str, Any] | None, batch: Any) -> None:
        if self._reopened:
            self.run.update(status="running", stopped_by=None)
        self._reopened = False
        self._probes.keep(batch)
        lr = self._states.lr()
        if row is not None or self._probes.wait:
            line = {"loss": (row or {}).get("loss"), "lr": lr, "domains": (row or {}).get("domains")}
            self._write({**line, **self._probes.give(), "seconds": round(self.seconds, 4)})

    def evaluation(self, **values: Any) -> None:
        """Log numbers of whole splits at the present step: ``test_loss``, ``test_accuracy``, ``val_loss``, ...

        ``RUN@best`` chooses by ``val_loss``, else ``test_loss``.
        """
        self._require_open()
        if self._writes:
            self._evaluation = {k: finite(v) for k, v in values.items()}
            self._write({"evaluation": self._evaluation})

    def row(self, **values: Any) -> None:
        """Log a row at the present step; probes of the present weights wait for the next step's."""
        self._require_open()
        if self._writes:
            self._write({k: finite(v) if isinstance(v, Tensor | float) else v for k, v in values.items()})

    # -- inside ---------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._open is None:
            raise UsageError("the recorder is not open", str(self.run.path), "use it in a with block")

    def _per_epoch(self) -> int:
        if self.steps_per_epoch is None:
            fix = "pass steps_per_epoch=len(loader)"
            raise UsageError("the recorder does not know how long an epoch is", str(self.run.path), fix)
        return self.steps_per_epoch

    def _take_due(self) -> None:
        self._probes.take(self.steps, self.model, self.optimizer)

    def _write(self, row: Mapping[str, Any]) -> None:
        epoch = None if self.steps_per_epoch is None else round(self.steps / self.steps_per_epoch, 6)
        line = jsonable({"step": self.steps, "epoch": epoch, **row})
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()
        if self._log_row is not None:
            self._log_row(line)

    def _late(self) -> bool:
        """Whether the last state is old. The clocks of several processes differ, so there only steps count."""
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        return (alone or not self._every) and time.monotonic() - self._states.saved_at > _STATE_EVERY_SECONDS

    def _counts(self) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": self.seconds, "turns": self._turns}

    def _save_checkpoint(self) -> None:
        save_weights(self.run.checkpoint_path(self.steps), self.network, {"step": self.steps})

    def _save_state(self) -> None:
        if self._start is None:
            self._states.save(self._counts())

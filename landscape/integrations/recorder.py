"""A run folder of ours beside a loop that is not: the log, checkpoints, probes, and the state to go on from."""

from __future__ import annotations

import contextlib
import datetime
import inspect
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..base.files import jsonable
from ..base.plugins import resolve
from ..data.losses import as_loss
from ..problem.wrappers import unwrapped
from ..registry import LOSSES
from ..results.run import Run
from ..runtime.distributed import is_main_process
from ..specs import key_values
from ..specs.training import interval, probe
from ..training.trainer import versions
from ..weights.weights import save_weights, weights_hash
from .described import inner_optimizer, names_record, optimizer_name, optimizer_record, optimizer_settings, same_loop
from .loop_state import load_loop, save_loop
from .probing import Apart, Probing
from .recorded_batch import examples_of, load_examples, save_examples

log = logging.getLogger(__name__)

_STATE_EVERY_SECONDS = 20.0


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
    ) -> None:
        self.run = Run(run)
        optimizer = inner_optimizer(optimizer)
        self.model, self.network, self.optimizer = model, unwrapped(model), optimizer
        self.steps, self.seconds = 0, 0.0
        self.steps_per_epoch, self.start, self.restore, self.force = steps_per_epoch, start, tuple(restore), force
        self._log_row, self._examples = log, None if batch is None else examples_of(batch)
        self._asked = _probes((probe,) if isinstance(probe, str) else probe)
        self._every = _every(every, steps_per_epoch)
        self._at_epochs = bool(every) and str(every).rstrip("s").endswith("epoch")
        if self._asked and loss is None:
            raise UsageError("probes need the loss", "probe", 'pass loss="cross_entropy", or a callable')
        known = resolve(loss, LOSSES).call if isinstance(loss, str) else loss
        self._probing = Probing(as_loss(known), apart) if self._asked else None
        self._names = names_record(model_name, data, loss)
        key_values(model_arg, "model_arg")
        key_values(data_arg, "data_arg")
        self._given = {
            "optimizer": [optimizer_name(optimizer)],
            "seed": [torch.initial_seed() if seed is None else seed],
            "model_arg": list(model_arg),
            "data_arg": list(data_arg),
            "save_every": None if every is None else str(every),
            "probe": [f"{name}@every={k}" for name, k in self._asked],
            **{k: v["name"] for k, v in self._names.items()},
            **(facts or {}),
        }
        self._loop, self._described = loop, described or {}
        self._writes = _first_process()
        self._open: contextlib.ExitStack | None = None
        self._metrics: Any = None
        self._pending: dict[str, Any] = {}
        self._saved_at = self._began = 0.0
        self._reopened = False  # a finished run, which no further step was made of yet
        self._probed = False  # whether the probes have been taken once
        self._evaluation: dict[str, Any] | None = None

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
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Write the last checkpoint; after an exception only what is known already, since a step may be half made."""
        stack, self._open = self._open, None
        if stack is None:
            return
        with stack:
            if not self._writes:
                return
            facts = {"steps": self.steps, "seconds": round(self.seconds, 3)}
            if kind is not None:
                self.run.update(status="interrupted", stopped_by=kind.__name__, **facts)
                return
            if self._reopened:
                return
            if not self.run.checkpoint_path(self.steps).exists():
                self._save_checkpoint()
            self._save_state()
            final = self._evaluation
            self.run.update(
                status="finished",
                stopped_by=None,
                weights_hash=weights_hash(self.network),
                **facts,
                **({"final": final} if final else {}),
            )

    def _begin(self) -> None:
        config = same_loop(self.network, self.optimizer, self._names)
        if not Run.is_run(self.run.path) or self.force:
            if not self.force:
                self.run.require_free("choose another folder, or pass force=True")
            self.steps = self.start or 0
            if self._writes:
                self._take_due()  # what cannot be taken is refused before anything is written
                self._begin_anew(config)
            return
        record = self.run.record
        where = str(self.run.path)
        if "recorder" not in record:
            raise UsageError("the folder holds a run of landscape train", where, "choose another folder")
        if record.get("config_hash") != config:
            fix = "choose another folder, or pass force=True to start anew"
            raise UsageError("the folder holds a run of another network, optimizer or data", where, fix)
        self.steps = self._restored() if self.start is None else self.start
        finished = record.get("status") == "finished"
        if finished and self.steps < (record.get("steps") or 0):
            fix = "go on from its last checkpoint, choose another folder, or pass force=True"
            raise UsageError(
                f"the folder holds a finished run of {record['steps']} steps, and the loop begins after {self.steps}",
                where,
                fix,
            )
        if self._writes:
            self._go_on(record, finished)

    def _begin_anew(self, config: str) -> None:
        self.run.start(
            {
                "version": 1,
                "status": "running",
                "spec": jsonable({**self._given, **optimizer_settings(self.optimizer)}),
                "config_hash": config,
                "ingredients": jsonable(self._names),
                "recorder": {
                    "loop": self._loop,
                    "network": f"{type(self.network).__module__}.{type(self.network).__qualname__}",
                    "parameters": sum(p.numel() for p in self.network.parameters()),
                    "optimizer": optimizer_record(self.optimizer),
                    "steps_per_epoch": self.steps_per_epoch,
                    **jsonable(self._described),
                },
                "weights_at_start": weights_hash(self.network),
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": versions(),
            }
        )
        self._save_checkpoint()
        self._keep_batch()
        self._save_state()

    def _restored(self) -> int:
        """Bring the loop to the saved state; how many steps that had made."""
        path = self.run.state_path
        if not path.exists():
            if any(line.get("step") for line in self.run.metrics()):
                fix = "restore the loop yourself and pass start=STEPS, or pass force=True to start anew"
                raise UsageError("the state to go on from is gone", str(path), fix)
            return 0
        counts = load_loop(path, self.network, (self.optimizer, *self.restore), random=self._writes)
        self.seconds = float(counts["seconds"])
        log.info("continuing %s after %d steps", self.run.path, counts["steps"])
        return int(counts["steps"])

    def _go_on(self, record: Mapping[str, Any], finished: bool) -> None:
        if self._batch_path.exists():
            kept = load_examples(self._batch_path)
            if self._examples is not None and self._examples.fingerprint() != kept.fingerprint():
                fix = "pass the same batch, or force=True to start anew"
                raise UsageError("the probes of this run look at another batch", str(self.run.path), fix)
            self._examples = kept
        lines = self.run.metrics()
        if any(line.get("step", 0) > self.steps for line in lines) or (
            lines and not (self.run.path / "metrics.jsonl").read_bytes().endswith(b"\n")
        ):
            self.run.keep_metrics_until(self.steps)
        self.run.keep_checkpoints_until(self.steps)
        if self.start is not None:
            self.seconds = next((float(r["seconds"]) for r in reversed(lines) if r.get("seconds")), 0.0)
        self._reopened = finished
        if not finished:
            self.run.update(status="running", stopped_by=None)
        if self.steps == 0 and not self.run.checkpoint_path(0).exists():
            self._save_checkpoint()
        self._keep_batch()
        self._take_due()

    # -- while it trains ------------------------------------------------------------------------------------------

    def step(self, loss: Any = None, *, domains: Mapping[str, Any] | None = None, batch: Any = None) -> None:
        """Say that a step of the optimizer is made; call it right after ``optimizer.step()``.

        Args:
            loss: Of the batch, before the step, shape ``()``.
            domains: The loss of each domain in the batch, by name.
            batch: The batch, in a form as `record` takes it; the first one is what probes look at if none was given.

        Raises:
            UsageError: If the recorder is not open.
        """
        found = {k: _finite(v) for k, v in domains.items()} if domains else None
        self.made({"loss": _finite(loss), "domains": found}, batch)

    def made(self, row: Mapping[str, Any] | None = None, batch: Any = None) -> bool:
        """As `step`, for loops that say elsewhere what they log: without ``row`` only what probes found is logged.

        Returns:
            Whether a checkpoint was written.
        """
        self._require_open()
        self.steps += 1
        self.seconds = time.monotonic() - self._began
        saves = bool(self._every) and self.steps % self._every == 0
        if not self._writes:
            return saves
        if self._reopened:
            self.run.update(status="running", stopped_by=None)
            self._reopened = False
        self._keep_batch(batch)
        if row is not None or self._pending:
            lr = optimizer_settings(self.optimizer).get("lr")
            domains = (row or {}).get("domains")
            line = {"loss": (row or {}).get("loss"), "lr": lr, "domains": domains}
            self._write({**line, **self._taken(), "seconds": round(self.seconds, 4)})
        if saves:
            self._save_checkpoint()
        late = time.monotonic() - self._saved_at > _STATE_EVERY_SECONDS
        if saves or (late and not (self._at_epochs and self.steps % self._per_epoch())):
            self._save_state()
        self._take_due()
        return saves

    def evaluation(self, **values: Any) -> None:
        """Log numbers of whole splits at the present step: ``test_loss``, ``test_accuracy``, ``val_loss``, ...

        ``RUN@best`` chooses by ``val_loss``, else ``test_loss``.
        """
        self._require_open()
        if self._writes:
            self._evaluation = {k: _finite(v) for k, v in values.items()}
            self._write({"evaluation": self._evaluation})

    def row(self, **values: Any) -> None:
        """Log a row at the present step; probes of the present weights wait for the next step's."""
        self._require_open()
        if self._writes:
            self._write({k: _finite(v) if isinstance(v, Tensor | float) else v for k, v in values.items()})

    def _require_open(self) -> None:
        if self._open is None:
            raise UsageError("the recorder is not open", str(self.run.path), "use it in a with block")

    def _per_epoch(self) -> int:
        if self.steps_per_epoch is None:
            fix = "pass steps_per_epoch=len(loader)"
            raise UsageError("the recorder does not know how long an epoch is", str(self.run.path), fix)
        return self.steps_per_epoch

    def _taken(self) -> dict[str, Any]:
        taken, self._pending = self._pending, {}
        return taken

    def _write(self, row: Mapping[str, Any]) -> None:
        epoch = None if self.steps_per_epoch is None else round(self.steps / self.steps_per_epoch, 6)
        line = jsonable({"step": self.steps, "epoch": epoch, **row})
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()
        if self._log_row is not None:
            self._log_row(line)

    # -- probes ---------------------------------------------------------------------------------------------------

    def _take_due(self) -> None:
        """Take the probes that are due at the present weights; they wait for the next row.

        What fails the first time is an error; later it is said, and the training goes on.
        """
        due = [name for name, k in self._asked if self.steps % k == 0 or not self._probed]
        if not due or self._probing is None or self._examples is None:
            return
        settings = optimizer_settings(self.optimizer)
        try:
            self._pending = {"probes": jsonable(self._probing.take(due, self.model, self._examples, settings))}
            self._probed = True
        except Exception as error:
            if not self._probed:
                raise
            log.warning("step %d: no probes: %s", self.steps, error)
            self._pending = {"no_probes": f"{type(error).__name__}: {error}"}

    @property
    def _batch_path(self) -> Path:
        return self.run.path / "state" / "batch.pt"

    def _keep_batch(self, batch: Any = None) -> None:
        if not self._asked or self._batch_path.exists():
            return
        if self._examples is None and batch is not None:
            self._examples = examples_of(batch)
        if self._examples is not None:
            save_examples(self._examples, self._batch_path)
            facts = self.run.record.get("ingredients") or {}
            sizes = {"examples": len(self._examples), "domains": self._examples.domains}
            self.run.update(
                ingredients={**facts, "data_hash": {"probes": self._examples.fingerprint()}}, probed=jsonable(sizes)
            )

    # -- files ----------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        save_weights(self.run.checkpoint_path(self.steps), self.network, {"step": self.steps})

    def _save_state(self) -> None:
        if self.start is not None:
            return
        counts = {"steps": self.steps, "seconds": self.seconds}
        stateful = (self.optimizer, *self.restore)
        save_loop(self.run.state_path, self.network, stateful, counts)
        self._saved_at = time.monotonic()


def require_known(options: Mapping[str, Any], told: Sequence[str]) -> None:
    """Refuse at once what `Recorder` does not take, and what a loop of a library tells itself.

    Raises:
        TypeError: As Python does for an unknown keyword.
    """
    known = inspect.signature(Recorder).parameters.keys() - {"model", "optimizer", "run", *told}
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; there are {', '.join(sorted(known))}")


def held_out(values: Mapping[str, Any]) -> dict[str, float]:
    """Of a loop's own numbers those of held-out examples, by our names: ``eval/acc`` is ``val_accuracy``."""
    found = {}
    for name, value in values.items():
        prefix, _, rest = name.replace("/", "_").partition("_")
        number = _finite(value) if isinstance(value, (int, float)) or _is_scalar(value) else None
        if prefix in ("val", "valid", "validation", "eval", "test") and rest and number is not None:
            found[f"{'test' if prefix == 'test' else 'val'}_{'accuracy' if rest == 'acc' else rest}"] = number
    return found


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _every(text: str | int | None, steps_per_epoch: int | None) -> int:
    found = interval(None if text is None else str(text), "every")
    if found is None:
        return 0
    if found[1] == "epochs" and steps_per_epoch is None:
        raise UsageError(
            "it is not known how long an epoch is", f"every={text!r}", "pass steps_per_epoch=len(loader)"
        )
    return found[0] * (steps_per_epoch or 1 if found[1] == "epochs" else 1)


def _probes(texts: Sequence[str]) -> list[tuple[str, int]]:
    return [probe(text, "probe") for text in texts]


def _first_process() -> bool:
    """Whether this process writes: the first of those of ``torch.distributed``, too."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_main_process() and (not together or torch.distributed.get_rank() == 0)


def _finite(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value.detach()) if isinstance(value, torch.Tensor) else float(value)
    return number if math.isfinite(number) else None

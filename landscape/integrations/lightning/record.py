"""A run folder of ours from Lightning's Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...base.errors import UsageError
from ...base.files import atomic_path
from ...optim.core.passes import RandomState
from ...problem.wrappers import unwrapped
from ...results.run import Run
from ...training.events import scalars
from ..described import inner_optimizer, settings_as_made
from ..loop_state import read_random, written
from ..opening import require_same_network, require_same_optimizer
from ..recorder import Recorder
from ..told import held_out, require_known
from .library import lightning

Callback: Any = lightning().Callback

_TOLD = ("steps_per_epoch", "restore", "start", "loop", "apart", "facts", "described", "checkpoint", "made")
_IN_ITS_WAY = ("training_step", "optimizer_step", "log")  # what callbacks put on the module itself


class Landscape(Callback):
    """Records a training of Lightning's Trainer into a run folder, with probes; the training computes the same bits.

    Numbers go to the Trainer's loggers, too, under the names that `landscape.scalars` gives. What the module
    logs of held-out examples (``val_loss``, ``val_acc``, ``test_...``) becomes the run's evaluation. Domains' losses
    are recorded if ``training_step`` returns ``{"loss": ..., "domains": {name: loss}}``.

    To go on after a kill, give `ckpt_path` to ``fit``; with a checkpoint of your own the folder is cut off at the
    step that the training begins with. To begin from nothing where there is a `ckpt_path` is refused unless ``force``
    asks for it, and a finished run is never cut off. In the middle of an epoch Lightning
    takes the data from their start again; with ``every`` in epochs it goes on exactly, in one process with the random
    numbers of shuffling and dropout, too.

    Args:
        run: The folder.
        network: Attribute of the module that holds the network which is recorded; None: the module itself if it has
            a ``forward``, else its only child with parameters.
        **options: ``batch``, ``loss``, ``every``, ``probe``, ``model_name``, ``model_arg``, ``data``, ``data_arg``,
            ``seed``, ``log`` and ``force`` as of `landscape.record`.

    Raises:
        TypeError: If an option is unknown.
        UsageError: When training starts, as of `landscape.record`; if there are several optimizers, or the strategy
            holds the network in parts.

    Example:
        >>> import tempfile, lightning.pytorch as pl
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from landscape.integrations.lightning import Landscape
        >>> recorder = Landscape(tempfile.mkdtemp(), every=2)
        >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        >>> trainer = pl.Trainer(max_steps=4, limit_val_batches=0, callbacks=[recorder], **quiet)
        >>> trainer.fit(BoringModel(), ckpt_path=recorder.ckpt_path)
        >>> sorted(recorder.run.checkpoints())
        [0, 2, 4]
    """

    def __init__(self, run: Path | str, *, network: str | None = None, **options: Any) -> None:
        super().__init__()
        require_known(options, _TOLD, Recorder)
        self._folder, self._network, self._options = Path(run).absolute(), network, options
        self._losses: list[torch.Tensor] = []
        self._due = False
        self._random: dict[str, Any] | None = None
        self._made: dict[str, Any] | None = None
        self._owed: dict[int, float] = {}
        self._recorder: Recorder | None = None

    @property
    def ckpt_path(self) -> str | None:
        """Where to go on from, for ``fit``; None if nothing was begun, or ``force`` says to begin anew."""
        path = self._folder / "state" / "lightning.ckpt"
        return str(path) if path.exists() and not self._options.get("force") else None

    @property
    def run(self) -> Any:
        """The folder, a `Run`."""
        if self._recorder is None:
            raise UsageError("no training has begun", str(self._folder), "fit first")
        return self._recorder.run

    def state_dict(self) -> dict[str, Any]:
        """What Lightning's checkpoints do not have.

        Random states, without which the shuffled order of an epoch comes twice; and at the end of an epoch what
        schedules that watch a metric are about to be told, and would not be told again.
        """
        return {"random": written(RandomState.now()), "owed": dict(self._owed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the training starts."""
        self._random, self._owed = state_dict.get("random"), dict(state_dict.get("owed") or {})

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Restore random states: next, the loader draws the order of the epoch; note what the optimizer is set to."""
        if len(trainer.optimizers) == 1:  # soon its checkpoint is restored, with the settings of then
            optimizer = inner_optimizer(trainer.optimizers[0])
            force = self._options.get("force")
            self._made = (
                settings_as_made(optimizer) if force else require_same_optimizer(Run(self._folder), optimizer)
            )
        random, self._random = self._random, None
        if random is not None and trainer.world_size == 1:  # of the first process, and the others have their own
            read_random(random).restore()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the folder at the step that the training begins with."""
        where = type(pl_module).__name__
        if len(trainer.optimizers) != 1:
            fix = "use landscape.record in training_step"
            raise UsageError(f"there are {len(trainer.optimizers)} optimizers, and a run has one", where, fix)
        kind = type(trainer.strategy).__name__
        if any(name in kind for name in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise UsageError(f"{kind} holds the network in parts", where, "use DDP or one device")
        self._losses = []
        for place, value in self._owed.items():
            pl_module.lr_scheduler_step(trainer.lr_scheduler_configs[place].scheduler, value)
        self._owed = {}
        batches, log = trainer.num_training_batches, self._options.get("log")

        def log_row(row: dict[str, Any]) -> None:
            if log is not None:
                log(row)
            if "loss" not in row or row.get("probes") or row["step"] % trainer.log_every_n_steps == 0:
                for logger in trainer.loggers:
                    logger.log_metrics(scalars(row), step=row["step"])

        recorder = Recorder(
            _network(pl_module, self._network),
            trainer.optimizers[0],
            self._folder,
            loop="lightning",
            checkpoint=Path(self.ckpt_path) if self.ckpt_path else None,
            start=trainer.global_step,
            steps_per_epoch=math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None,
            apart=_apart,
            made=self._made,
            facts=_batch_size(trainer),
            described={"precision": str(trainer.precision), "devices": trainer.world_size},
            **{**self._options, "log": log_row},
        )
        self._recorder = recorder.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the step, if it is made."""
        if self._recorder is None:
            return
        found = outputs if isinstance(outputs, Mapping) else {"loss": outputs}
        if isinstance(found.get("loss"), torch.Tensor):
            self._losses.append(found["loss"].detach())
        if trainer.global_step == self._recorder.steps:
            return
        # Lightning has divided each loss by how many micro-batches a step has
        whole = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        losses, self._losses = self._losses, []
        domains = found.get("domains")
        row = {
            "loss": float(torch.stack(losses).mean()) * whole if losses else None,
            "domains": {k: float(v) for k, v in domains.items()} if isinstance(domains, Mapping) else None,
        }
        while self._recorder.steps < trainer.global_step:
            saves = self._recorder.made(row, batch)
            row = {"loss": None, "domains": None}
        if _ends(trainer):
            self._recorder.keep_last()  # callbacks may put an average in its place before it ends
        self._due = saves
        if saves and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Know that the schedules have been told."""
        self._owed = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save what was due at the last batch: only now has Lightning counted it."""
        self._owed = _owed(trainer)
        if self._due:
            self._save(trainer)
        self._due = False

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what was logged of held-out examples."""
        if self._recorder is not None and not trainer.sanity_checking:
            found = held_out(trainer.callback_metrics)
            if found:
                self._recorder.evaluation(**found)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the last checkpoint."""
        self._owed = {}
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)
            self._save(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the folder as it is, and say if it was the checkpoint of another network that could not be loaded."""
        if self._recorder is not None:
            self._recorder.__exit__(type(exception), exception, None)
        elif trainer.ckpt_path and not isinstance(exception, UsageError) and self.ckpt_path:
            require_same_network(Run(self._folder), unwrapped(_network(pl_module, self._network)))

    def _save(self, trainer: Any) -> None:
        path = self._folder / "state" / "lightning.ckpt"
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path)  # takes part and writes nothing
            return
        with atomic_path(path) as temporary:
            trainer.save_checkpoint(temporary)


def _owed(trainer: Any) -> dict[int, float]:
    """What Lightning tells the schedules that watch a metric after this epoch, by their places."""
    found = {}
    for place, config in enumerate(trainer.lr_scheduler_configs):
        value = trainer.callback_metrics.get(config.monitor) if config.reduce_on_plateau else None
        if value is not None and config.interval == "epoch" and (trainer.current_epoch + 1) % config.frequency == 0:
            found[place] = float(value)
    return found


def _ends(trainer: Any) -> bool:
    """Whether no step follows, as far as it can be known."""
    last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    out_of_steps = trainer.max_steps not in (None, -1) and trainer.global_step >= trainer.max_steps
    return bool(trainer.should_stop or out_of_steps or (last_epoch and trainer.is_last_batch))


def _batch_size(trainer: Any) -> dict[str, int] | None:
    """Of a step, if the loader says it."""
    size = getattr(trainer.train_dataloader, "batch_size", None)
    return (
        {"batch_size": size * trainer.accumulate_grad_batches * trainer.world_size} if isinstance(size, int) else None
    )


def _network(module: Any, name: str | None) -> nn.Module:
    where = type(module).__name__
    if name is not None:
        found = getattr(module, name, None)
        if not isinstance(found, nn.Module):
            raise UsageError(f"it has no network {name!r}", where, "name one of its modules")
        return found
    if type(module).forward is not lightning().LightningModule.forward:
        own: nn.Module = module
        return own
    children = [k for k, m in module.named_children() if any(True for _ in m.parameters())]
    if len(children) != 1:
        given = ", ".join(children)
        raise UsageError(f"it has no forward and the networks {given}", where, "pass network=, or define forward")
    only: nn.Module = getattr(module, children[0])
    return only


@contextmanager
def _apart(network: nn.Module) -> Iterator[None]:
    """Without the Trainer, which a copy would take along, and without what callbacks have put there."""
    held = []
    for module in network.modules():
        if isinstance(module, lightning().LightningModule):
            own = module.__dict__
            held.append((own, dict(own)))
            own["_trainer"] = own["_fabric"] = None
            for name in _IN_ITS_WAY:
                own.pop(name, None)
    try:
        yield
    finally:
        for own, before in held:
            own.clear()
            own.update(before)

"""A run folder of ours from the Trainer of transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ...base.errors import UsageError
from ...optim.core.passes import RandomState
from ...problem.wrappers import unwrapped
from ...results.run import Run
from ...training.events import scalars
from ..described import inner_optimizer, settings_as_made
from ..opening import require_same_network, require_same_optimizer
from ..recorded_batch import own_loss
from ..recorder import Recorder
from ..told import held_out, require_known
from .loggers import tell

_TOLD = ("steps_per_epoch", "restore", "start", "loop", "apart", "facts", "described", "checkpoint", "made")


class LandscapeCallback(TrainerCallback):
    """Records a training of the Trainer into a run folder, with probes; the training computes the same bits.

    Losses are those that the Trainer logs, means over ``logging_steps``; what it evaluates becomes the run's
    evaluation (``eval_loss`` is ``val_loss``). Checkpoints are written ``every`` so often, beside those that the
    Trainer goes on from (``resume_from_checkpoint``): the folder is cut off at the step that it begins with.
    To begin from nothing where the Trainer's folder holds a checkpoint is refused unless ``force`` asks for it, and a
    finished run is never cut off.

    For a loop with Accelerate use `landscape.record`.

    Args:
        run: The folder.
        trainer: What it reports to gets the same numbers, under the names that `landscape.scalars` gives:
            ``trainer.add_callback(LandscapeCallback(run, trainer=trainer))``.
        **options: ``batch``, ``loss``, ``every``, ``probe``, ``model_name``, ``model_arg``, ``data``, ``data_arg``,
            ``seed``, ``log`` and ``force`` as of `landscape.record`. Probes look at the first examples of the
            training set, and take the loss that the network gives itself, if ``batch`` and ``loss`` are left out.

    Raises:
        TypeError: If an option is unknown.
        UsageError: When training starts, as of `landscape.record`; if the training set is a stream and probes have no
            ``batch``, or the network is held in parts.

    Example:
        >>> import torch
        >>> from transformers import Trainer, TrainingArguments
        >>> from landscape.integrations.huggingface import LandscapeCallback
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, x, labels):
        ...         return {"loss": (super().forward(x) - labels).square().mean()}
        >>> data = [{"x": torch.randn(2), "labels": torch.zeros(1)} for _ in range(8)]
        >>> arguments = TrainingArguments("out", max_steps=3, report_to=[])
        >>> recorder = LandscapeCallback("runs/mine", every=2, probe="surrogate-gap@every=2", force=True)
        >>> Trainer(Network(2, 1), arguments, train_dataset=data, callbacks=[recorder]).train().global_step
        {...}
        3
        >>> sorted(recorder.run.checkpoints())
        [0, 2, 3]
    """

    def __init__(self, run: Path | str, *, trainer: Any = None, **options: Any) -> None:
        require_known(options, _TOLD, Recorder)
        self._folder, self._trainer, self._options = Path(run).absolute(), trainer, options
        self._recorder: Recorder | None = None
        self._telling = False
        self._made: dict[str, Any] | None = None
        if trainer is not None:
            self._look(trainer.model, trainer.optimizer)

    @property
    def run(self) -> Any:
        """The folder, a `Run`."""
        if self._recorder is None:
            raise UsageError("no training has begun", str(self._folder), "train first")
        return self._recorder.run

    def on_init_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Look at the network and the optimizer before the Trainer loads a checkpoint into them."""
        self._look(named.get("model"), named.get("optimizer"))

    def _look(self, model: Any, optimizer: Any) -> None:
        run, force = Run(self._folder), self._options.get("force")
        if model is not None and not force:
            require_same_network(run, unwrapped(model))
        if optimizer is not None:
            optimizer = inner_optimizer(optimizer)
            self._made = settings_as_made(optimizer) if force else require_same_optimizer(run, optimizer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Open the folder at the step that the training begins with."""
        if self._recorder is not None:  # the Trainer says nothing of an exception
            self._recorder.__exit__(RuntimeError, None, None)
        if args.deepspeed or args.fsdp:
            raise UsageError("DeepSpeed and FSDP hold the network in parts", "LandscapeCallback", "use DDP")
        loader, options = named["train_dataloader"], dict(self._options)
        if options.get("probe"):
            options["loss"] = options.get("loss") or own_loss
            if options.get("batch") is None:
                options["batch"] = _first_examples(loader)
        try:
            per_epoch: int | None = math.ceil(len(loader) / args.gradient_accumulation_steps)
        except TypeError:
            per_epoch = None
        log = options.get("log")

        def log_row(row: dict[str, Any]) -> None:
            if log is not None:
                log(row)
            if self._trainer is not None and not self._telling:
                self._telling, due = True, control.should_log
                try:
                    numbers = {k: v for k, v in scalars(row).items() if k != "epoch"}  # which the Trainer says itself
                    tell(self._trainer, numbers, row["step"])
                finally:  # the Trainer takes any log for the one that was due
                    self._telling, control.should_log = False, due

        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        recorder = Recorder(
            named["model"],
            named["optimizer"],
            self._folder,
            loop="transformers",
            checkpoint=_last_checkpoint(args.output_dir),
            start=state.global_step,
            steps_per_epoch=per_epoch,
            facts={"batch_size": size},
            made=self._made,
            described={
                "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "32",
                # of an optimizer that the Trainer makes itself; one that it is given has its own
                **({"learning_rate": args.learning_rate} if self._made is None else {}),
            },
            **{"seed": args.seed, **options, "log": log_row},
        )
        self._recorder = recorder.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Record the step."""
        while self._recorder is not None and self._recorder.steps < state.global_step:
            self._recorder.made()
        if self._recorder is not None and (control.should_training_stop or state.global_step >= state.max_steps):
            self._recorder.keep_last()  # the Trainer may load the best one before it ends

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
        """Record the loss."""
        if self._recorder is not None and self._recorder.is_open and not self._telling and "loss" in (logs or {}):
            self._recorder.row(loss=float(logs["loss"]), lr=logs.get("learning_rate"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **named: Any) -> None:
        """Record what was found on held-out examples."""
        found = held_out(metrics or {})
        if self._recorder is not None and self._recorder.is_open and found:
            self._recorder.evaluation(**found)

    def on_train_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Write the last checkpoint."""
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)


def _last_checkpoint(folder: str) -> Path | None:
    found = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    return Path(found) if found else None


def _first_examples(loader: Any) -> Any:
    """As many as a batch has, without asking the loader, whose order would go on."""
    dataset, size = loader.dataset, loader.batch_size or getattr(loader, "total_batch_size", 8)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UsageError("the training set is a stream", "LandscapeCallback", "pass batch= for the probes")
    random = RandomState.now()
    try:
        return loader.collate_fn([dataset[i] for i in range(min(size, len(dataset)))])
    finally:
        random.restore()

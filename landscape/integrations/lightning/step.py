"""All passes of a step in Lightning's loop, whatever it accumulates, scales, clips and logs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...base.errors import UsageError
from ...optim.core.engine import ERM
from ...optim.core.replay import Replay
from .library import lightning

Callback: Any = lightning().Callback


class SharpnessAware(Callback):
    """Lets Lightning's Trainer train with any optimizer of `landscape.optim`, in automatic optimization.

    Lightning's own pass over the micro-batches of a step (``accumulate_grad_batches``) is the first pass; then each
    ``training_step`` is run again, with its batch and its random numbers, at the weights of every other pass. After
    that Lightning unscales, clips (``gradient_clip_val``) and steps once, with the update gradient. What
    ``training_step`` logs, and metrics of torchmetrics, come from the first pass alone. The batches of a step stay
    in memory until it is made.

    A method of domains needs ``training_step`` to return
    ``self.optimizers().objective(BatchLoss(mean, domains, counts))`` as its loss.

    In manual optimization nothing is needed: ``self.optimizers().step(closure)``, with ``manual_backward`` in the
    closure; with ``16-mixed`` precision that is refused.

    Raises:
        UsageError: When training starts, if the strategy makes the step itself (DeepSpeed, FSDP), or
            ``training_step`` takes its batches from an iterator, which cannot be asked for them again.

    Example:
        >>> import torch, lightning.pytorch as pl
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from landscape.integrations.lightning import SharpnessAware
        >>> from landscape.optim import SAM
        >>> class Flat(BoringModel):
        ...     def configure_optimizers(self):
        ...         return SAM(torch.optim.SGD(self.parameters(), lr=0.1))
        >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        >>> trainer = pl.Trainer(max_steps=2, accumulate_grad_batches=4, callbacks=[SharpnessAware()], **quiet)
        >>> trainer.fit(Flat())
        >>> trainer.global_step
        2
    """

    def __init__(self) -> None:
        super().__init__()
        self._replay: Replay | None = None
        self._theirs: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the place of two methods of the module until training ends."""
        self._let_go(pl_module)
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        if not pl_module.automatic_optimization or not isinstance(optimizer, ERM):
            return
        if trainer.strategy.handles_gradient_accumulation or "FSDP" in type(trainer.strategy).__name__:
            kind = type(trainer.strategy).__name__
            raise UsageError(f"{kind} makes the step itself", type(optimizer).__name__, "use DDP or one device")
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            where = f"training_step of {type(pl_module).__name__}"
            raise UsageError("an iterator gives no batch twice", where, "take (batch, batch_idx)")
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._replay = Replay(optimizer, scaler.get_scale if scaler is not None else lambda: 1.0)
        ours = {
            "training_step": self._training_step(trainer, pl_module, self._replay),
            "optimizer_step": self._optimizer_step(pl_module, self._replay),
        }
        self._theirs = {name: pl_module.__dict__[name] for name in ours if name in pl_module.__dict__}
        pl_module.__dict__.update(ours)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the module as it was."""
        self._let_go(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._let_go(pl_module)

    def _let_go(self, module: Any) -> None:
        if self._replay is not None:
            self._replay.clear()
            self._replay = None
            for name in ("training_step", "optimizer_step"):
                module.__dict__.pop(name, None)
            module.__dict__.update(self._theirs)

    def _training_step(self, trainer: Any, module: Any, replay: Replay) -> Any:
        theirs = module.training_step

        @functools.wraps(theirs)
        def training_step(*arguments: Any, **named: Any) -> Any:
            if replay.replaying or _differentiates_nothing(trainer):
                return theirs(*arguments, **named)
            again = functools.partial(_once_more, trainer, module, replay.optimizer, arguments, named)
            replay.expect(again, last=not trainer.fit_loop.epoch_loop._should_accumulate())
            output = theirs(*arguments, **named)
            if output is None:  # Lightning's way to leave a batch out
                replay.forget_last()
            return output

        return training_step

    def _optimizer_step(self, module: Any, replay: Replay) -> Any:
        theirs = module.optimizer_step

        @functools.wraps(theirs)
        def optimizer_step(
            epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None, **named: Any
        ) -> None:
            if _differentiates_nothing(module.trainer):
                optimizer_closure()
                return

            def all_passes() -> Any:
                loss = optimizer_closure()
                with _as_it_was(module):
                    replay.complete()
                return loss

            theirs(epoch, batch_idx, optimizer, all_passes, **named)

        return optimizer_step


def _differentiates_nothing(trainer: Any) -> bool:
    """Whether the loop goes forward only, as while StochasticWeightAveraging takes statistics of its average."""
    return bool(getattr(trainer.fit_loop.epoch_loop.automatic_optimization, "_skip_backward", False))


def _once_more(trainer: Any, module: Any, optimizer: ERM, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Forward and backward of one micro-batch, as Lightning's closure makes them."""
    output = trainer.strategy.training_step(*arguments, **named)
    loss = output["loss"] if isinstance(output, Mapping) else output
    trainer.strategy.backward(loss / trainer.accumulate_grad_batches, optimizer)


@contextmanager
def _as_it_was(module: Any) -> Iterator[None]:
    """Log nothing in the block, and leave the module's metrics as they are."""
    kept = [(m, m._copy_state_dict(), m._update_count, m._computed) for m in module.modules() if _is_metric(m)]
    module.log = lambda *_, **__: None
    try:
        yield
    finally:
        del module.log
        for metric, state, count, computed in kept:
            for name, value in state.items():
                setattr(metric, name, value)
            metric._update_count, metric._computed = count, computed


def _is_metric(module: nn.Module) -> bool:
    from torchmetrics import Metric  # comes with Lightning

    return isinstance(module, Metric)

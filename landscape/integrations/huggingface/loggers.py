"""Our numbers in the places that the Trainer of transformers reports to, under our names.

Its callbacks put ``train/`` before names that they do not know, for TensorBoard and Weights & Biases and not for
MLflow. These three are told directly; all others hear of a log of the Trainer, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Numbers = Mapping[str, float]


def _tensorboard(callback: Any, numbers: Numbers, step: int) -> None:
    if callback.tb_writer is not None:
        for name, value in numbers.items():
            callback.tb_writer.add_scalar(name, value, step)
        callback.tb_writer.flush()


def _wandb(callback: Any, numbers: Numbers, step: int) -> None:
    if callback._initialized:
        callback._wandb.log({**numbers, "train/global_step": step})  # which it counts steps by


def _mlflow(callback: Any, numbers: Numbers, step: int) -> None:
    if callback._initialized:
        callback._ml_flow.log_metrics(metrics=dict(numbers), step=step)


_DIRECT: dict[str, Callable[[Any, Numbers, int], None]] = {
    "TensorBoardCallback": _tensorboard,
    "WandbCallback": _wandb,
    "MLflowCallback": _mlflow,
}


def tell(trainer: Any, numbers: Numbers, step: int) -> None:
    """Log numbers wherever a Trainer reports to, and in its own history."""
    handler, others = trainer.callback_handler, []
    for callback in handler.callbacks:
        direct = next((_DIRECT[k.__name__] for k in type(callback).__mro__ if k.__name__ in _DIRECT), None)
        if direct is None:
            others.append(callback)
        elif trainer.is_world_process_zero():
            direct(callback, numbers, step)
    everybody, handler.callbacks = handler.callbacks, others
    try:
        trainer.log(dict(numbers))
    finally:
        handler.callbacks = everybody

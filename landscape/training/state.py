"""What a training needs to go on after a kill: weights, buffers, optimizer, average, and where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..base.errors import DataError
from ..base.files import atomic_path

if TYPE_CHECKING:
    from .loop import Training

# Plain values of a `Training` that belong to its state.
_COUNTS = ("step", "seconds", "gradient_evaluations", "skipped_steps", "negative_weights", "train_loss")


def save_state(training: Training, path: Path) -> None:
    """Replace the state file in one piece."""
    state = {
        "version": 1,
        "counts": {name: getattr(training, name) for name in _COUNTS},
        "parameters": {k: p.detach() for k, p in training.model.named_parameters()},
        "buffers": dict(training.model.named_buffers()),
        "optimizer": training.optimizer.state_dict(),
        "average": training.averaged.state_dict() if training.averaged else None,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_state(training: Training, path: Path) -> None:
    """Bring a new training to where the saved one stood.

    Raises:
        DataError: If the file is damaged or does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, tensor in (*training.model.named_parameters(), *training.model.named_buffers()):
                kind = "parameters" if isinstance(tensor, nn.Parameter) else "buffers"
                tensor.copy_(state[kind][name])
        training.optimizer.load_state_dict(state["optimizer"])
        if training.averaged is not None:
            training.averaged.load_state_dict(state["average"])
        for name in _COUNTS:
            setattr(training, name, state["counts"][name])
    except Exception as error:
        raise DataError(
            f"the resume state is damaged ({type(error).__name__})", str(path), "start anew with `force=True`"
        ) from error

"""What a loop of the user's needs to go on after a kill: weights, buffers, optimizer, schedules, random states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base.errors import DataError
from ..base.files import atomic_path
from ..optim.core.passes import RandomState


def save_loop(path: Path, network: nn.Module, stateful: Sequence[Any], counts: dict[str, Any]) -> None:
    """Replace the state file in one piece.

    Args:
        path: The file.
        network: Its parameters and buffers are kept.
        stateful: Optimizer, schedules and what else has a ``state_dict``.
        counts: Where the loop stands.
    """
    random = RandomState.now()
    name, keys, *rest = random.numpy
    state = {
        "version": 1,
        "counts": counts,
        "tensors": {k: t.detach() for k, t in _tensors(network)},
        "stateful": [s.state_dict() for s in stateful],
        "random": {
            "torch": {str(device): value for device, value in random.states.items()},
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
            "python": random.python,
        },
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_loop(path: Path, network: nn.Module, stateful: Sequence[Any], *, random: bool = True) -> dict[str, Any]:
    """Bring a loop that begins to where the saved one stood; returns the counts.

    Raises:
        DataError: If the file is damaged or does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, tensor in _tensors(network):
                tensor.copy_(state["tensors"][name])
        for one, kept in zip(stateful, state["stateful"], strict=True):
            one.load_state_dict(kept)
        if random:
            _random_state(state["random"]).restore()
        counts: dict[str, Any] = state["counts"]
    except Exception as error:
        fix = "start anew with force=True; `restore` lists what it was begun with"
        raise DataError(f"the resume state is damaged or of another loop ({error})", str(path), fix) from error
    return counts


def _tensors(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def _random_state(kept: dict[str, Any]) -> RandomState:
    here = RandomState.now().states
    states = {torch.device(k): v for k, v in kept["torch"].items()}
    name, keys, *rest = kept["numpy"]
    numpy = (name, keys.numpy().astype(np.uint32), *rest)
    version, words, gauss = kept["python"]
    return RandomState({k: v for k, v in states.items() if k in here}, numpy, (version, tuple(words), gauss))

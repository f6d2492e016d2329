"""What a loop of the user's needs to go on after a kill: weights, buffers, optimizer, schedules, random states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import DataError
from ..base.files import atomic_path
from ..optim.core.passes import RandomState


@dataclass(frozen=True)
class Moment:
    """What of a loop has moved on by the time its state is written.

    Attributes:
        counts: Where the loop stands.
        buffers: Of the network.
        random: The global generators.
    """

    counts: dict[str, Any]
    buffers: dict[str, Tensor]
    random: RandomState

    @classmethod
    def now(cls, network: nn.Module, counts: Mapping[str, Any]) -> Moment:
        """The present one."""
        buffers = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
        return cls(dict(counts), buffers, RandomState.now())


def save_loop(
    path: Path, network: nn.Module, stateful: Sequence[Any], moment: Moment, beside: Sequence[Tensor] = ()
) -> None:
    """Replace the state file in one piece.

    Args:
        path: The file.
        network: Its parameters are kept as they are now.
        stateful: Optimizer, schedules, generators and what else has a ``state_dict``, as they are now.
        moment: Everything else.
        beside: Parameters that the optimizer moves and the network does not hold, likewise.
    """
    state = {
        "version": 1,
        "counts": moment.counts,
        "tensors": {**{k: p.detach() for k, p in network.named_parameters()}, **moment.buffers},
        "stateful": [state_of(s) for s in stateful],
        "beside": [p.detach() for p in beside],
        "random": written(moment.random),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_loop(
    path: Path, network: nn.Module, stateful: Sequence[Any], beside: Sequence[Tensor] = ()
) -> tuple[dict[str, Any], RandomState]:
    """Bring a loop that begins to where the saved one stood, but for the global generators.

    Returns:
        The counts, and the state of the generators.

    Raises:
        DataError: If the file is damaged or does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
                tensor.copy_(state["tensors"][name])
            for tensor, kept in zip(beside, state.get("beside", []), strict=True):
                tensor.copy_(kept)
        for one, kept in zip(stateful, state["stateful"], strict=True):
            one.set_state(kept) if isinstance(one, torch.Generator) else one.load_state_dict(kept)
        counts: dict[str, Any] = state["counts"]
        return counts, read_random(state["random"])
    except Exception as error:
        fix = "start anew with force=True; `restore` lists what it was begun with"
        raise DataError(f"the resume state is damaged or of another loop ({error})", str(path), fix) from error


def state_of(stateful: Any) -> Any:
    """Of an object with a ``state_dict``, or of a generator of random numbers."""
    return stateful.get_state() if isinstance(stateful, torch.Generator) else stateful.state_dict()


_LAST = 2  # the process that writes the state may be one save behind


def save_random(path: Path, moment: Moment) -> None:
    """Keep the generators of a process that does not write the state, under the steps that are made."""
    kept = dict(list(_kept_random(path).items())[-(_LAST - 1) :])
    kept[int(moment.counts["steps"])] = written(moment.random)
    with atomic_path(path) as temporary:
        torch.save(kept, temporary)


def load_random(path: Path, steps: int) -> RandomState | None:
    """What `save_random` has kept for so many steps; None if it has not."""
    kept = _kept_random(path).get(steps)
    return None if kept is None else read_random(kept)


def _kept_random(path: Path) -> dict[int, Any]:
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}
    except Exception as error:
        raise DataError(f"the random states are damaged ({error})", str(path), "delete the file") from error
    return kept if isinstance(kept, dict) else {}


def written(random: RandomState) -> dict[str, Any]:
    """Random states as tensors and plain values, which loading executes nothing for."""
    name, keys, *rest = random.numpy
    return {
        "torch": {str(device): value for device, value in random.states.items()},
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.python,
    }


def read_random(kept: dict[str, Any]) -> RandomState:
    """What `written` has made; states of devices that are not here are left out."""
    here = RandomState.now().states
    states = {torch.device(k): v for k, v in kept["torch"].items()}
    name, keys, *rest = kept["numpy"]
    numpy = (name, keys.numpy().astype(np.uint32), *rest)
    version, words, gauss = kept["python"]
    return RandomState({k: v for k, v in states.items() if k in here}, numpy, (version, tuple(words), gauss))

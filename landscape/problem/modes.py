"""Train mode as a fixed function of the weights, for a `Problem`'s own copy of a network.

In eval mode dropout and BatchNorm are inert. In train mode a forward pass draws masks and writes running statistics,
so that no two passes see the same loss. Here every pass starts from the same buffers and gives them back, and, with
a seed to replay, from the same random numbers: the loss is one function again, of the weights and of how the
examples are divided into micro-batches (BatchNorm normalises within each; each is given the same draws). What a
pass computes without a graph, like the power iteration of spectral_norm, is constant to derivatives, as for torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..runtime.accelerators import generator_state, generators
from ..runtime.random_state import preserved_random_state, seed_everything


def set_mode(model: nn.Module, mode: str, replay_seed: int | None = None) -> None:
    """Put a network into ``eval`` or ``train`` mode; in the latter its passes leave its buffers as they are.

    Args:
        model: A network that nobody else uses.
        mode: ``eval`` or ``train``.
        replay_seed: Seed of the random numbers that every pass in train mode draws; None: whatever comes.
    """
    for hooks in (model._forward_pre_hooks, model._forward_hooks):  # of a problem that this is a copy of
        for key in [k for k, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), _Replay)]:
            del hooks[key]
    model.train(mode == "train")
    if mode == "train":
        replay = _Replay(replay_seed)
        model.register_forward_pre_hook(replay.enter)
        model.register_forward_hook(replay.leave, always_call=True)


def require_fixed(model: nn.Module, call: Callable[[], object]) -> None:
    """Refuse a network whose forward pass draws random numbers.

    Args:
        model: The network.
        call: Does one forward pass of it.

    Raises:
        UsageError: If a global random generator has moved; names the layers that moved it.
    """
    drawing: list[str] = []
    states = []

    def before(module: nn.Module, inputs: object) -> None:
        states.append(random_state())

    def after(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if not same_state(states.pop(), random_state()) and not any(d.startswith(name) for d in drawing if name):
                drawing.append(name)

        return look

    handles = []
    for name, module in model.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after(name))]
    try:
        with torch.no_grad(), preserved_random_state():
            start = random_state()
            call()
            moved = not same_state(start, random_state())
    finally:
        for handle in handles:
            handle.remove()
    if moved or drawing:
        raise UsageError(
            f"in train mode {', '.join(drawing[:5]) or 'the forward'} draws random numbers in every pass",
            "`mode='train'`",
            "give `replay_seed=N` to replay the same draws in every pass, or use `mode='eval'`",
        )


def random_state() -> tuple[object, ...]:
    """Where the global generators of Python, NumPy and torch stand."""
    devices = [generator_state(device) for device in generators()]
    legacy: Any = np.random.get_state()  # noqa: NPY002 - the legacy state is what users' code draws from
    return random.getstate(), legacy[1].tobytes(), legacy[2], torch.get_rng_state(), *devices


def same_state(a: tuple[object, ...], b: tuple[Any, ...]) -> bool:
    """Whether two of `random_state` are equal."""
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True))


class _Replay:
    """Hooks around a network's forward pass: the same random numbers, and buffers that are given back."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self._passes: list[AbstractContextManager[None]] = []

    def enter(self, model: nn.Module, inputs: object) -> None:
        around = self._around(model)
        around.__enter__()
        self._passes.append(around)

    def leave(self, model: nn.Module, inputs: object, output: object) -> None:
        self._passes.pop().__exit__(None, None, None)

    @contextmanager
    def _around(self, model: nn.Module) -> Iterator[None]:
        own = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
        for module, buffers in own:  # the pass writes to copies
            module._buffers.update({k: None if b is None else b.clone() for k, b in buffers.items()})
        try:
            if self.seed is None:
                yield
            else:
                with preserved_random_state():
                    seed_everything(self.seed, "replay")
                    yield
        finally:
            for module, buffers in own:
                module._buffers.update(buffers)


@contextmanager
def evaluation_mode(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Put every module into eval mode, or train mode; give each its own flag back, also after an exception."""
    flags = [(m, m.training) for m in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag

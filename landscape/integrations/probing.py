"""Probes in a loop of the user's: on a copy of the network, so that nothing of the training is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.examples import Examples
from ..data.losses import LossFunction
from ..optim.core.passes import RandomState
from ..problem.copying import copied
from ..problem.faithful import faithful_copy
from ..problem.problem import Problem
from ..problem.wrappers import unwrapped
from ..runtime.caller_context import computing
from ..runtime.devices import floating_type, moved
from ..runtime.distributed import no_sharding
from ..training.augment import MixupBatch
from ..training.probes import AscentPoint, sharpness_in_blocks, take, top_eigenvalues, with_domain_names
from ..training.steps import BatchLosses

Apart = Callable[[nn.Module], AbstractContextManager[None]]


class Probing:
    """Takes probes of a network that is being trained.

    Each time the network is copied as it is, in the mode it is in, and the copy is moved, differentiated and thrown
    away. A copy in half precision is made float32. The first copy is compared with the network.

    Args:
        loss: Of the outputs and targets.
        apart: Keeps away from the copy, inside its context, what a network of a loop holds beside itself.
    """

    def __init__(self, loss: LossFunction, apart: Apart) -> None:
        self.loss, self.apart, self._compared = loss, apart, False

    def take(
        self, names: list[str], model: nn.Module, examples: Examples, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """The values of the named probes, by probe and quantity.

        Args:
            names: Of the probes.
            model: The network; what it is wrapped in is left out.
            examples: The batch.
            settings: ``rho``, ``lam`` and ``lr``, where the method has them.
        """
        with _as_before():
            own = self._copy(unwrapped(model), examples)
            device = next(own.parameters()).device
            kind = floating_type(own, None)
            moved(own, device, kind)
            batch = examples.batch(np.arange(len(examples))).to(device, kind)
            rho = settings.get("rho") or 0.05

            def problem() -> Problem:
                return Problem(own, examples, self.loss, device=device, dtype=kind)

            point = AscentPoint(
                BatchLosses(own, self.loss, MixupBatch(batch)),
                [p for p in own.parameters() if p.requires_grad],
                rho=rho,
                lam=settings.get("lam") or 0.1,
                lr=settings.get("lr") or 0.0,
                eigenvalues=lambda: top_eigenvalues(problem()),
                random=RandomState.now(),
                sharpness=lambda: sharpness_in_blocks(problem(), rho),
            )
            return with_domain_names(take(names, point), examples.domain_names)

    def _copy(self, network: nn.Module, examples: Examples) -> nn.Module:
        with self.apart(network):
            own = copied(network) if self._compared else faithful_copy(network, examples, self.loss)
        self._compared = True
        for module in own.modules():  # accelerate puts autocast around a forward
            if "_original_forward" in module.__dict__:
                module.__dict__.pop("forward", None)
        return own


@contextmanager
def _as_before() -> Iterator[None]:
    """Compute alone and in full precision; all global random states are given back, also after an exception."""
    random = RandomState.now()
    kinds = [k for k in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(k)]
    before = [(k, torch.get_autocast_dtype(k)) for k in kinds]
    try:
        for kind, _ in before:
            torch.set_autocast_enabled(kind, False)
        with computing(), no_sharding():
            yield
    finally:
        random.restore()
        for kind, _ in before:
            torch.set_autocast_enabled(kind, True)

"""A copy of a network that is compared with it before anything is computed with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..autograd.substitutes import plain_checkpoints
from ..base.errors import UsageError
from ..data.examples import Examples
from ..data.loss_values import mean_loss
from ..data.losses import LossFunction
from ..numerics.trees import leaves
from ..runtime.random_state import preserved_random_state
from ..sharding.assembly import at_rest
from ..sharding.pieces import is_spread
from .checks.consistency import spread
from .copying import copied, require_faithful
from .forward import forward
from .modes import evaluation_mode
from .with_loss import WithLoss


def require_same_outputs(wrapped: nn.Module, own: nn.Module, examples: Examples) -> None:
    """Compare a sharded network with the plain one that was made of its pieces, on two examples; all processes ask.

    Raises:
        UsageError: If they compute other outputs: a network that was rewritten for tensor parallelism does.
    """
    if not len(examples):
        return
    here = next(p for p in own.parameters() if p.is_floating_point())
    batch = examples.batch(spread(len(examples), 2)).to(here.device, here.dtype)
    with torch.no_grad(), preserved_random_state(), evaluation_mode(wrapped), evaluation_mode(own):
        expected, found = (_tensors_of(forward(network, batch.inputs)) for network in (wrapped, own))
    at_rest(wrapped)
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or not torch.allclose(a, b.to(a.dtype), rtol=1e-3, atol=1e-4 * float(b.abs().max())):
            raise UsageError(
                "made whole layer by layer, the network computes other outputs than as it is sharded",
                type(wrapped).__name__,
                "let its forward not depend on how many processes there are, and its output be whole in each of them",
            )


def _tensors_of(output: Any) -> list[Tensor]:
    plain = output if isinstance(output, (Tensor, tuple, list, Mapping)) else vars(output)
    whole = (t.full_tensor() if is_spread(t) else t for t in leaves(plain))  # type: ignore[attr-defined]
    return [t.detach() for t in whole if t.is_floating_point()]


def faithful_copy(model: nn.Module, examples: Examples, loss: LossFunction, mode: str = "eval") -> nn.Module:
    """A copy of the network that computes with its own weights; the network stays as it is.

    They are compared in eval mode, and over ready-made batches in ``mode``: some networks give losses in one alone.

    Raises:
        UsageError: If it does not.
    """
    own = copied(model)
    if len(examples):
        here = next((p for p in model.parameters() if not p.is_meta), torch.zeros(()))
        kind = here.abs().dtype if here.is_floating_point() or here.is_complex() else torch.get_default_dtype()
        batch = examples.batch(spread(len(examples), 2)).to(here.device, kind)

        def loss_of(network: nn.Module) -> Tensor:
            by = network.loss_function if isinstance(network, WithLoss) else loss
            with plain_checkpoints():  # `autograd.grad` refuses to go through the others
                return mean_loss(by, forward(network, batch.inputs), batch.targets)

        require_faithful(model, own, loss_of, training=examples.ready_made and mode == "train")
    return own

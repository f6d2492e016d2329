"""A copy of a network that is compared with it before anything is computed with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..autograd.substitutes import plain_checkpoints
from ..data.examples import Examples
from ..data.loss_values import mean_loss
from ..data.losses import LossFunction
from .checks.consistency import spread
from .copying import copied, require_faithful
from .forward import forward
from .with_loss import WithLoss


def faithful_copy(model: nn.Module, examples: Examples, loss: LossFunction) -> nn.Module:
    """A copy of the network that computes with its own weights; the network stays as it is.

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

        require_faithful(model, own, loss_of)
    return own

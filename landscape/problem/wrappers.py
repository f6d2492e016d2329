"""The plain network inside the wrappers that people train with."""

from __future__ import annotations

from torch import nn

from ..base.errors import UsageError


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain network inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile`` wrappers.

    Through such a wrapper a curvature product is silently that of the local shard, or fails.

    Raises:
        UsageError: If parameters are spread over processes (FSDP, tensor parallelism).
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            _refuse_spread(model)
            return model
        model = inner


def _refuse_spread(model: nn.Module) -> None:
    """Refuse parameters of which each process holds a piece: their gradients cannot be differentiated again.

    Through FSDP a second derivative fails deep inside torch (``setStorage``), or its gradients have none.
    """
    for part in (*model.modules(), *model.parameters()):
        for kind in type(part).__mro__:
            sharded = kind.__module__.startswith(("torch.distributed.fsdp", "torch.distributed._composable"))
            if sharded or kind.__name__ == "DTensor":
                name = "FSDP (FullyShardedDataParallel, fully_shard)" if sharded else "DTensor (tensor parallelism)"
                raise UsageError(
                    f"{name} keeps a piece of every parameter in each process, and there is no second derivative "
                    "through it",
                    type(model).__name__,
                    "load the full weights into the plain network; under torchrun the examples are shared instead",
                )

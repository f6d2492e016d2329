"""The plain network inside the wrappers that people train with."""

from __future__ import annotations

from torch import nn

from ..base.errors import UsageError
from ..runtime.distributed import rank_and_world_size
from ..sharding.assembly import assembled, is_sharded
from ..sharding.pieces import is_spread


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain network inside ``DistributedDataParallel``, ``DataParallel``, ``torch.compile`` and DeepSpeed.

    Through such a wrapper a curvature product is silently that of the local shard, or fails.

    Of one whose parameters are DTensors (``fully_shard``, tensor parallelism) a plain network over copies of this
    process's pieces (`landscape.sharding.assembly`).

    Raises:
        UsageError: If the processes that hold the pieces do not compute together, or the older
            ``FullyShardedDataParallel`` or DeepSpeed's ZeRO-3 holds them.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
        if inner is None and (isinstance(model, wrappers) or _is_deepspeed(model)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            _refuse_flattened(model)
            _refuse_partitioned(model)
            if is_sharded(model):
                _require_together(model)
                return assembled(model)
            return model
        model = inner


def _refuse_flattened(model: nn.Module) -> None:
    """Refuse the older wrapper, whose parameters are stretches of flattened modules."""
    for part in model.modules():
        if any(k.__name__ == "FullyShardedDataParallel" for k in type(part).__mro__):
            raise UsageError(
                "FullyShardedDataParallel keeps stretches of flattened modules in each process",
                type(model).__name__,
                "shard it by torch.distributed.fsdp.fully_shard, or load the full weights into the plain network",
            )


def _is_deepspeed(model: nn.Module) -> bool:
    """Whether a model is DeepSpeed's engine, told without importing it."""
    return any(k.__name__ == "DeepSpeedEngine" for k in type(model).__mro__)


def _refuse_partitioned(model: nn.Module) -> None:
    """Refuse parameters that DeepSpeed's ZeRO-3 has emptied: each process has a flat stretch of them elsewhere."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise UsageError(
                f"DeepSpeed's ZeRO-3 keeps a stretch of {name} in each process, and the parameter is empty",
                type(model).__name__,
                "load what its zero_to_fp32.py writes into the plain network, and shard that with `shard='fsdp'`",
            )


def _require_together(model: nn.Module) -> None:
    """Refuse pieces that are held by other processes than those that compute together."""
    meshes = {p.device_mesh for p in model.parameters() if is_spread(p)}  # type: ignore[attr-defined]
    world = rank_and_world_size()[1]
    if any(mesh.size() != world for mesh in meshes):
        holders = max(mesh.size() for mesh in meshes)
        raise UsageError(
            f"{holders} process(es) hold the pieces of its parameters, and {world} compute(s) here",
            type(model).__name__,
            "let all of them run the analysis inside `with landscape.processes():`",
        )

"""A network that was built whole, spread over the processes that compute together."""

from __future__ import annotations

from torch import nn

from ..base.errors import UsageError
from ..runtime.devices import pick_device
from ..runtime.distributed import rank_and_world_size


def fully_sharded(model: nn.Module, device: str) -> nn.Module:
    """The network, in place, with every parameter cut along its first dimension by ``fully_shard`` (FSDP2).

    Each process has built it whole, in host memory; from here on it holds its pieces only.

    Args:
        model: A network that nobody else uses.
        device: Where the pieces shall be, as `pick_device` understands it.

    Raises:
        UsageError: If there is only one process.
    """
    world = rank_and_world_size()[1]
    if world == 1:
        fix = "start several with torchrun, which starts `landscape` as often as there are devices"
        raise UsageError("one process would hold all pieces", "`shard='fsdp'`", fix)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    where = pick_device(device)
    model.to(where)
    fully_shard(model, mesh=init_device_mesh(where.type, (world,)))
    return model

"""What layers count on the way, made equal in all processes that train together."""

from __future__ import annotations

import torch
from torch import nn

from ..numerics.tensors import continuous
from ..runtime.distributed import all_reduce_sum_, is_main_process, rank_and_world_size


@torch.no_grad()
def share_buffers(model: nn.Module, examples: int) -> None:
    """Average the running statistics of normalisation layers; take all other floating buffers from the first process.

    Each process's BatchNorm normalises with its own ``examples``. The running means of all, weighted so, are exact
    for the whole batch; the variances lack the variance between processes. What the layers of a network count in
    integers counts calls, which are as many everywhere.
    """
    if rank_and_world_size()[1] == 1:
        return
    total = torch.tensor(float(examples), dtype=torch.float64)
    all_reduce_sum_([total])
    live, sent = [], []
    for module in model.modules():
        averaged = isinstance(module, nn.modules.batchnorm._NormBase)
        # A buffer that all hold alike must not be averaged: rounding would move it a little in every step.
        share = examples / float(total) if averaged else float(is_main_process())
        for buffer in module.buffers(recurse=False):
            if continuous(buffer):
                live.append(torch.view_as_real(buffer) if buffer.is_complex() else buffer)
                sent.append(live[-1] * share if share else torch.zeros_like(live[-1]))
    all_reduce_sum_(sent)
    for buffer, value in zip(live, sent, strict=True):
        buffer.copy_(value)

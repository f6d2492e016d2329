"""Under ``DistributedDataParallel``: a perturbation of all replicas together, or one for each."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from landscape.optim import ERM, BatchLoss, MicroBatches

from .problems import METHODS, MICRO, sgd

REPLICAS, STEPS = 2, 3
CASES = ["erm", "sam", "gsam", "sagm", "disam", "disam-sagm", "fsam", "looksam", "wsam"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def rows(start: int, stop: int) -> Any:
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(16, 6, generator=g, dtype=torch.float64), torch.randint(0, 3, (16,), generator=g)
    domain = torch.arange(16) % 2  # every replica holds as many of each domain
    return x[start:stop], y[start:stop], domain[start:stop]


def loss_of(model: nn.Module, part: Any) -> BatchLoss:
    x, y, domain = part
    each = F.cross_entropy(model(x), y, reduction="none")
    return BatchLoss(each.mean(), torch.stack([each[domain == i].mean() for i in (0, 1)]), torch.bincount(domain))


def replica(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=REPLICAS)
    part = rows(8 * rank, 8 * rank + 8)
    results = {}
    for case in CASES:
        for how in ("synchronised", "per-replica"):
            model = network()
            wrapped = nn.parallel.DistributedDataParallel(model)
            optimizer: ERM = METHODS[case](sgd(model), rho=0.3, ddp=wrapped, perturbation=how)
            for _ in range(STEPS):
                optimizer.step(lambda wrapped=wrapped: loss_of(wrapped, part))
            results[case, how] = [p.detach().clone() for p in model.parameters()]
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.barrier()  # nobody leaves while the other still talks to it
    dist.destroy_process_group()


def alone(case: str, *, pieces: bool) -> list[torch.Tensor]:
    model = network()
    optimizer = METHODS[case](sgd(model), rho=0.3, **({"micro_batches": True} if pieces else {}))
    halves = MicroBatches([lambda: loss_of(model, rows(0, 8)), lambda: loss_of(model, rows(8, 16))], [8, 8])
    for _ in range(STEPS):
        optimizer.step((lambda: halves) if pieces else (lambda: loss_of(model, rows(0, 16))))
    return [p.detach() for p in model.parameters()]


@pytest.mark.slow
def test_two_replicas(tmp_path: Path):
    """Synchronised passes are the whole batch; per-replica climbs are micro-batches of one replica each.

    DISAM weighs its climb by the domain losses of each replica, so only its per-replica form has an equal here.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(replica, (port, str(tmp_path)), nprocs=REPLICAS)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(REPLICAS)]
    for key in results[0]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][key], results[1][key], strict=True)), key

    def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
        return max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))

    for case in CASES:
        if not case.startswith("disam"):
            assert distance(results[0][case, "synchronised"], alone(case, pieces=False)) < 1e-12, case
        if case in MICRO:
            assert distance(results[0][case, "per-replica"], alone(case, pieces=True)) < 1e-12, case
            assert distance(results[0][case, "per-replica"], results[0][case, "synchronised"]) > 1e-6, case

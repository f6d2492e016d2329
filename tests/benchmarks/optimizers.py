"""What a step of each method costs, in steps of SGD with the same model and batch.

    python tests/benchmarks optimizers [--repeat 15] [--short] [--out gallery/benchmarks]

Work: one step of the ResNet-20 on 128 random 32x32 images (16 with --short), float32, SGD with momentum underneath;
DISAM with four domains in the batch, through the closure of the trainer. Floor: the number of gradients the method
needs, since everything else is a few passes over the weights (0.3 M numbers, against 82 M multiplications per image);
a little less is possible, as the base step and the bookkeeping of domains are done once in any step. Printed, stored:
minimum, median and maximum of the ratio to the SGD step of the same round. Target: at most 2.1 for SAM, SAGM and
DISAM. Peers: davda54's SAM (github.com/davda54/sam, first_step and second_step as its README has them, with its own
BatchNorm recipe) if its file is named with LANDSCAPE_PEER_SAM, and pytorch-optimizer's SAM, which leaves BatchNorm
statistics to move twice a step. Target: no slower than either.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from harness import bar, interleaved, options, publish, ratio, ratios, table
from networks import passes
from torch import nn

from landscape.data.examples import Batch
from landscape.models.resnet import resnet20
from landscape.optim.core.build import build_optimizer
from landscape.registry import OPTIMIZERS
from landscape.training.augment import MixupBatch
from landscape.training.steps import BatchLosses

TARGETS = {"sam": 2.1, "sagm": 2.1, "disam": 2.1}
PEERS = ("davda54/sam", "pytorch-optimizer SAM")
FLOORS = {"sgd": 1.0, "looksam": 1.1, "entropy-sgd": 20.0}


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target, reduction="none")


def step_of(name: str, n: int) -> tuple[nn.Module, Callable[[], Any]]:
    torch.manual_seed(0)
    model = resnet20().train()
    optimizer = build_optimizer(
        name, model.named_parameters(), base="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, settings={}
    )
    batch = Batch(torch.randn(n, 3, 32, 32), torch.arange(n) % 10, torch.arange(n) % 4)
    return model, lambda: optimizer.step(BatchLosses(model, cross_entropy, MixupBatch(batch)))


def peer(file: str, n: int) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location("peer_sam", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model = resnet20().train()
    optimizer = module.SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=1e-3, momentum=0.9, weight_decay=5e-4)
    x, y = torch.randn(n, 3, 32, 32), torch.arange(n) % 10
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    def step() -> None:
        F.cross_entropy(model(x), y).backward()
        optimizer.first_step(zero_grad=True)
        for m in norms:
            m.backup_momentum, m.momentum = m.momentum, 0
        F.cross_entropy(model(x), y).backward()
        for m in norms:
            m.momentum = m.backup_momentum
        optimizer.second_step(zero_grad=True)

    return step


def pytorch_optimizer_sam(n: int) -> Callable[[], Any]:
    from pytorch_optimizer import SAM

    torch.manual_seed(0)
    model = resnet20().train()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=1e-3, momentum=0.9, weight_decay=5e-4)
    x, y = torch.randn(n, 3, 32, 32), torch.arange(n) % 10

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    def step() -> None:
        closure()
        optimizer.step(closure)

    return step


def headline(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Each method with a target over its floor, SAM also against the faster peer."""
    found = ratios(seconds, "sgd")
    lines = []
    for name, target in TARGETS.items():
        floor = ratio(seconds[name], [2.0 * s for s in seconds["sgd"]])
        peers = [p for p in PEERS if p in seconds] if name == "sam" else []
        best = min(peers, key=lambda p: found[p][1], default=None)
        faster = ratio(seconds[best], seconds[name]) if best else None
        least = 1.0 if best else None
        task = f"a step of {name}, ResNet-20"
        lines.append(bar(task, floor=floor, most=target / 2.0, peer=best, faster=faster, least=least))
    return lines


def main() -> None:
    chosen = options(__doc__, repeat=15)
    n = 16 if chosen.short else 128
    names = [name for name in OPTIMIZERS if name not in ("adam", "adamw", "entropy-sgd")]
    if chosen.short:
        names = ["sgd", *TARGETS, "looksam"]
    cases: dict[str, Callable[[], Any]] = {}
    counts = {}
    for name in names:
        model, cases[name] = step_of(name, n)
        counts[f"gradients, a step of {name}"] = passes(model, cases[name])[1]
    if os.environ.get("LANDSCAPE_PEER_SAM"):
        cases["davda54/sam"] = peer(os.environ["LANDSCAPE_PEER_SAM"], n)
    if importlib.util.find_spec("pytorch_optimizer"):
        cases["pytorch-optimizer SAM"] = pytorch_optimizer_sam(n)
    # LookSAM's tenth step climbs: ten steps of it are one unit of work.
    looksam = cases["looksam"]
    cases["looksam"] = lambda: [looksam() for _ in range(10)]
    seconds = interleaved(cases, chosen.repeat)
    seconds["looksam"] = [s / 10 for s in seconds["looksam"]]
    found = ratios(seconds, "sgd")
    rows = []
    for name, (low, middle, high) in found.items():
        floor, target = FLOORS.get(name, 2.0), TARGETS.get(name)
        verdict = "" if target is None else "met" if middle <= target else "missed"
        rows.append([name, f"{floor:g}", f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}", f"{target or ''}", verdict])
    text = table(["method", "floor", "min", "median", "max", "target", ""], rows)
    facts = {"examples": n, "ratios": found, "seconds": seconds, "headline": headline(seconds), "counts": counts}
    publish(chosen.out, "optimizers", "A step, in steps of SGD", text, facts)


if __name__ == "__main__":
    main()

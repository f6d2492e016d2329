"""Every name of ``landscape.__all__`` that computes, computes on the device what it computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import landscape

from . import families
from .comparison import problem, same, train, weights
from .pretend import Device

PLAIN = "words, files or stored numbers; it has no tensors"
STORED = "reads stored results; test_commands has the report's figures drawn from those of the device"
# What is not asked here, each with its reason.
NOT_COVERED = {
    "run_study": "what `landscape study run` calls, in test_commands",
    "analyze": "what every command calls, in test_commands",
    "processes": "test_processes",
    "keep_freed_memory": "asks the C library, not torch",
    "reporting": "hands on words",
    "Run": PLAIN,
    "training_result": STORED,
    "render": STORED,
    "scalars": "names of numbers that are on the host",
    "summarize": STORED,
    "write_report": STORED,
    **dict.fromkeys((n for n in landscape.__all__ if n.endswith(("Spec", "Error")) or n == "Interrupted"), PLAIN),
}
OPTIMIZERS = (
    *("ERM", "SAM", "USAM", "ASAM", "GSAM", "SAGM", "DISAM", "DISAMGSAM", "DISAMSAGM", "FSAM", "LookSAM", "WSAM"),
    *("EntropySGD", "VREx"),
)
Ask = Callable[[str, Path], Any]
FAMILY = "batch_norm"


def network(where: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network in training with all examples, their classes and domains."""
    domains = families.examples(FAMILY).values()
    x, y = (torch.cat([d[i] for d in domains]).to(where) for i in (0, 1))
    domain = torch.cat([torch.full((len(d[1]),), i) for i, d in enumerate(domains)]).to(where)
    return families.batch_norm().to(where).train(), x, y, domain


def values(model: nn.Module) -> dict[str, Any]:
    return {k: v.flatten().tolist() for k, v in model.state_dict().items()}


def steps_of(name: str) -> Ask:
    """Three steps in a loop of one's own."""

    def ask(where: str, folder: Path) -> Any:
        model, x, y, domain = network(where)
        optimizer = getattr(landscape, name)(torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9))
        members = F.one_hot(domain).T.to(x.dtype)

        def closure() -> landscape.BatchLoss:
            each = F.cross_entropy(model(x), y, reduction="none")
            counts = members.sum(1)
            return landscape.BatchLoss(each.mean(), (members / counts[:, None]) @ each, counts)

        torch.manual_seed(0)
        return {"losses": [float(optimizer.step(closure)) for _ in range(3)], **values(model)}

    return ask


def micro_batches(where: str, folder: Path) -> Any:
    model, x, y, _ = network(where)
    optimizer = landscape.SAM(torch.optim.SGD(model.parameters(), lr=0.05), micro_batches=True)

    def piece(part: slice) -> Callable[[], landscape.BatchLoss]:
        return lambda: landscape.BatchLoss(F.cross_entropy(model(x[part]), y[part]))

    torch.manual_seed(0)
    optimizer.step(lambda: landscape.MicroBatches([piece(slice(12)), piece(slice(12, 20))], [12, 8]))
    return values(model)


def averaging(name: str) -> Ask:
    def ask(where: str, folder: Path) -> Any:
        model = network(where)[0]
        average = getattr(landscape, name)(model.parameters())
        for k in range(8):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.9)
            average.update()
            if name == "SWAD":
                average.evaluated(float(abs(k - 4)))
        assert average.write()
        return values(model)

    return ask


def recorded(where: str, folder: Path) -> Any:
    model, x, y, _ = network(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    rows: list[dict[str, Any]] = []
    probes = ("surrogate-gap@every=2", "eigenvalues@every=4")
    torch.manual_seed(0)
    with landscape.record(
        model, optimizer, folder / "run", batch=(x, y), loss=F.cross_entropy, every=2, probe=probes, log=rows.append
    ) as recorder:
        for _ in recorder.until(steps=4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.step(loss)
    return {"rows": rows, **values(model)}


def whole_problem(where: str, folder: Path) -> Any:
    p = problem(FAMILY, where)
    v = torch.cos(torch.arange(p.n_parameters, dtype=torch.float64)).to(p.device)
    loss, gradient = p.loss_and_gradient()
    part = p.restrict_to_domain("b").restrict_to_parameters(["0.weight"])
    found = p.evaluate()
    return {
        "evaluation": [found.loss, found.accuracy, *found.spread()],
        "loss": [float(loss), p.loss(), float(p.loss_tensor())],
        "gradient": [gradient.tolist(), p.gradient().tolist(), part.gradient().tolist()],
        "product": [p.hvp(v).tolist(), part.hvp(v[: part.n_parameters]).tolist()],
        "per example": p.example_losses().tolist(),
        "sums": p.sums().tolist(),
        "other": [p.with_model(families.batch_norm(seed=3)).loss(), p.to_float64(7).loss()],
        "unused": len(p.unused_parameters()),
        "outside": p.twin()(p.examples.batch([0, 1]).to(p.device, p.dtype).inputs).tolist(),
    }


def examples(where: str, folder: Path) -> Any:
    """Those that live on the device before we see them."""
    domains = {k: (x.to(where), y.to(where)) for k, (x, y) in families.examples(FAMILY).items()}
    made = landscape.Examples.of(domains)
    p = landscape.Problem(families.batch_norm().to(where), made, device=where, dtype="float64")
    return {"loss": p.loss(), "gradient": p.gradient().tolist()}


def between_two(where: str, folder: Path) -> Any:
    other = folder / "b.pt"
    torch.save(families.batch_norm(seed=2).state_dict(), other)
    found = landscape.path(problem(FAMILY, where), other, kind="line", points=3, bn="keep")
    return {**found.record, "loss": found.data["loss"].values.tolist()}


def stored(where: str, folder: Path) -> Any:
    """A result of the device, written and read."""
    landscape.hessian(problem(FAMILY, where), top=1).save(folder / "h.nc")
    found = landscape.Result.load(folder / "h.nc")
    return {"record": found.record, "arrays": {k: v.values.tolist() for k, v in found.data.items()}}


COVERED: dict[str, Ask] = {
    "Problem": whole_problem,
    "Examples": examples,
    "open": lambda where, folder: {
        "gradient": landscape.open(train(folder, where, FAMILY, "sgd"), device=where, dtype="float64")
        .gradient()
        .tolist()
    },
    "hessian": lambda where, folder: landscape.hessian(problem(FAMILY, where), top=2, bottom=1, tol=1e-2).record,
    "sharpness": lambda where, folder: landscape.sharpness(problem(FAMILY, where), m=(1, 4)).record,
    "surface": lambda where, folder: landscape.surface(problem(FAMILY, where), points=3).record,
    "path": between_two,
    "domains": lambda where, folder: landscape.domains(problem(FAMILY, where), curvature=True).record,
    "train": lambda where, folder: weights(train(folder, where, FAMILY, "sgd")),
    "record": recorded,
    **{name: steps_of(name) for name in OPTIMIZERS},
    "BatchLoss": steps_of("SAM"),
    "MicroBatches": micro_batches,
    "SWA": averaging("SWA"),
    "SWAD": averaging("SWAD"),
    "Result": stored,
}


@pytest.mark.parametrize("name", list(COVERED))
def test_public_names(device: Device, name: str, tmp_path: Path):
    def ask(where: str) -> Any:
        (tmp_path / where).mkdir()
        before = device.operations
        found = COVERED[name](where, tmp_path / where)
        assert (device.operations > before) == (where == "pretend")
        return found

    same(ask)


def test_every_public_name_is_asked_or_says_why_not():
    assert set(landscape.__all__) == set(COVERED) | set(NOT_COVERED)
    assert not set(COVERED) & set(NOT_COVERED)
    assert all(NOT_COVERED.values())

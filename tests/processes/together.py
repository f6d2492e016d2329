"""Run by torchrun: every answer that processes give together beside the one that each gives alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import domain_data, problem_of, small_mlp
from torch import nn

import landscape
from landscape.base.errors import NumericalError, UsageError
from landscape.curvature.lanczos import journal
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem
from landscape.runtime import distributed

FOLDER = Path(sys.argv[1])


def both(ask: Callable[[], Any]) -> dict[str, Any]:
    """The answer of one process and of all together."""
    with distributed.no_sharding():
        one = ask()
    return {"one": one, "together": ask()}


def made(model: nn.Module | None = None, **options: Any) -> Problem:
    """37 examples in domains of 23, 11 and 3: two processes share none of them evenly."""
    return problem_of(model or small_mlp(), domain_data((23, 11, 3)), **{"batch_size": 5, **options})


def normalised() -> nn.Module:
    model = small_mlp()
    return nn.Sequential(model[0], nn.BatchNorm1d(model[0].out_features).double(), *model[1:])


def basics(problem: Problem) -> dict[str, Any]:
    v = torch.sin(torch.arange(problem.n_parameters, dtype=torch.float64))
    found = problem.evaluate()
    return {
        "loss": problem.loss(),
        "gradient": problem.gradient().tolist(),
        "product": problem.hvp(v).tolist(),
        "kept product": operator_of(problem, memory=10**9)(v.to(problem.dtype)).tolist(),
        "domains": [[d.n, d.loss, d.accuracy] for d in found.domains.values()],
        "example losses": problem.example_losses().tolist(),
        "sums": problem.sums().tolist(),
        "unused": problem.unused_parameters(),
    }


def products() -> dict[str, Any]:
    found = {}
    for kind in ("ggn", "fisher", "fisher-mc", "empirical-fisher", "gradient-covariance"):
        problem = made()
        v = torch.sin(torch.arange(problem.n_parameters, dtype=torch.float64))
        found[kind] = both(lambda kind=kind, problem=problem, v=v: operator_of(problem, kind)(v).tolist())
    return found


def record_of(result: Any) -> Any:
    return {k: v for k, v in result.to_json().items() if k not in ("seconds", "products", "processes")}


def curvature() -> dict[str, Any]:
    whole = {"top": 3, "bottom": 2, "trace": True, "trace_rtol": 0.3, "density": True, "tol": 1e-8}
    parts = {"top": 2, "bottom": 1, "subsamples": 2, "tol": 1e-8}
    return {
        "whole": both(lambda: record_of(landscape.hessian(made(), **whole))),
        "parts": both(lambda: record_of(landscape.hessian(made(), per_domain=True, **parts))),
    }


MEASURES = ("m-sharpness", "fisher-rao", "gradient-variance", "gradient-norm", "input-sharpness", "average-case",
            "local-flatness", "keskar", "margin", "surrogate-gap", "asam-sharpness")  # fmt: skip


OPTIONS = {
    "m-sharpness": {"m": (1, 4, 18)},
    "gradient-variance": {"m": (1, 4, 12)},
    "average-case": {"draws": 5},
    "local-flatness": {"draws": 5},
}


def sharpness() -> dict[str, Any]:
    def measured(**options: Any) -> Any:
        return landscape.sharpness(made(), **options)["measures"]

    found = {n: both(lambda n=n: measured(measure=(n,), **OPTIONS.get(n, {}))) for n in MEASURES}
    return {**found, "one block": both(lambda: measured(m=(37,), rho=(0.1,)))}


def domains() -> dict[str, Any]:
    return both(lambda: record_of(landscape.domains(made(), sharpness=True, curvature=True)))


def resumed() -> dict[str, Any]:
    """A run that goes on from what both processes have stored, beside one that was not stopped."""
    journal._SECONDS_BETWEEN_WRITES = journal._LARGEST_SHARE = 0  # every product is worth a file
    wishes: dict[str, Any] = {"top": 2, "bottom": 1, "tol": 1e-9}
    found = {"whole": record_of(landscape.hessian(made(), **wishes))}
    store = FOLDER / "products"
    try:
        landscape.hessian(made(), store=store, max_products=6, **wishes)
    except NumericalError as error:
        found["stopped"] = type(error).__name__
    before = sorted(p.parent.name for p in store.glob("*/*.safetensors"))
    found["again"] = record_of(landscape.hessian(made(), store=store, **wishes))
    after = sorted(p.parent.name for p in store.glob("*/*.safetensors"))
    return {**found, "files": [sorted(set(before)), len(before), len(after)]}


def bits(result: Any) -> dict[str, str]:
    return {str(k): v.values.tobytes().hex() for k, v in result.data.items()}


SURFACES = {
    "plane": {"points": 5},
    "slices": {"dim": 1, "points": 5, "repeats": 3},
    "adaptive": {"points": 9, "adaptive_grid": True},
    "one slice": {"dim": 1, "points": 5},
    "gradient": {"dim": 1, "points": 3, "direction": ("grad",)},
}


def surfaces() -> dict[str, Any]:
    found = {}
    for name, options in SURFACES.items():
        problem = made()
        found[name] = {"together": bits(landscape.surface(problem, **options))}
        stored = landscape.surface(problem, store=FOLDER / "rows" / name.replace(" ", "-"), **options)
        found[name]["stored"] = bits(stored)
    found["rows of"] = [p.name.split("-")[1] for p in (FOLDER / "rows" / "plane").glob("rows-*.npz")]
    eigenvector = {"dim": 1, "points": 3, "direction": ("eigvec:1",)}
    found["eigenvector"] = landscape.surface(made(), **eigenvector).data["loss"].values.tolist()
    return found


def single_surfaces() -> dict[str, Any]:
    found: dict[str, Any] = {name: bits(landscape.surface(made(), **options)) for name, options in SURFACES.items()}
    eigenvector = {"dim": 1, "points": 3, "direction": ("eigvec:1",)}
    return found | {"eigenvector": landscape.surface(made(), **eigenvector).data["loss"].values.tolist()}


def refusal(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except UsageError as error:
        return str(error)
    return "nothing was refused"


def wrapped() -> dict[str, Any]:
    model = small_mlp()
    data = domain_data()["art"]
    inside = nn.parallel.DistributedDataParallel(model)
    return {
        "ddp": problem_of(inside, data).gradient().tolist(),
        "plain": problem_of(model, data).gradient().tolist(),
        "fsdp": problem_of(sharded(), data).loss() - problem_of(model, data).loss(),
        "fsdp alone": refusal(lambda: alone(data)),
    }


def alone(data: Any) -> None:
    """As if this process computed by itself, with a piece of the weights."""
    token = distributed._job.set(None)
    try:
        problem_of(sharded_over(2), data)
    finally:
        distributed._job.reset(token)


def sharded() -> nn.Module:
    return sharded_over(distributed.rank_and_world_size()[1])


def sharded_over(count: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(small_mlp(), mesh=init_device_mesh("cpu", (count,)))


def other_examples() -> str:
    rank = distributed.rank_and_world_size()[0]
    return refusal(lambda: problem_of(small_mlp(), domain_data(seed=rank)))


def main() -> None:
    single = single_surfaces()  # outside `processes` there is one process, whatever the environment says
    with landscape.processes():
        rank, world = distributed.rank_and_world_size()
        found = {
            "place": [rank, world],
            "surfaces of one": single,
            "float64": both(lambda: basics(made())),
            "float32": both(lambda: basics(made(dtype="float32"))),
            "train mode": both(lambda: basics(made(model=normalised(), mode="train"))),
            "few micro-batches": both(lambda: basics(made(model=normalised(), mode="train", batch_size=37))),
            "few": both(lambda: basics(made().restrict_to_examples(np.array([5])))),
            "products": products(),
            "curvature": curvature(),
            "resumed": resumed(),
            "sharpness": sharpness(),
            "domains": domains(),
            "surfaces": surfaces(),
            "wrapped": wrapped(),
            "other examples": other_examples(),
            "told": distributed.broadcast({"rank": rank}),
            "gathered": [len(b) for b in distributed.all_gather_bytes(b"x" * (rank * 3))],
            "decided": refusal(lambda: distributed.run_on_main(undecided)),
        }
    (FOLDER / f"{rank}.json").write_text(json.dumps(found))


def undecided() -> None:
    raise UsageError("the first one cannot", "here", "ask again")


if __name__ == "__main__":
    main()

"""Run by torchrun: what processes find that hold pieces of one network, beside what one finds that holds all."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent.parent / "problem"))
from random_networks import drawn

import landscape
from landscape import optim
from landscape.problem.problem import Problem
from landscape.runtime.distributed import no_sharding
from landscape.sharding import space
from landscape.weights.weights import save_weights

FOLDER = Path(sys.argv[1])
DATA = torch.randn(13, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(13) % 3


DATA_TP = torch.randn(11, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(11) % 3


class Net(nn.Module):
    """Rows that two processes share unevenly, a convolution, tied weights, and a norm."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 5, 3)
        self.inner = nn.Sequential(nn.Linear(20, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 7), nn.Linear(7, 7))
        self.inner[4].weight = self.inner[3].weight
        self.head = nn.Linear(7, 3)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(torch.tanh(self.conv(x)), 2).flatten(1)
        return self.head(self.inner(h))


def sharded(seed: int = 1) -> nn.Module:
    model = Net(seed)
    for part in (model.conv, model.inner, model.head):
        fully_shard(part)
    return fully_shard(model)


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def spectra(problem: Problem) -> Any:
    found = landscape.hessian(problem, top=3, bottom=1, trace=True, trace_rtol=0.3, density=True, tol=1e-7)
    found.save(FOLDER / f"hessian-{'pieces' if problem.in_pieces else 'whole'}.nc")
    keep = ("loss", "eigenvalues", "smallest", "trace", "density", "gradient_norm", "converged")
    few = landscape.hessian(problem, top=1, operator="ggn", tol=1e-6)
    return {k: found[k] for k in keep} | {
        "ggn": few["eigenvalues"],
        "hashes": [found["weights_hash"], found["network_hash"]],
    }


def measures(problem: Problem) -> Any:
    names = ("m-sharpness", "asam-sharpness", "average-case", "average-case-adaptive", "gradient-norm")
    found = landscape.sharpness(problem, measure=names, m=(5, 13), rho=(0.05,), draws=5)
    return [[row["measure"], row["value"]] for row in found["measures"]]


def surfaces(problem: Problem) -> Any:
    plane = landscape.surface(problem, dim=2, points=3, direction=("filter", "layer"), range=0.5)
    slices = {
        kind: landscape.surface(problem, dim=1, points=3, direction=(kind,), range=0.5)
        for kind in ("gaussian", "unit", "grad", "sam:0.05", "asam:0.5", "eigvec:1")
    }
    keep = ("filter_norm_error", "cosine", "expected_cosine", "moved_parameters", "restored", "relative_norm")
    return {
        "plane": [plane.data["loss"].values.tolist(), {k: plane[k] for k in keep}],
        "slices": {k: s.data["loss"].values.tolist() for k, s in slices.items()},
        "auto": landscape.surface(problem, dim=1, points=3, range="auto")["range"],
    }


def paths(problem: Problem) -> Any:
    line = landscape.path(problem, FOLDER / "other.safetensors", points=3)
    bend = landscape.path(problem, FOLDER / "other.safetensors", kind="bezier", points=3, steps=3, training=problem)
    return [[p["loss"], p["barrier"], p["distance"], p["restored"]] for p in (line, bend)]


def tensor_parallel() -> nn.Module:
    """Columns of the first layer and rows of the second; what is beside them in every process."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = two_layers()
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def two_layers(seed: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()


def parallel(problem: Problem) -> Any:
    found = landscape.hessian(problem, top=2, bottom=1, trace=True, trace_rtol=0.3, density=True, tol=1e-7)
    slices = landscape.surface(problem, dim=1, points=3, direction=("filter",), range=0.5)
    sharp = landscape.sharpness(problem, measure=("m-sharpness", "average-case"), m=(11,), draws=3)
    line = landscape.path(problem, FOLDER / "other-layers.safetensors", points=3)
    keep = ("loss", "eigenvalues", "smallest", "trace", "density", "weights_hash", "gradient_norm", "converged")
    return {k: found[k] for k in keep} | {
        "slice": slices.data["loss"].values.tolist(),
        "filters": slices["filter_norm_error"],
        "sharpness": [row["value"] for row in sharp["measures"]],
        "path": [line["loss"], line["barrier"], line["distance"]],
    }


def differences(problem: Problem) -> Any:
    """Of the Hessian, and of Gauss-Newton's matrix, each with its bars."""
    found = {}
    for kind in ("hessian", "ggn"):
        made = landscape.hessian(problem, top=2, bottom=1, trace=True, trace_rtol=0.3, operator=kind, tol=1e-5)
        product = made["product"]
        found[kind] = [made["eigenvalues"], product["eigenvalue_errors"], made["trace"], product["by"]]
    return found


class Cube(torch.autograd.Function):
    """Cubes, without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class Cubes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Cube.apply(x)


def fallback() -> Any:
    """What an operation without a second derivative gets by itself."""
    model = two_layers()
    model[1] = Cubes()
    found = landscape.hessian(Problem(fully_shard(model), DATA_TP, batch_size=4), top=1, tol=1e-5)
    model = two_layers()
    model[1] = Cubes()
    with no_sharding():
        alone = landscape.hessian(Problem(model, DATA_TP, batch_size=4), top=1, tol=1e-5)
    keep = ("by", "reason")
    return [[f["eigenvalues"], *(f["product"][k] for k in keep)] for f in (alone, found)]


def covered(seed: int) -> bool:
    """Whether every bar covers the truth for a network at random that is held in pieces."""
    net = drawn(seed)
    problem = Problem(fully_shard(net.model), net.data, net.loss, product="difference",
                      batch_size=net.options["batch_size"])  # fmt: skip
    found = landscape.hessian(problem, top=2, bottom=1, allow_partial=True)
    decay = net.options["weight_decay"]
    exact = torch.linalg.eigvalsh(net.matrix) - decay  # the penalty is refused for a sharded model
    return all(
        float((exact - value).abs().min()) <= bar
        for values, bars in (("eigenvalues", "eigenvalue_errors"), ("smallest", "smallest_errors"))
        for value, bar in zip(found[values], found["product"][bars], strict=True)
    )


def largest_allocations() -> dict[str, Any]:
    """Bytes of the largest tensors that a process makes in an analysis, whole and in pieces, and of one vector."""
    found: dict[str, Any] = {}
    space._CHUNK = 1024  # of random numbers, drawn in stretches

    data = torch.randn(8, 40), torch.arange(8) % 3
    model = wide()
    for i in range(0, 17, 2):
        fully_shard(model[i])
    for name, network in (("whole", wide()), ("pieces", fully_shard(model))):
        with landscape.processes():
            problem = Problem(network, data)
            by_differences = Problem(network, data, product="difference")
            found[name] = {}
            for analysis, ask in analyses(problem, by_differences).items():
                with Counter() as counter:
                    ask()
                found[name][analysis] = {"last": sorted(counter.last)[-3:], "peak": counter.peak}
    return {**found, "n": problem.n_parameters}


def analyses(problem: Problem, by_differences: Problem) -> dict[str, Callable[[], Any]]:
    def spectrum(problem: Problem = problem, **wishes: Any) -> Callable[[], Any]:
        return lambda: landscape.hessian(problem, max_products=12, allow_partial=True, **wishes)

    def measure(name: str) -> Callable[[], Any]:
        wishes: dict[str, Any] = {"m": (8,)} if name.endswith("-sharpness") else {}
        wishes |= {"draws": 2} if name.startswith("average") else {}
        return lambda: landscape.sharpness(problem, measure=(name,), **wishes)

    def slices(kind: str) -> Callable[[], Any]:
        return lambda: landscape.surface(problem, dim=1, points=3, direction=(kind,), range=0.5)

    names = ("m-sharpness", "asam-sharpness", "average-case", "average-case-adaptive", "gradient-norm")
    other = FOLDER / "other-wide.safetensors"
    return {
        "top": spectrum(top=2),
        "bottom": spectrum(top=1, bottom=1),
        "trace": spectrum(top=1, trace=True, trace_rtol=0.5),
        "density": spectrum(top=1, density=True),
        "ggn": spectrum(top=1, operator="ggn"),
        "differences": spectrum(by_differences, top=1),
        **{name: measure(name) for name in names},
        **{kind: slices(kind) for kind in ("filter", "layer", "gaussian", "grad", "eigvec:1")},
        "plane": lambda: landscape.surface(problem, dim=2, points=3, direction=("filter", "filter"), range=0.5),
        "path": lambda: landscape.path(problem, other, points=3),
    }


def optimizers() -> dict[str, float]:
    """How far three steps on pieces are from three on the whole network, by name; every process has half a batch."""
    x, y = DATA[0][:12], DATA[1][:12]
    domain = torch.arange(12) % 2
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = slice(12 // world * rank, 12 // world * (rank + 1))
    domain = domain.where(torch.arange(12) != 3, 0)  # the processes have unequal shares of the domains

    def gap(make: Callable[[Any], Any], by_domain: bool) -> float:
        networks = (Net().train(), slice(None)), (sharded().train(), mine)
        for network, part in networks:
            optimizer = make(list(network.named_parameters()))

            def closure(network: Any = network, part: slice = part, optimizer: Any = optimizer) -> Any:
                optimizer.zero_grad()
                each = nn.functional.cross_entropy(network(x[part]), y[part], reduction="none")
                if not by_domain:
                    each.mean().backward()
                    return each.mean()
                counts = torch.bincount(domain[part], minlength=2)
                sums = each.new_zeros(2).index_add(0, domain[part], each)
                return optim.BatchLoss(each.mean(), sums / counts.clamp_min(1), counts)

            for _ in range(3):
                optimizer.step(closure)
        pairs = zip(networks[0][0].parameters(), networks[1][0].parameters(), strict=True)
        return max(float((p.detach() - q.full_tensor().detach()).abs().max()) for p, q in pairs)

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.01)

    return {
        "sam": gap(lambda p: optim.SAM(sgd(p), rho=0.1), False),
        "sam inf": gap(lambda p: optim.SAM(sgd(p), rho=0.01, p="inf"), False),
        "asam": gap(lambda p: optim.ASAM(sgd(p), rho=0.5), False),
        "sagm": gap(lambda p: optim.SAGM(adam(p), rho=0.1, alpha=0.01), False),
        "gsam": gap(lambda p: optim.GSAM(sgd(p), rho=0.1, alpha=0.2), False),
        "disam": gap(lambda p: optim.DISAM(sgd(p), rho=0.1, lam=0.5), True),
        "vrex": gap(lambda p: optim.VREx(sgd(p), lam=0.5), True),
        "disam sample": gap(lambda p: optim.DISAM(sgd(p), rho=0.1, lam=0.5, variance="sample"), True),
    }


def wide(seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(40, 40), nn.Tanh())], nn.Linear(40, 3))


class Counter(TorchDispatchMode):
    """Lengths of the last dimensions of floating tensors that are made, and most bytes that were alive."""

    def __init__(self) -> None:
        super().__init__()
        self.last: set[int] = set()
        self.alive = self.peak = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            own = getattr(tensor, "own", tensor)  # of what is spread the part here
            if type(own) is torch.Tensor and own.is_floating_point():
                self.last.add(own.shape[-1] if own.ndim else 0)
                self._count(own.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.storages:
            return
        self.storages.add(place)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def gone() -> None:
            self.storages.discard(place)
            self.alive -= size

        weakref.finalize(storage, gone)


ASKED: dict[str, Callable[[Problem], Any]] = {
    "spectra": spectra, "measures": measures, "surfaces": surfaces, "paths": paths,
}  # fmt: skip


def main() -> None:
    dist.init_process_group("gloo")
    found: dict[str, Any] = {}
    if dist.get_rank() == 0:
        save_weights(FOLDER / "other.safetensors", Net(2))
        save_file({k: t.clone() for k, t in Net().state_dict().items()}, FOLDER / "network.safetensors")
        save_weights(FOLDER / "other-layers.safetensors", two_layers(6))
        save_weights(FOLDER / "other-wide.safetensors", wide(4))
    dist.barrier()
    names = sys.argv[2:] or list(ASKED)
    alone = Problem(Net(), DATA, batch_size=7)
    whole = {name: ASKED[name](alone) for name in names} if dist.get_rank() == 0 else {}
    model = sharded()
    before = [p.to_local().clone() for p in model.parameters()]
    state = {"model": model.state_dict(), "epoch": 3}
    dcp.save(state, checkpoint_id=str(FOLDER / "distributed"))
    with landscape.processes():
        problem = Problem(model, DATA, batch_size=7)
        for name in names:
            found[name] = ASKED[name](problem)
        whole_tp, pieces_tp = (Problem(m, DATA_TP, batch_size=4) for m in (two_layers(), tensor_parallel()))
        with no_sharding():
            whole["tensor parallel"] = whole["ddp"] = parallel(whole_tp)
        found["tensor parallel"] = parallel(pieces_tp)
        found["ddp"] = parallel(Problem(nn.parallel.DistributedDataParallel(two_layers()), DATA_TP, batch_size=4))
        with no_sharding():
            whole["differences"] = differences(Problem(Net(), DATA, batch_size=7, product="difference"))
        found["differences"] = differences(Problem(model, DATA, batch_size=7, product="difference"))
        found["fallback"] = fallback()
        found["covered"] = [covered(seed) for seed in range(6)]
    same = all(torch.equal(a, b.to_local()) for a, b in zip(before, model.parameters(), strict=True))
    (FOLDER / f"{dist.get_rank()}.json").write_text(
        json.dumps(
            {
                "whole": whole,
                "pieces": found,
                "untouched": same,
                "bytes": largest_allocations(),
                "optimizers": optimizers(),
            },
            default=plain,
        )
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

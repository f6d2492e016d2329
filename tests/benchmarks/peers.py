"""Other people's tools on the same work: their curvature products, eigenvalues, traces, densities and surfaces.

Each works on a copy of the network, is called as its documentation shows, and is given what it needs to succeed:
attention by plain products (their double backward has no other), kept graphs where it can keep them, and, where it
stops by a tolerance of its own meaning, a ladder of settings from which the cheapest that reaches the asked accuracy
is taken before anything is timed. A tool that is not installed is left out, and named as such. nngeometry (0.4) forms
the Hessian densely and has no product, so it appears nowhere; `pip install pyhessian hessian-eigenthings==1.0.0a5
curvlinops-for-pytorch landscaper loss-landscapes pytorch-optimizer` brings the others.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from networks import Work
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from landscape.runtime.random_state import seed_everything

Product = Callable[[Tensor], Tensor]
Pairs = tuple[list[float], list[Tensor]]

PACKAGES = {
    "pyhessian": "pyhessian",
    "hessian_eigenthings": "hessian-eigenthings",
    "curvlinops": "curvlinops-for-pytorch",
    "landscaper": "landscaper",
    "loss_landscapes": "loss-landscapes",
    "pytorch_optimizer": "pytorch-optimizer",
}


def installed() -> dict[str, str | None]:
    """Version of each peer by its package's name, None where it is not installed."""
    there = {module: importlib.util.find_spec(module) is not None for module in PACKAGES}
    return {name: importlib.metadata.version(name) if there[module] else None for module, name in PACKAGES.items()}


@contextlib.contextmanager
def as_they_need(seconds: int = 600) -> Iterator[None]:
    """Around a peer's call: its output and warnings hidden, plain attention, and no longer than ``seconds``.

    Raises:
        TimeoutError: If it took longer.
    """

    def late(*_: object) -> None:
        raise TimeoutError(f"gave up after {seconds} s")

    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
            plain,
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Peer:
    """One tool set up on one network.

    Attributes:
        name: What the tables call it.
        product: Hessian times a flat vector of the network's precision.
        handle: Its own object, for its solvers.
    """

    name: str
    product: Product
    handle: Any


def curvature_peers(work: Work) -> list[Peer]:
    """Every installed tool with a Hessian product, on a copy of the network each."""
    makers = {
        "pyhessian": _pyhessian,
        "hessian_eigenthings": _eigenthings,
        "curvlinops": _curvlinops,
        "landscaper": _landscaper,
    }
    there = installed()
    with as_they_need():
        return [make(work) for module, make in makers.items() if there[PACKAGES[module]]]


def _split(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in like]), like, strict=True)]


def _joined(parts: Any) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])


def _pyhessian(work: Work) -> Peer:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    whole = {"data": work.batches[0]} if work.cut == 1 else {"dataloader": work.batches}
    found = hessian(copy.deepcopy(work.model), work.criterion, **whole, cuda=False)

    def product(vector: Tensor) -> Tensor:
        if work.cut > 1:
            return _joined(found.dataloader_hv_product(_split(vector, found.params))[1])
        return _joined(hessian_vector_product(found.gradsH, found.params, _split(vector, found.params)))

    return Peer("PyHessian", product, found)


def _eigenthings(work: Work) -> Peer:
    from hessian_eigenthings import HessianOperator, supervised_loss

    operator = HessianOperator(copy.deepcopy(work.model), work.batches, supervised_loss(work.criterion))
    return Peer("hessian-eigenthings", operator.matvec, operator)


def _curvlinops(work: Work) -> Peer:
    from curvlinops import HessianLinearOperator

    class Criterion(torch.nn.CrossEntropyLoss):  # it asks for a module with a reduction
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return work.criterion(output, target)

    model = copy.deepcopy(work.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, Criterion(), parameters, work.batches, check_deterministic=False)
    return Peer("curvlinops", lambda vector: operator @ vector, operator)


def _landscaper(work: Work) -> Peer:
    from landscaper.hessian import PyHessian

    model = copy.deepcopy(work.model)
    found = PyHessian(model, work.criterion, work.batches, "cpu", try_cache=True)

    def product(vector: Tensor) -> Tensor:
        return _joined(found.hv_product(_split(vector, found.params))[1])

    return Peer("Landscaper", product, found)


def eigsh_over(product: Product, n: int, dtype: torch.dtype, top: int, tol: float) -> Pairs:
    """scipy's ARPACK over any product."""
    kind = np.float64 if dtype == torch.float64 else np.float32

    def times(vector: Any) -> Any:
        return product(torch.from_numpy(np.ascontiguousarray(vector.ravel(), dtype=kind))).numpy()

    start = np.random.default_rng(0).standard_normal(n).astype(kind)
    values, vectors = eigsh(LinearOperator((n, n), times, dtype=kind), top, which="LA", tol=tol, v0=start)
    return list(values[::-1]), [torch.from_numpy(np.array(column)) for column in vectors.T[::-1]]


@dataclass
class Solver:
    """A way to the largest eigenvalues, with its settings from cheap to exact."""

    name: str
    ladder: list[Callable[[int], Pairs]]


def solvers(peer: Peer, n: int, dtype: torch.dtype, tol: float) -> list[Solver]:
    """What the peer itself offers for the largest eigenvalues, or what its documentation advises (scipy's eigsh)."""

    def power(change: float, steps: int) -> Callable[[int], Pairs]:
        def solve(top: int) -> Pairs:
            seed_everything(0, "peer")
            values, vectors = peer.handle.eigenvalues(maxIter=steps, tol=change, top_n=top)
            return [float(v) for v in values], [_joined(v) for v in vectors]

        return solve

    def lanczos(steps: int) -> Callable[[int], Pairs]:
        def solve(top: int) -> Pairs:
            from hessian_eigenthings import lanczos

            found = lanczos(
                peer.handle, k=top, max_iter=max(steps, top), which="LA", seed=0, tol=tol, reorthogonalize=True
            )
            return found.eigenvalues.tolist(), list(found.eigenvectors)

        return solve

    if peer.name == "PyHessian":
        return [Solver(peer.name, [power(1e-3, 100), power(1e-5, 300), power(1e-7, 1000)])]
    if peer.name == "hessian-eigenthings":
        steps = (8, 12, 16, 20, 25, 30, 45, 65, 95, 140, 200)
        return [
            Solver(peer.name, [lanczos(s) for s in steps]),
            Solver("hessian-eigenthings + eigsh", [lambda top: eigsh_over(peer.product, n, dtype, top, tol)]),
        ]
    if peer.name == "curvlinops":
        return [Solver("curvlinops + eigsh", [lambda top: eigsh_over(peer.product, n, dtype, top, tol)])]
    return []  # Landscaper's solver is PyHessian's


@dataclass
class TraceSolver:
    """A way to the trace: ``call(seed)``, with its settings from cheap to exact."""

    name: str
    ladder: list[Callable[[int], float]]


def traces(peer: Peer) -> list[TraceSolver]:
    """The peer's own estimators of the trace."""
    counts = (3, 6, 12, 24, 48, 99, 198, 399)

    def eigenthings(method: str, products: int) -> Callable[[int], float]:
        def solve(seed: int) -> float:
            from hessian_eigenthings import trace

            return float(trace(peer.handle, num_matvecs=products, method=method, seed=seed).estimate)

        return solve

    def pyhessian(tol: float) -> Callable[[int], float]:
        def solve(seed: int) -> float:
            seed_everything(seed, "peer")
            return float(np.mean(peer.handle.trace(maxIter=400, tol=tol)))

        return solve

    def curvlinops(method: str, products: int) -> Callable[[int], float]:
        def solve(seed: int) -> float:
            from curvlinops import hutchinson_trace, hutchpp_trace, xtrace

            seed_everything(seed, "peer")
            estimator = {"Hutchinson": hutchinson_trace, "Hutch++": hutchpp_trace, "XTrace": xtrace}[method]
            return float(estimator(peer.handle, num_matvecs=products))

        return solve

    if peer.name == "PyHessian":
        return [TraceSolver("PyHessian", [pyhessian(tol) for tol in (1e-2, 1e-3, 1e-4, 1e-5)])]
    if peer.name == "hessian-eigenthings":
        return [
            TraceSolver(f"hessian-eigenthings {m}", [eigenthings(m, c) for c in counts])
            for m in ("hutchinson", "hutch++")
        ]
    if peer.name == "curvlinops":
        even = {"XTrace": [2 * (c // 2) or 2 for c in counts], "Hutch++": [3 * (c // 3) for c in counts]}
        return [
            TraceSolver(f"curvlinops {m}", [curvlinops(m, c) for c in even.get(m, counts)])
            for m in ("Hutchinson", "Hutch++", "XTrace")
        ]
    return []


def density(peer: Peer, probes: int, steps: int) -> Callable[[], Any] | None:
    """The peer's stochastic Lanczos quadrature, None where it has none."""
    if peer.name == "PyHessian":
        return lambda: peer.handle.density(iter=steps, n_v=probes)
    if peer.name == "hessian-eigenthings":
        from hessian_eigenthings import spectral_density

        return lambda: spectral_density(peer.handle, num_runs=probes, lanczos_steps=steps, seed=0)
    return None

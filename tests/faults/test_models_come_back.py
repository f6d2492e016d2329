"""Whatever happens inside an analysis, the model and the process are afterwards what they were, bit for bit.

A tripwire inside the network counts the passes through it, forward and backward, and strikes at one of them.
"""

from __future__ import annotations

import copy
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from cases import OUT_OF_MEMORY
from torch import Tensor, nn

import landscape
from landscape.problem.problem import Problem
from landscape.registry import MEASURES
from landscape.surfaces.directions.snapshots import Snapshot

from .operations import wave


class Wire:
    """Counts passes, and strikes at the one it is set to."""

    def __init__(self) -> None:
        self.count, self.at, self.strike = 0, -1, lambda: None
        self.in_a_check = False

    def pass_by(self) -> None:
        """One pass."""
        self.count += 1
        if self.count == self.at:
            # A forward that fails in a comparison in float64 is no reason to refuse the analysis, which says so.
            files = {Path(frame.filename).name for frame in traceback.extract_stack()}
            self.in_a_check = bool(files & {"derivatives.py", "substitutions.py"})
            self.strike()

    def set(self, at: int, strike: Callable[[], None]) -> None:
        """Count from zero, and strike at pass ``at`` (-1: never)."""
        self.count, self.at, self.strike = 0, at, strike


WIRE = Wire()


class Tripwire(nn.Module):
    """The identity, with the wire across both directions."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        WIRE.pass_by()
        if isinstance(x, Tensor) and x.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(x):
            x = x.view_as(x)
            x.register_hook(lambda gradient: WIRE.pass_by())
        return x


def fail(error: type[BaseException], text: str = "the wire") -> Callable[[], None]:
    def strike() -> None:
        raise error(text)

    return strike


def interrupt() -> None:
    """A real Ctrl-C: the handler runs before the next instruction."""
    os.kill(os.getpid(), signal.SIGINT)


STRIKES: dict[str, Callable[[], None]] = {
    "exception": fail(ValueError),
    "Ctrl-C": interrupt,
    "MemoryError": fail(MemoryError),
    "torch out of memory": fail(RuntimeError, OUT_OF_MEMORY),
}


# -- what must be the same -----------------------------------------------------------------------------------------


def bits(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.dtype, tuple(tensor.shape), tensor.detach().numpy().tobytes())


def model_state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that somebody could notice."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return {
        "values": {k: bits(v) for k, v in (*model.named_parameters(), *model.named_buffers())},
        "storage": {k: v.data_ptr() for k, v in (*model.named_parameters(), *model.named_buffers())},
        "gradients": {k: bits(p.grad) for k, p in model.named_parameters()},
        "requires_grad": {k: p.requires_grad for k, p in model.named_parameters()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "hooks": {k: [list(getattr(m, h)) for h in hooks] for k, m in model.named_modules()},
        "tensor hooks": {k: len(p._backward_hooks or ()) for k, p in model.named_parameters()},
        "forwards": {k: "forward" in vars(m) for k, m in model.named_modules()},
    }


def process_state() -> dict[str, Any]:
    """Everything of the process that other code relies on."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "numpy generator": (name, keys.tobytes(), *rest),
        "python generator": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "anomaly mode": torch.is_anomaly_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "default type": torch.get_default_dtype(),
        "modes": torch._C._len_torch_function_stack(),
        "checkpointing": torch.utils.checkpoint.CheckpointFunction,
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "numpy errors": np.geterr(),
        "warnings": list(warnings.filters),
        # Torch notes in the environment where it would compile, when its compiler is first imported.
        "path": (list(sys.path), os.getcwd(), {k: v for k, v in os.environ.items() if not k.startswith("TORCH")}),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [k for k in before if before[k] != after[k]]


# -- a model with everything, and all analyses ----------------------------------------------------------------------


def network(*, norm: bool = True) -> nn.Module:
    """A network in mixed modes, with gradients, a frozen parameter and a hook of its owner's."""
    model = nn.Sequential(
        nn.Linear(4, 6), Tripwire(), nn.BatchNorm1d(6) if norm else nn.Identity(),
        nn.Tanh() if norm else nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(wave(*p.shape, rate=1.3 + 0.2 * i))
        if norm:
            model[2].weight.add_(1.5)
            model[2].running_var.copy_(wave(6).abs() + 0.5)
    model.train()
    model[5].eval()
    for p in list(model.parameters())[::2]:
        p.grad = wave(*p.shape, rate=2.1)
    model[5].bias.requires_grad_(False)
    model[7].register_forward_hook(_owner_hook)
    return model


def _owner_hook(module: nn.Module, inputs: Any, output: Any) -> None:
    """What the model's owner hung into it."""


def data() -> dict[str, Any]:
    x, y = wave(18, 4, rate=0.9, factor=1.3), torch.arange(18) % 3
    return {"a": (x[:7], y[:7]), "b": (x[7:], y[7:])}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints beside the model's weights."""
    folder = tmp_path_factory.mktemp("others")
    paths = []
    for i in range(2):
        model = network()
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(wave(*p.shape, rate=3.1 + i, factor=0.3))
        paths.append(folder / f"{i}.pt")
        torch.save(model.state_dict(), paths[-1])
    return paths


Analysis = Callable[[Problem, list[Path]], Any]


def _hessian(**options: Any) -> Analysis:
    return lambda problem, others: landscape.hessian(problem, top=1, tol=1e-2, **options)


def _surface(*direction: str, **options: Any) -> Analysis:
    chosen = {"direction": direction} if direction else {}
    return lambda problem, others: landscape.surface(
        problem, points=3, metrics=("loss", "accuracy"), training=problem, **chosen, **options
    )


def _path(**options: Any) -> Analysis:
    return lambda problem, others: landscape.path(
        problem, Snapshot.read(others[0], problem), points=3, training=problem, **options
    )


def _plane(problem: Problem, others: list[Path]) -> Any:
    from landscape.specs import SurfaceSpec
    from landscape.surfaces.planes import plane

    runs = [[Snapshot.read(p, problem)] for p in others]
    return plane(problem, SurfaceSpec(plane=True, points=3), runs, training=problem)


ANALYSES: dict[str, Analysis] = {
    "hessian": _hessian(bottom=1, per_domain=True),
    "hessian, trace and density": _hessian(trace=True, density=True, max_products=40),
    "hessian, per layer": _hessian(per_layer=True),
    "hessian, graphs rebuilt": _hessian(memory=1e-9),
    **{f"operator {o}": _hessian(operator=o) for o in ("ggn", "fisher", "empirical-fisher", "gradient-covariance")},
    "hessian, cross-checked": _hessian(cross_check=("pyhessian",)),
    **{
        f"measure {name}": lambda problem, others, name=name: landscape.sharpness(
            problem, measure=(name,), **({"start": str(others[0])} if name == "distance-from-start" else {})
        )
        for name in MEASURES
    },
    "sharpness, rescaled": lambda problem, others: landscape.sharpness(problem, m=(4,), control="rescale"),
    "surface": _surface(),
    "surface, one axis": _surface("gaussian", dim=1, repeats=2),
    "surface, statistics estimated": _surface(bn="recalibrate"),
    "surface, automatic range": _surface(range="auto"),
    **{
        f"surface along {k}": _surface(k, dim=1)
        for k in ("eigvec:1", "grad", "sam:0.05", "asam:0.5", "domain-grad:a")
    },
    "surface to a checkpoint": lambda problem, others: _surface(f"checkpoint:{others[0]}", dim=1)(problem, others),
    "plane": _plane,
    "path": _path(),
    "path, aligned": _path(align=True),
    "path, curved": _path(kind="bezier", steps=3),
    "domains": lambda problem, others: landscape.domains(problem),
    "domains, closely": lambda problem, others: landscape.domains(problem, curvature=True, sharpness=True),
}


def run(analysis: Analysis, problem: Problem, others: list[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis(problem, others)


QUICK = {"operator ggn", "surface", "domains"}
# Passes over one example, over what a batch must hold for its statistics, or in another library.
WHOLE_BATCHES = {
    "hessian, cross-checked",
    "measure distance-from-start",
    "measure path-norm",
    "sharpness, rescaled",
    "surface, statistics estimated",
    "plane",
    "path",
    "path, aligned",
    "path, curved",
}


def require_expected(error: BaseException, where: str, *, survived: bool) -> None:
    """What came out is what struck, or a line of ours; and nothing that smaller batches could have survived."""
    known = isinstance(error, (KeyboardInterrupt, MemoryError, landscape.LandscapeError)) or "the wire" in str(error)
    if survived or not (known or OUT_OF_MEMORY in str(error)):
        raise AssertionError(where) from error


@pytest.fixture(autouse=True)
def _the_wire_is_cut() -> Iterator[None]:
    yield
    WIRE.set(-1, lambda: None)


@pytest.mark.case(56)
@pytest.mark.parametrize(
    "name",
    [n if n in ("operator ggn", "surface", "domains") else pytest.param(n, marks=pytest.mark.slow) for n in ANALYSES],
)
def test_everything_is_as_before(name: str, others: list[Path], record_property: Any) -> None:
    draws = random.Random(name)
    model = network(norm=name != "measure path-norm")  # which is not defined through such layers
    twin = copy.deepcopy(model_state(model))
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    process = process_state()
    problem = Problem(model, data(), device="cpu", batch_size=7)
    own = model_state(problem.model)
    WIRE.set(-1, lambda: None)
    run(ANALYSES[name], problem, others)
    total = WIRE.count
    assert differences(twin, model_state(model)) == []
    assert differences(own, model_state(problem.model)) == []
    assert differences(process, process_state()) == []
    struck = 0
    for kind, strike in STRIKES.items():
        for at in sorted({draws.randint(1, total), total}) if total else ():
            WIRE.set(-1, strike)
            problem = Problem(model, data(), device="cpu", batch_size=7)
            own = model_state(problem.model)
            with torch.set_grad_enabled(draws.random() < 0.5):
                process = process_state()
                WIRE.set(at, strike)
                where = f"{kind} at pass {at} of {total}"
                survived = "emory" in kind  # with smaller batches, and the same result
                try:
                    run(ANALYSES[name], problem, others)
                    assert survived or WIRE.count < at or WIRE.in_a_check, f"swallowed: {where}"
                except (ValueError, KeyboardInterrupt, MemoryError, RuntimeError) as error:
                    require_expected(error, where, survived=survived and name not in WHOLE_BATCHES)
                struck += 1
                assert differences(process, process_state()) == [], where
                assert differences(twin, model_state(model)) == [], where
                changed = differences(own, model_state(problem.model))
                assert [c for c in changed if c != "forwards"] == [], where  # recomputing blocks is no change
    record_property("strikes", struck)

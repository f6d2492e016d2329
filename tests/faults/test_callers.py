"""The library in other people's programs: in threads, modes of torch, children and event loops.

What is expected is what the plain call gives, bit for bit, and the caller's own state afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint as torch_checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import landscape
from landscape.autograd.substitutes import twice_differentiable
from landscape.base.errors import LandscapeError, UsageError
from landscape.base.plugins import resolve
from landscape.problem.problem import Problem
from landscape.registry import MODELS
from landscape.results.result import Result

_DRAWN = torch.Generator().manual_seed(1)
INPUTS = torch.randn(12, 4, generator=_DRAWN)
LABELS = torch.randint(0, 3, (12,), generator=_DRAWN)


class Attention(nn.Module):
    """Attention inside an activation checkpoint: all that a curvature product has to go around."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.first(x)).unsqueeze(1) * torch.tensor([[0.5], [1.0], [1.5]], dtype=x.dtype)
        seen = torch_checkpoint.checkpoint(self._attend, tokens, use_reentrant=True)
        return self.last(seen.mean(1))

    def _attend(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build()


CALLS: dict[str, Callable[[Problem], Any]] = {
    "loss": Problem.loss,
    "gradient": Problem.gradient,
    "hvp": lambda p: p.hvp(torch.ones(p.n_parameters, dtype=p.dtype)),
    "losses": Problem.example_losses,
    "hessian": lambda p: landscape.hessian(p, top=2),
    "sharpness": lambda p: landscape.sharpness(p, m=(4,), rho=(0.05,)),
    "surface": lambda p: landscape.surface(p, points=3),
    "domains": landscape.domains,
}


def bits(found: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays(found).items()}


def arrays(found: Any) -> dict[str, np.ndarray]:
    if isinstance(found, Result):
        return {k: v.values for k, v in found.data.items() if v.dtype.kind in "fiub"}
    return {"": np.asarray(found.detach() if isinstance(found, Tensor) else found)}


def answers(problem: Problem) -> dict[str, dict[str, bytes]]:
    return {name: bits(call(problem)) for name, call in CALLS.items()}


def state() -> dict[str, Any]:
    """What belongs to the process, or to the thread that asks."""
    cuda = torch.backends.cuda
    return {
        "torch's draws": torch.get_rng_state().tolist(),
        "Python's draws": random.getstate(),
        "NumPy's draws": str(np.random.get_state()),  # noqa: NPY002 - the caller's, too
        "checkpoints": torch_checkpoint.CheckpointFunction,
        "checkpoints without": torch_checkpoint._checkpoint_without_reentrant_generator,
        "attention": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "warnings": list(warnings.filters),
        "modules": (list(sys.path), list(sys.meta_path)),
        "numpy": np.geterr(),
    }


@pytest.fixture(scope="module", params=[perceptron, Attention], ids=["perceptron", "attention"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    return seeded(request.param)


@pytest.fixture(scope="module")
def plain(network: nn.Module) -> dict[str, dict[str, bytes]]:
    """What every call gives by itself."""
    return answers(Problem(network, (INPUTS, LABELS)))


@contextlib.contextmanager
def often_switched() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.case(114)
@pytest.mark.parametrize("shared", [True, False], ids=["one problem", "several"])
def test_eight_threads_get_what_one_gets(network: nn.Module, plain: dict[str, Any], shared: bool):
    """Every thread's answer is that of a lone call, and random states and settings are the caller's afterwards."""
    one, before = Problem(network, (INPUTS, LABELS)), state()

    def work(name: str) -> bool:
        problem = one if shared else Problem(network, (INPUTS, LABELS))
        return bits(CALLS[name](problem)) == plain[name]

    with often_switched(), ThreadPoolExecutor(8) as pool:
        right = list(pool.map(work, [*CALLS] * 3))
    assert right == [True] * len(right)
    assert state() == before


@pytest.mark.case(116)
def test_settings_come_back_when_the_last_of_two_threads_leaves():
    """The first to come leaves first. Meanwhile a third thread, the caller's own, checkpoints as torch does."""
    importlib.import_module("sympy")  # torch imports it when it checkpoints; it adds a warning filter of its own
    before, reached, leave, left = state(), threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        with twice_differentiable(set()):
            reached.set()
            assert leave.wait(60)
        left.set()

    def of_caller() -> str:
        x = torch.ones(2, requires_grad=True)
        return type(torch_checkpoint.checkpoint(torch.sin, x, use_reentrant=True).grad_fn).__name__

    with ThreadPoolExecutor(2) as pool:
        with twice_differentiable(set()):
            waiting = pool.submit(other)
            assert reached.wait(60)
            assert pool.submit(of_caller).result() == "CheckpointFunctionBackward"
            assert of_caller() == "SinBackward0"
        assert not torch.backends.cuda.flash_sdp_enabled()  # still asked for by the other one
        assert of_caller() == "CheckpointFunctionBackward"
        leave.set()
        waiting.result()
    assert state() == before


@pytest.mark.case(116)
def test_a_thread_that_is_left_by_an_exception_holds_nothing():
    before = state()
    with pytest.raises(KeyboardInterrupt), twice_differentiable(set()), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        raise KeyboardInterrupt
    assert state() == before


@pytest.mark.slow
@pytest.mark.case(115)
def test_a_training_beside_an_analysis_gives_what_each_gives_alone(tmp_path: Path):
    """The training draws from the process's random numbers, which the analysis seeds; both come out bit for bit."""

    def train(folder: str) -> str:
        (run,) = landscape.train(
            tmp_path / folder, optimizer=("sam",), data="gaussian-domains", steps=8, batch_size=16, device="cpu"
        )
        return landscape.open(run).weights_hash

    problem = Problem(seeded(perceptron), (INPUTS, LABELS))
    alone, plain, before = train("alone"), answers(problem), state()
    with often_switched(), ThreadPoolExecutor(3) as pool:
        trained = [pool.submit(train, name) for name in ("one", "other")]
        analysed = [pool.submit(answers, problem) for _ in range(2)]
        assert [t.result() for t in trained] == [alone, alone]
        assert [a.result() for a in analysed] == [plain, plain]
    assert state() == before


@pytest.mark.case(115)
@pytest.mark.slow
def test_figures_in_threads_are_those_of_one(tmp_path: Path):
    """Matplotlib's settings belong to the process; every thread has its own style; the caller's come back."""
    import matplotlib as mpl

    result = landscape.surface(Problem(seeded(perceptron), (INPUTS, LABELS)), dim=1, points=5)

    def draw(number: int, venue: str) -> bytes:
        file, *_ = landscape.render("slice", [result], tmp_path / str(number), formats=("svg",), venue=venue)
        return file.read_bytes()

    venues = ["neurips", "slides"]
    alone = [draw(i, v) for i, v in enumerate(venues)]
    before = dict(mpl.rcParams)
    with often_switched(), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, range(2, 6), venues * 2)) == alone * 2
    assert dict(mpl.rcParams) == before
    assert alone[0] != alone[1]


# -- modes of torch --------------------------------------------------------------------------------------------------


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Passing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def switched(turn: Callable[[Any], object], on: Any, off: Any) -> Iterator[None]:
    turn(on)
    try:
        yield
    finally:
        turn(off)


@contextlib.contextmanager
def strict() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "default float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: switched(torch.set_default_device, "cpu", None),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "dispatch mode": Watching,
    "function mode": Passing,
    "errors for warnings": strict,
}


@pytest.mark.slow
@pytest.mark.case(117)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_torch_changes_no_answer(network: nn.Module, plain: dict[str, Any], mode: str):
    """A problem made outside gives the same inside, and again outside: nothing kept is spoilt."""
    outside = Problem(network, (INPUTS, LABELS))
    with MODES[mode]():
        before = state()
        found = [answers(outside), answers(Problem(network, (INPUTS.clone(), LABELS.clone())))]
        assert state() == before
    if isinstance(network, Attention) and mode in ("default device", "function mode"):
        # Torch has a kernel of its own for attention without a graph, and takes another where functions are watched.
        for one in found:
            assert one.keys() == plain.keys()
            one.pop("surface")
        assert found == [{k: v for k, v in plain.items() if k != "surface"}] * 2
        with MODES[mode]():
            inside = arrays(CALLS["surface"](outside))
        for name, expected in arrays(CALLS["surface"](outside)).items():
            np.testing.assert_allclose(inside[name], expected, rtol=1e-6)
    else:
        assert found == [plain, plain]
    assert answers(outside) == plain


@pytest.mark.case(117)
@pytest.mark.parametrize(
    ("mode", "what"),
    [(lambda: torch.autocast("cpu", torch.bfloat16), "autocast"), (lambda: torch.device("meta"), "meta")],
    ids=["autocast", "meta"],
)
def test_a_mode_without_right_numbers_is_refused(mode: Callable[[], Any], what: str):
    network = seeded(perceptron)
    problem = Problem(network, (INPUTS, LABELS))
    for call in (*CALLS.values(), lambda _: Problem(network, (INPUTS, LABELS))):
        with mode(), pytest.raises(UsageError, match=what) as refused:
            call(problem)
        assert "\n" not in str(refused.value)
    assert bits(problem.gradient()) == bits(Problem(network, (INPUTS, LABELS)).gradient())


@pytest.mark.case(117)
def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        network = perceptron()
    with pytest.raises(LandscapeError, match=r"inference_mode.*\(0\.weight\)"):
        Problem(network, (INPUTS, LABELS))


@pytest.mark.case(118)
@pytest.mark.parametrize("method", [landscape.SAM, landscape.GSAM, landscape.LookSAM, landscape.ERM])
def test_an_optimizer_steps_alike_in_every_mode_or_says_why_not(method: Any):
    """Weights after two steps are bit for bit those of plain steps; inference mode, without gradients, is refused."""

    def trained(mode: Callable[[], contextlib.AbstractContextManager[Any]]) -> Tensor:
        network = seeded(perceptron)
        optimizer = method(torch.optim.SGD(network.parameters(), lr=0.1))
        with mode():
            for _ in range(2):
                before = state()
                try:
                    optimizer.step(lambda: landscape.BatchLoss(nn.functional.cross_entropy(network(INPUTS), LABELS)))
                finally:
                    assert state() == before
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    expected = trained(contextlib.nullcontext)
    for name in ("no_grad", "set_grad_enabled", "deterministic", "default float64", "dispatch mode", "function mode"):
        assert torch.equal(trained(MODES[name]), expected), name
    with pytest.raises(UsageError, match="depends on no trainable parameter"):
        trained(torch.inference_mode)


# -- other processes -----------------------------------------------------------------------------------------------


def _in_child(problem: Problem, there: Any) -> None:
    there.send((bits(problem.gradient()), bits(CALLS["hvp"](problem)), torch.backends.cuda.flash_sdp_enabled()))


def _with_threads(problem: Problem, there: Any) -> None:
    torch.set_num_threads(2)
    try:
        problem.loss()
    except UsageError as error:
        there.send(str(error))


def of_child(method: str, work: Callable[[Problem, Any], None], problem: Problem) -> Any:
    context = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(problem, there))
    child.start()
    try:
        assert here.poll(60), "the child hangs"
        return here.recv()
    finally:
        child.kill()
        child.join()


@pytest.mark.case(119)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_forked_while_a_thread_analyses_does_not_wait_for_it():
    """The lock is held and torch's settings are changed by a thread that the child has not: it starts anew."""
    problem, reached, leave = Problem(seeded(Attention), (INPUTS, LABELS)), threading.Event(), threading.Event()
    expected = bits(problem.gradient()), bits(CALLS["hvp"](problem)), True

    def busy() -> None:
        with problem.temporary_weights(), twice_differentiable(set()):
            reached.set()
            assert leave.wait(120)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(busy)
        try:
            assert reached.wait(60)
            assert of_child("fork", _in_child, problem) == expected
            assert "a forked process" in of_child("fork", _with_threads, problem)  # and not a wait without end
        finally:
            leave.set()
        waiting.result()


@pytest.mark.slow
@pytest.mark.case(119)
def test_a_problem_goes_to_a_spawned_child_and_its_answers_come_back():
    problem = Problem(seeded(perceptron), (INPUTS, LABELS))
    expected = bits(problem.gradient()), bits(CALLS["hvp"](problem)), True
    assert of_child("spawn", _in_child, problem) == expected


PROGRAM = """
import sys, torch, landscape
from torch import nn
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(4, 3))
problem = landscape.Problem(network, (torch.arange(20.0).reshape(5, 4) / 20, torch.tensor([0, 1, 2, 1, 0])))
out, sys.stdout = sys.stdout, None
made = landscape.hessian(problem, top=2), landscape.sharpness(problem, m=(2,), rho=(0.1,))
kept = [made[0].record["eigenvalues"], made[0].record["network_hash"], made[1].record["loss_hash"]]
print(kept, made[1].data["value"].values.tobytes().hex(), list(made[0].record), file=out)
"""


@pytest.mark.slow
@pytest.mark.case(122)
def test_hash_seeds_and_optimised_code_and_no_stdout_change_no_bit():
    """Two processes, of the least and the greatest ``PYTHONHASHSEED``, one with ``python -O``; no ``sys.stdout``."""
    flags = [("0", ()), ("4294967295", ("-O",))]
    started = [
        subprocess.Popen(
            [sys.executable, *more, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, more in flags
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert len(said[0]) > 100
    assert said == [said[0]] * 2


# -- programs around it --------------------------------------------------------------------------------------------


@pytest.mark.case(120)
def test_names_beside_a_plug_in_do_not_exist_for_the_rest_of_the_program(tmp_path: Path):
    """A program asks for a module that it has not, and is not given the plug-in's neighbour."""
    name = "neighbour_of_a_plugin"
    (tmp_path / f"{name}.py").write_text("there = 5\n")
    (tmp_path / "plugin.py").write_text(f"def build():\n    import {name}\n    return {name}.there\n")
    build = resolve(f"{tmp_path}/plugin.py:build", MODELS).call
    before = list(sys.path)
    with pytest.raises(ModuleNotFoundError, match=name):
        importlib.import_module(name)
    try:
        assert build() == 5
    finally:
        sys.modules.pop(name, None)
    assert sys.path == before


@pytest.mark.case(121)
def test_inside_an_event_loop_and_beside_it_answers_are_the_same():
    """As in a notebook: in the loop's own thread, and in others by ``asyncio.to_thread``, at once."""
    problem = Problem(seeded(perceptron), (INPUTS, LABELS))
    expected, before = bits(CALLS["hessian"](problem)), state()

    async def notebook() -> list[dict[str, bytes]]:
        beside = [asyncio.to_thread(CALLS["hessian"], problem) for _ in range(3)]
        running = asyncio.gather(*beside)
        await asyncio.sleep(0)
        return [bits(CALLS["hessian"](problem)), *map(bits, await running)]

    assert asyncio.run(notebook()) == [expected] * 4
    assert state() == before


@pytest.mark.case(123)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("name", CALLS)
def test_a_caller_s_state_comes_back_after_what_is_raised_inside(name: str, kind: type[BaseException]):
    """A forward raises; then the next call, from another thread, gives the right bits."""
    network = seeded(Attention)
    problem = Problem(network, (INPUTS, LABELS))
    expected, before, calls = bits(CALLS[name](problem)), state(), []

    def interrupt(*_: object) -> None:
        calls.append(0)
        raise kind

    hook = problem.model.last.register_forward_hook(interrupt)
    with pytest.raises(kind):
        CALLS[name](problem)
    assert calls
    assert state() == before
    hook.remove()
    with ThreadPoolExecutor(1) as pool:
        assert bits(pool.submit(CALLS[name], problem).result(60)) == expected

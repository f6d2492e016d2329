"""What goes wrong on real devices and on no CPU, each by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import landscape
from landscape.base.errors import ResourceError
from landscape.curvature.operators import OPERATORS, operator_of
from landscape.measures.engine import blockwise
from landscape.runtime.caller_context import in_pieces

from .comparison import numbers, problem, train, weights
from .pretend import Device


class Seen(TorchFunctionMode):
    """What was allowed when an operation was called: it is entered first, and so asked last."""

    def __init__(self, functions: set[Any], allowed: Callable[[], Any]) -> None:
        super().__init__()
        self.functions, self.allowed, self.found = functions, allowed, list[Any]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.functions:
            self.found.append(self.allowed())
        return func(*args, **(kwargs or {}))


def attention_kernels() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("family", ["lstm", "gru"])
def test_products_of_recurrent_networks_do_without_cudnn(family: str, kind: str):
    p = problem(family, "cpu")
    with (
        Seen({torch.lstm, torch.gru}, lambda: torch.backends.cudnn.enabled) as seen,
        operator_of(p, kind) as operator,
    ):
        operator(torch.ones_like(p.weights))
    second = kind in ("hessian", "ggn")
    assert seen.found
    assert not (second and any(seen.found))
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_through_attention_do_without_fused_kernels(kind: str):
    p = problem("attention", "cpu")
    fused = {F.scaled_dot_product_attention}
    with Seen(fused, attention_kernels) as seen, operator_of(p, kind) as operator:
        operator(torch.ones_like(p.weights))
    assert seen.found
    assert not any(map(any, seen.found))


@pytest.mark.parametrize("family", ["attention", "lstm"])
def test_second_order_training_does_without_them(family: str, tmp_path: Path):
    ops = {F.scaled_dot_product_attention, torch.lstm}
    with Seen(ops, lambda: (*attention_kernels(), torch.backends.cudnn.enabled)) as seen:
        train(tmp_path, "cpu", family, "sam", order=2, steps=1)
    which = -1 if family == "lstm" else 0
    assert sum(not found[which] for found in seen.found) == 1  # evaluations and the second pass take what is fastest


ANALYSES: dict[str, Callable[[Any], Any]] = {
    "hessian": lambda p: landscape.hessian(p, top=1, tol=1e-1).record,
    "sharpness": lambda p: landscape.sharpness(p, m=(4,)).record,
    "surface": lambda p: landscape.surface(p, points=3).data["loss"].values.tolist(),
    "domains": lambda p: landscape.domains(p).record,
}


def lasting(record: Any) -> dict[str, float]:
    """The numbers that rounding leaves as they are: not the errors, and not what was halved."""
    left_out = ("error", "micro_batch", "residual", "derivatives", "check", "symmetry")
    return {k: v for k, v in numbers(record).items() if not any(word in k for word in left_out)}


@pytest.mark.parametrize("name", list(ANALYSES))
def test_memory_that_runs_out_anywhere(device: Device, name: str):
    """Either the numbers are the same, or it is said in our words; the problem is as it was."""
    ask, p = ANALYSES[name], problem("weight_norm", "pretend")
    before = device.allocations
    expected = lasting(ask(p))
    made = device.allocations - before
    loss, said, failed = p.loss(), list[str](), 0
    for part in (0.02, 0.3, 0.6, 0.8):
        p = problem("weight_norm", "pretend")
        device.fails_at = int(part * made)
        try:
            assert lasting(ask(p)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        except ResourceError as error:
            said.append(str(error))
        failed += device.fails_at is None  # else it was done with less
        device.fails_at = None
        assert p.loss() == pytest.approx(loss, rel=1e-12)
    assert failed >= 3
    assert len(said) < failed
    assert all("out of memory" in line for line in said)


def test_training_says_what_to_do_without_memory(device: Device, tmp_path: Path):
    device.fails_above = 8 * 4 * 16 * 5  # what the convolution makes of five examples; evaluations are larger
    with pytest.raises(ResourceError, match="out of memory"):
        train(tmp_path / "all", "pretend", "batch_norm", "sgd")
    device.fails_above, device.fails_at = None, None
    from landscape.training.loop import Training

    plain = Training.__dict__["_one_step"]

    def step(self: Any, *args: Any) -> Any:
        device.fails_at = 20
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_one_step", step)
        with pytest.raises(ResourceError, match=r"out of memory \(.*step 0, 6 examples\).*`accumulate=`"):
            train(tmp_path / "step", "pretend", "batch_norm", "sgd")


def test_memory_in_pieces_is_said_of_gpus_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in in_pieces("CUDA out of memory. Tried to allocate 2 GiB")
    assert in_pieces("mps") == in_pieces("pretend out of memory") == ""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert in_pieces("cuda") == ""


def test_kernels_that_do_not_repeat_their_bits(device: Device, tmp_path: Path):
    """Nothing that is checked on the way asks for equal bits of two calls."""
    device.noise = 1e-14
    x = torch.ones(50, device="pretend", dtype=torch.float64)
    assert x.sin().sum().item() != x.sin().sum().item()
    for name, ask in ANALYSES.items():
        if name != "hessian":
            here, there = (lasting(ask(problem("weight_norm", where))) for where in ("cpu", "pretend"))
            assert there == pytest.approx(here, rel=1e-6, abs=1e-8), name
    found = landscape.hessian(problem("weight_norm", "pretend"), top=2, tol=1e-3)
    expected = landscape.hessian(problem("weight_norm", "cpu"), top=2, tol=1e-3)
    assert found["eigenvalues"] == pytest.approx(expected["eigenvalues"], rel=1e-3)
    here, there = (weights(train(tmp_path / where, where, "weight_norm", "disam")) for where in ("cpu", "pretend"))
    assert there["weights"] == pytest.approx(here["weights"], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", list(ANALYSES))
def test_a_device_that_vanishes_is_said(device: Device, name: str):
    p = problem("weight_norm", "pretend")
    device.vanishes_at = 60
    with pytest.raises(
        ResourceError, match=r"the device does not answer any more: .*device lost.*start a new process"
    ):
        ANALYSES[name](p)
    device.vanishes_at = None


def test_a_device_that_vanishes_at_the_start_is_not_the_network(device: Device):
    for after in (0, 5, 40):
        device.vanishes_at = after
        with pytest.raises(ResourceError, match="does not answer any more"):
            problem("weight_norm", "pretend").loss()


def test_a_run_whose_device_vanished_goes_on_elsewhere(device: Device, tmp_path: Path):
    """What was kept is kept: the last checkpoint, the log up to it, and the way on with ``auto``."""
    whole = train(tmp_path / "whole", "cpu", "batch_norm", "sam", steps=6)
    from landscape.training.loop import Training

    plain = Training.__dict__["_one_step"]

    def step(self: Any, *args: Any) -> Any:
        if self.step == 4:
            device.vanishes_at = 10
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_one_step", step)
        with pytest.raises(ResourceError, match="does not answer any more"):
            train(tmp_path / "two", "auto", "batch_norm", "sam", steps=6, save_every="2steps")
    device.vanishes_at, device.present = None, False
    [run] = [landscape.Run(path) for path in (tmp_path / "two").iterdir() if path.is_dir()]
    assert sorted(run.checkpoints()) == [0, 2, 4]
    resumed = train(tmp_path / "two", "auto", "batch_norm", "sam", steps=6, save_every="2steps", resume=True)
    assert weights(resumed)["weights"] == pytest.approx(weights(whole)["weights"], rel=1e-9)


@pytest.mark.parametrize("faster", ["stack", "loop"])
def test_blocks_go_the_way_that_was_measured(device: Device, monkeypatch: pytest.MonkeyPatch, faster: str):
    """Once for a device, a network and a size of blocks; no threshold was guessed for it."""
    p, asked = problem("convolution", "pretend"), []

    def seconds(where: torch.device, call: Callable[[], object]) -> float:
        asked.append(where.type)
        call()
        together = len(asked) == 1
        return 5.0 if together == (faster == "stack") else 50.0

    monkeypatch.setattr(blockwise, "_seconds", seconds)
    parts = [range(k, k + 2) for k in range(0, 18, 2)]
    blocks = [torch.tensor(list(part)).numpy() for part in parts]
    assert blockwise.rule(p, blocks) == blockwise.rule(p, blocks) == faster
    assert asked == ["pretend", "pretend"]

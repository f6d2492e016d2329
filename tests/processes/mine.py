"""A user's network, data and losses, for the command under torchrun."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cases import domain_data, small_mlp
from torch import Tensor, nn

from landscape.curvature.lanczos import journal
from landscape.problem.checks.consistency import FEW

RANK = os.environ.get("RANK")
calls = 0
late = 0


def network() -> nn.Module:
    return small_mlp()


def noisy() -> nn.Module:
    """Dropout and BatchNorm: every process draws its own masks and sees its own statistics."""
    model = small_mlp(hidden=8)
    return nn.Sequential(model[0], nn.BatchNorm1d(8).double(), nn.Tanh(), nn.Dropout(0.3), model[2])


def data(few: int = 0) -> Any:
    if few:
        return {"train": domain_data((few,))["art"]}
    return {"train": domain_data((23, 11, 3)), "test": domain_data((5, 4, 3), seed=1)}


def one_fails(output: Tensor, target: Tensor) -> Tensor:
    if _third_call_of_the_second(target):
        raise ArithmeticError("this one alone cannot")
    return F.cross_entropy(output, target, reduction="none")


def one_is_killed(output: Tensor, target: Tensor) -> Tensor:
    if _third_call_of_the_second(target):
        os.kill(os.getpid(), signal.SIGKILL)
    return F.cross_entropy(output, target, reduction="none")


def one_is_killed_late(output: Tensor, target: Tensor) -> Tensor:
    """After some rows of a surface."""
    global late  # noqa: PLW0603
    late += len(target) > FEW
    if RANK == "1" and late == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return F.cross_entropy(output, target, reduction="none")


def counted(output: Tensor, target: Tensor) -> Tensor:
    """A byte for each pass in a file of each process; the second one is killed at the pass that a file names."""
    global late  # noqa: PLW0603
    journal._SECONDS_BETWEEN_WRITES = journal._LARGEST_SHARE = 0  # every product is worth a file
    late += len(target) > FEW
    with open(f"passes-{RANK}", "ab") as file:
        file.write(b"." * (len(target) > FEW))
    named = Path("killed-at")  # and not the environment, whose values are part of what a loss is
    if RANK == "1" and named.exists() and late == int(named.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    return F.cross_entropy(output, target, reduction="none")


def one_is_stopped(output: Tensor, target: Tensor) -> Tensor:
    if _third_call_of_the_second(target):
        os.kill(os.getpid(), signal.SIGSTOP)
    return F.cross_entropy(output, target, reduction="none")


def _third_call_of_the_second(target: Tensor) -> bool:
    """Of those that are asked for all of its examples: what a problem asks when it is made is of a few."""
    global calls  # noqa: PLW0603
    calls += len(target) > FEW
    return RANK == "1" and calls == 3


def slow(output: Tensor, target: Tensor) -> Tensor:
    """Says that training goes on, in a file beside the data, and takes its time."""
    time.sleep(0.01)
    if os.environ.get("SAY") and torch.is_grad_enabled():
        Path(os.environ["SAY"]).touch()
    return F.cross_entropy(output, target, reduction="none")

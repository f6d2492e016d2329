"""Which device is taken and why, one without float64, and memory that runs out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from gpu.agreement import ANALYSES, distance, limit

import landscape
from landscape.base.errors import UsageError
from landscape.problem.problem import Problem
from landscape.runtime.devices import check_precision, pick_device

from . import families
from .pretend import Device


def problem(**options: Any) -> Problem:
    return Problem(families.batch_norm(), families.examples("batch_norm"), device="pretend", **options)


def test_auto_takes_it_and_says_so(device: Device, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "landscape"):
        assert pick_device("auto").type == "pretend"
        device.present = False
        assert pick_device("auto").type == "cpu"
    assert caplog.messages == ["device: pretend, the accelerator of this torch", "device: cpu, torch finds no other"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("pretend:3", r"1 pretend device\(s\) found \(`device='pretend:3'`\): use `device='cpu'`"),
        ("cuda", r"CUDA is not available \(`device='cuda'`\)"),
        ("mps", r"mps is not available \(`device='mps'`\)"),
        ("nonsense", r"unknown device 'nonsense' \(`device='nonsense'`\): use `device='pretend'` or `device='cpu'`"),
    ],
)
def test_a_device_that_is_not_there(device: Device, asked: str, said: str):
    with pytest.raises(UsageError, match=said):
        pick_device(asked)


def test_float64_is_refused_where_there_is_none(without_float64: Device):
    said = r"^pretend has no float64 \(`dtype='float64'`\): use `dtype='float32'`, or `device='cpu'`$"
    with pytest.raises(UsageError, match=said):
        problem(dtype="float64")
    with pytest.raises(UsageError, match=said):
        landscape.train(
            "unused", model=f"{families.__file__}:batch_norm", data=f"{families.__file__}:data",
            data_arg=("family=batch_norm",), device="pretend", dtype="float64", steps=1,
        )  # fmt: skip


def test_float64_is_there_elsewhere(device: Device):
    check_precision(torch.device("pretend"), torch.float64)
    check_precision(torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("analysis", ["basics", "hessian", "sharpness", "domains", "surface", "path"])
def test_analyses_without_float64(without_float64: Device, analysis: str):
    here, there = (ANALYSES[analysis](where, "float32") for where in ("cpu", "pretend"))
    for name, value in here.items():
        assert distance(value, there[name]) <= limit(analysis, "float32"), name


def test_without_float64_the_basis_lives_on_the_host(without_float64: Device):
    found = landscape.hessian(problem(dtype="float32"), top=1)
    assert found["products"]["basis_on"] == "cpu"


def test_micro_batches_halve_when_memory_runs_out(device: Device):
    plain, hungry = (problem(dtype="float64", batch_size=16) for _ in range(2))
    expected = plain.loss_and_gradient()
    device.fails_above = 8 * 4 * 16 * 9  # bytes of what the convolution makes of nine examples
    loss, gradient = hungry.loss_and_gradient()
    assert hungry.batch_size == 8
    torch.testing.assert_close(loss.cpu(), expected[0].cpu(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient.cpu(), expected[1].cpu(), rtol=1e-9, atol=1e-12)


def test_one_allocation_that_fails_changes_no_number(device: Device):
    expected = problem(dtype="float64", batch_size=16).loss()
    for n in (0, 7, 20):
        made = problem(dtype="float64", batch_size=16)
        device.fails_at = n
        assert made.loss() == pytest.approx(expected, rel=1e-12)
        device.fails_at = None

"""TensorFloat-32 is off inside and afterwards what it was; which kernels listen is tested on GPUs (tests/gpu)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from landscape.runtime.precision import full_precision

GPU, CPU = torch.device("cuda"), torch.device("cpu")
cudnn: Any = torch.backends.cudnn


def flags() -> tuple[bool, bool]:
    return cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def settings():
    before = flags()
    yield
    cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("allowed", [(True, False), (True, True), (False, False)])
def test_off_inside_and_restored(allowed: tuple[bool, bool]):
    cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed
    inside = []
    with contextlib.suppress(ZeroDivisionError), full_precision(GPU):
        inside = flags()
        raise ZeroDivisionError
    assert inside == (False, False)
    assert flags() == allowed
    with full_precision(CPU):
        assert flags() == allowed


def test_settings_of_each_kind_of_operation():
    kinds = (cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    kinds[0].fp32_precision, kinds[1].fp32_precision = "tf32", "ieee"
    try:
        with full_precision(GPU):
            assert [kind.fp32_precision for kind in kinds] == ["ieee", "ieee"]
        assert [kind.fp32_precision for kind in kinds] == ["tf32", "ieee"]
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision

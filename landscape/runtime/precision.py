"""Full float32 on GPUs, whatever the process allows elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TensorFloat-32 inside: torch allows it in convolutions by default, and it keeps 10 bits of a mantissa of 23.

    A gradient is then right to about 1e-3, a curvature product to less, and nothing shows it. Outside the block the
    process trains with what it had.
    """
    if device.type != "cuda":
        yield
        return
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        before = convolutions.allow_tf32, products.allow_tf32
    except RuntimeError:  # torch has no single answer where each kind of operation was given its own
        with _each_kind():
            yield
        return
    convolutions.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextmanager
def _each_kind() -> Iterator[None]:
    backends: Any = torch.backends
    kinds = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision

"""The same question on the CPU and on the pretend device, and all numbers of both answers side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import landscape
from landscape.problem.problem import Problem

from . import families

# The kernels are the CPU's: only sums in another order are left, where a device takes another way.
CLOSE = {"rtol": 1e-8, "atol": 1e-10}
# What a device says of itself, clocks, and names of what was computed where.
_ITS_OWN = (
    *("seconds", "device", "key", "identity", "products", "created", "memory", "bytes", "peak", "environment"),
    *("hash", "outputs", "path", "size"),
)


def numbers(value: Any, at: str = "") -> dict[str, float]:
    """All numbers of a record, by where they stand; what a device says of itself and clocks are left out."""
    if isinstance(value, dict):
        return {
            k: v
            for name, entry in value.items()
            if not any(word in str(name) for word in _ITS_OWN)
            for k, v in numbers(entry, f"{at}/{name}").items()
        }
    if isinstance(value, list | tuple):
        return {k: v for i, entry in enumerate(value) for k, v in numbers(entry, f"{at}/{i}").items()}
    return {at: float(value)} if isinstance(value, int | float) else {}


def require_same(here: Any, there: Any, least: int = 2) -> None:
    """The same numbers, and some."""
    one, other = numbers(here), numbers(there)
    assert one.keys() == other.keys()
    assert len(one) >= least
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, **CLOSE, err_msg=name)


def same(ask: Callable[[str], Any]) -> None:
    """The answers of both devices are the same."""
    require_same(*(ask(where) for where in ("cpu", "pretend")))


def problem(family: str, device: str, **options: Any) -> Problem:
    """A network of the family, with its examples."""
    made = getattr(families, family)()
    given = {"dtype": "float64", "batch_size": 8, **options}
    return Problem(made, families.examples(family), device=device, **given)


def train(folder: Path, where: str, family: str, optimizer: str, **options: Any) -> Any:
    """Four steps."""
    given = {"steps": 4, "batch_size": 6, "lr": 0.05, "dtype": "float64", **options}
    run, *_ = landscape.train(
        folder, optimizer=(optimizer,), model=f"{families.__file__}:{family}", data=f"{families.__file__}:data",
        data_arg=(f"family={family}",), device=where, **given,
    )  # fmt: skip
    return run


def weights(run: Any) -> dict[str, Any]:
    """The weights at its end."""
    return {"weights": landscape.open(run, device="cpu", dtype="float64").weights.tolist()}

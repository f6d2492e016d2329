"""What ``landscape train`` is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..errors import UsageError
from ..registry import OPTIMIZERS
from .base import Spec, check_choice, check_distinct, check_number, flag, key_values
from .problem import DTYPES, KeyValues, check_device

BASES = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "linear")
# Flags of single methods; None means "not given". A given one must be used by a chosen optimizer.
METHOD_FLAGS = ("rho", "alpha", "lam")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """One or several optimizers over one or several seeds, each pair one run."""

    # What may differ between a run and its continuation.
    _not_in_key: ClassVar[frozenset[str]] = frozenset({"save_every", "workers"})

    data: str = "digits-rotated"
    """Registered name, domains:FOLDER, images:FOLDER, pkg.module:callable or path/to/file.py:callable."""
    model: str | None = None
    """Registered name, pkg.module:callable or path/to/file.py:callable (default: convnet for images, else mlp)."""
    loss: str = "cross_entropy"
    """Registered name or a callable (output, target) -> per-example losses or their mean."""
    model_arg: KeyValues = ()
    """k=v argument of the model callable (TOML value, else text)."""
    data_arg: KeyValues = ()
    """k=v argument of the data callable (TOML value, else text)."""
    optimizer: tuple[str, ...] = ("sgd",)
    """One or several methods; see `landscape list optimizers`."""
    base: str | None = None
    """Base optimizer of the sharpness-aware methods: sgd, adam or adamw (default: sgd)."""
    lr: float | None = None
    """Learning rate (default: 0.05 for sgd, 0.001 for adam and adamw)."""
    momentum: float | None = None
    """Momentum of sgd (default: 0.9)."""
    weight_decay: float = 0.0
    """Weight decay of the base step, at the unperturbed weights."""
    schedule: str = "constant"
    """Learning rate over the run: constant, cosine or linear (both to 0)."""
    epochs: int | None = None
    """Passes over the training examples (default: 30)."""
    steps: int | None = None
    """Optimizer steps, instead of --epochs."""
    batch_size: int | Literal["full"] | None = None
    """Examples per step, or full (default: 64, or all where there are fewer)."""
    seed: tuple[int, ...] = (0,)
    """One or several seeds: initial weights and order of the examples."""
    holdout: tuple[str, ...] = ()
    """Domains left out of training and reported as unseen."""
    save_every: str | None = None
    """A checkpoint every N[steps|epochs] (default: only at the end)."""
    init: str | None = None
    """Checkpoint with the initial weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i."""
    dtype: str = "float32"
    """float32 or float64."""
    workers: int = 0
    """Processes that read the examples of a Dataset (tensors need none)."""
    rho: float | None = None
    """Radius of the perturbation (sam, sagm, disam; default: 0.05)."""
    alpha: float | None = None
    """Weight of SAGM's gradient matching (sagm; default: 0.001)."""
    lam: float | None = None
    """DISAM's lambda, the weight of the domain-loss variance (disam; default: 0.1)."""

    def __post_init__(self) -> None:
        check_distinct("optimizer", self.optimizer)
        for name in self.optimizer:
            check_choice("optimizer", name, OPTIMIZERS)
        check_distinct("seed", self.seed)
        check_choice("base", self.base, BASES)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("dtype", self.dtype, DTYPES)
        check_device(self.device)
        for name in ("lr", "momentum", "weight_decay", *METHOD_FLAGS):
            check_number(name, getattr(self, name), least=0)
        check_number("momentum", self.momentum, least=0, most=1)
        for name in ("epochs", "steps"):
            check_number(name, getattr(self, name), least=1)
        check_number("workers", self.workers, least=0)
        for seed in self.seed:
            check_number("seed", seed, least=0)
        if self.batch_size != "full":
            check_number("batch_size", self.batch_size, least=1)
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps contradict each other", "--steps", "give one of them")
        interval(self.save_every)
        key_values(self.model_arg, "model_arg")
        key_values(self.data_arg, "data_arg")
        self._check_method_flags()

    def _check_method_flags(self) -> None:
        for name in METHOD_FLAGS:
            users = [o for o in OPTIMIZERS if name in OPTIMIZERS[o].options]
            if getattr(self, name) is not None and not set(users) & set(self.optimizer):
                raise UsageError(
                    f"{flag(name)} is used by none of the chosen optimizers",
                    f"--optimizer {' '.join(self.optimizer)}",
                    f"it belongs to {', '.join(users)}; drop it or choose one of them",
                )
        if self.base is not None and set(self.optimizer) <= set(BASES):
            raise UsageError(
                "--base is for methods that wrap a base optimizer", "--base", f"use --optimizer {self.base}"
            )
        if self.momentum is not None and "sgd" not in {self.base_of(o) for o in self.optimizer}:
            raise UsageError("--momentum belongs to sgd", "--momentum", "drop it, or use sgd as the base")

    def base_of(self, optimizer: str) -> str:
        """The base optimizer under a method (a plain optimizer is its own base)."""
        return optimizer if optimizer in BASES else self.base or "sgd"

    def runs(self) -> Iterator[TrainSpec]:
        """One spec per run: a single optimizer, a single seed, only the method flags it uses, no open defaults."""
        for name in self.optimizer:
            for seed in self.seed:
                base = self.base_of(name)
                changes: dict[str, Any] = {f: None for f in METHOD_FLAGS if f not in OPTIMIZERS[name].options}
                yield self.with_(
                    optimizer=(name,),
                    seed=(seed,),
                    base=None if name in BASES else base,
                    lr=self.lr if self.lr is not None else (0.05 if base == "sgd" else 1e-3),
                    momentum=(0.9 if self.momentum is None else self.momentum) if base == "sgd" else None,
                    epochs=self.epochs if self.steps is not None else self.epochs or 30,
                    **changes,
                )

    @property
    def name(self) -> str:
        """The folder name of a single run: ``OPTIMIZER-seedN``."""
        return f"{self.optimizer[0]}-seed{self.seed[0]}"


def interval(text: str | None) -> tuple[int, str] | None:
    """Read ``N``, ``Nsteps`` or ``Nepochs`` (plain N means steps).

    Raises:
        UsageError: If it is something else or N is 0.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(steps?|epochs?)?", text)
    if not match or int(match[1]) < 1:
        raise UsageError(f"{text!r} is no interval", "--save-every", "write 100steps or 5epochs")
    return int(match[1]), "epochs" if (match[2] or "").startswith("epoch") else "steps"

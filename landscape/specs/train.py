"""What ``landscape train`` is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..base.errors import UsageError, argument
from ..registry import OPTIMIZERS
from .changes import DataChanges
from .methods import METHOD_FLAGS, MethodOptions
from .training import BASES, NetworkAndData, Recording, RunOptions, Steps


@dataclass(frozen=True, kw_only=True)
class TrainSpec(MethodOptions, Recording, DataChanges, RunOptions, Steps, NetworkAndData):
    """One or several optimizers over one or several seeds, each pair one run."""

    # The fields are those of the parts, from the last to the first. Each part checks its own; here is what is between
    # them.

    # What may differ between a run and its continuation.
    _not_in_key: ClassVar[Mapping[str, str]] = {
        "save_every": "how often something is kept, not what",
        "workers": "who reads the examples; each draws by its seed and place",
        "tensorboard": "a copy of the log",
    }

    _later: ClassVar[frozenset[str]] = frozenset({"validation"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma is not None and "wsam" in self.optimizer and self.gamma >= 1:
            raise UsageError(f"gamma={self.gamma!r}", "`gamma=`", "WSAM's gamma lies in [0, 1)")
        self._check_method_flags()
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.accumulate is not None and self.m is not None:
            raise UsageError(
                "`accumulate=` and `m=` both cut the batch",
                "`m=`",
                "give one of them: `m=` perturbs each piece alone",
            )
        if self.order == 2 and (self.adaptive or (self.p or "2") != "2" or (self.ascent_steps or 1) > 1):
            raise UsageError(
                "second-order SAM is defined for one plain step with p = 2", "`order=2`", "drop the other options"
            )
        if self.equal_cost and not set(self.optimizer) & set(BASES):
            raise UsageError(
                "`equal_cost=True` is an arm of sgd, adam or adamw",
                "`optimizer=`",
                "name one of them, or drop `equal_cost=True`",
            )
        if self.leave_one_out and self.holdout:
            raise UsageError(
                "`leave_one_out=True` chooses the held-out domains", "`holdout=`", "drop one of the flags"
            )
        if self.select == "leave-one-domain-out" and not self.leave_one_out:
            raise UsageError("it compares runs with other domains held out", "`select=`", "add `leave_one_out=True`")
        if self.select not in ("last", "leave-one-domain-out") and self.save_every is None:
            raise UsageError("there is only the last checkpoint to select", "`select=`", "add `save_every='1epochs'`")

    def _check_method_flags(self) -> None:
        for name in METHOD_FLAGS:
            users = [o for o in OPTIMIZERS if name in OPTIMIZERS[o].options]
            if self.given(name) and not set(users) & set(self.optimizer):
                raise UsageError(
                    f"{argument(name)} is used by none of the chosen optimizers",
                    argument("optimizer", self.optimizer),
                    f"it belongs to {', '.join(users)}; drop it or choose one of them",
                )
        if self.base is not None and set(self.optimizer) <= set(BASES):
            raise UsageError(
                "`base=` is for methods that wrap a base optimizer", "`base=`", f"use `optimizer={self.base!r}`"
            )
        if self.momentum is not None and "sgd" not in {self.base_of(o) for o in self.optimizer}:
            raise UsageError("`momentum=` belongs to sgd", "`momentum=`", "drop it, or use sgd as the base")

    def runs(self) -> Iterator[TrainSpec]:
        """One spec per run: a single optimizer, a single seed, only the method flags it uses, no open defaults."""
        for name in self.optimizer:
            for seed in self.seed:
                base = self.base_of(name)
                unused = [f for f in METHOD_FLAGS if f not in OPTIMIZERS[name].options]
                changes = {f: False if isinstance(getattr(self, f), bool) else None for f in unused}
                one = self.with_(
                    optimizer=(name,),
                    seed=(seed,),
                    base=None if name in BASES else base,
                    lr=self.lr if self.lr is not None else (0.05 if base == "sgd" else 1e-3),
                    momentum=(0.9 if self.momentum is None else self.momentum) if base == "sgd" else None,
                    epochs=self.epochs if self.steps is not None else self.epochs or 30,
                    equal_cost=False,
                    **changes,
                )
                yield one
                if self.equal_cost and name in BASES:
                    longer = {"steps": 2 * one.steps} if one.steps else {"epochs": 2 * (one.epochs or 1)}
                    yield one.with_(**longer, equal_cost=True)

    @property
    def name(self) -> str:
        """The folder name of a single run: ``OPTIMIZER-seedN``, ``OPTIMIZER-2x-seedN`` for the equal-cost arm."""
        return f"{self.optimizer[0]}{'-2x' if self.equal_cost else ''}-seed{self.seed[0]}"

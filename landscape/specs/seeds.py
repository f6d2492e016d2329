"""The seeds of a study, kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import UsageError
from .base import Spec
from .tables import at_least


@dataclass(frozen=True, kw_only=True)
class SeedsSpec(Spec):
    """Seeds, kept apart. The k-th repetition takes the k-th of each list; a list of one serves all."""

    init: tuple[int, ...] = (0,)
    """Initial weights, noise in labels and domains, augmentation, dropout."""
    order: tuple[int, ...] = ()
    """Order of the training examples (default: as init)."""
    split: tuple[int, ...] = ()
    """``split_seed`` of the data (default: the data's own)."""
    measurement: tuple[int, ...] = (0,)
    """Subsets, probes and partitions; every analysis is repeated with each of them."""

    def __post_init__(self) -> None:
        count = self.count
        for name in ("init", "order", "split", "measurement"):
            values = getattr(self, name)
            if name in ("init", "measurement") and not values:
                raise UsageError(f"{name} is empty", f"seeds.{name}", "give at least one seed")
            for value in values:
                at_least(f"seeds.{name}", value, 0)
            if name != "measurement" and len(values) not in (0, 1, count):
                raise UsageError(
                    f"{name} has {len(values)} seeds and another list {count}",
                    f"seeds.{name}",
                    "give lists of one length, or a single seed for all repetitions",
                )
        if len(set(self.repetitions())) < count:
            raise UsageError("two repetitions have the same seeds", "seeds", "give each seed once")

    @property
    def count(self) -> int:
        """How many repetitions of every configuration there are."""
        return max(len(self.init), len(self.order), len(self.split))

    def repetitions(self) -> list[tuple[int, int | None, int | None]]:
        """Seeds (init, order, split) of every repetition; None: not set apart."""

        def at(values: Sequence[int], k: int) -> int | None:
            return None if not values else values[k] if len(values) > 1 else values[0]

        return [(at(self.init, k) or 0, at(self.order, k), at(self.split, k)) for k in range(self.count)]

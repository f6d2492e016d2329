"""How trainings ended: accuracies by method, seed, radius and held-out domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...results.result import Result
from ..draw.drawing import Want
from ..draw.method_styles import ERM

ACCURACIES = {"unseen_accuracy": "accuracy on unseen domains (%)", "test_accuracy": "accuracy on test data (%)"}


@dataclass(frozen=True)
class Final:
    """The end of one training.

    Attributes:
        label: The optimizer's label.
        seed: Training seed.
        rho: Radius of the perturbation; None for methods without.
        data: Name of the data.
        holdout: Held-out domains.
        accuracy: Accuracies in [0, 1] by name, those that there are.
    """

    label: str
    seed: Any
    rho: float | None
    data: str
    holdout: tuple[str, ...]
    accuracy: dict[str, float]

    @property
    def task(self) -> str:
        """What was trained for, as words: the held-out domains, else the data."""
        return ", ".join(self.holdout) if self.holdout else self.data.rpartition("/")[2]


class Ended(Want):
    """Trainings that ended with an accuracy."""

    def fits(self, result: Result) -> bool:
        """Whether ``result`` is one."""
        final = result.record.get("final") or {}
        return result.kind == self.kind and any(final.get(f) is not None for f in ACCURACIES)


def finals(results: Sequence[Result]) -> tuple[list[Final], str]:
    """Every training once, sorted, and the accuracy to show: on unseen domains where all have it, else on tests."""
    found: dict[tuple[Any, ...], Final] = {}
    for result in results:
        spec, final = result.record.get("spec") or {}, result.record.get("final") or {}
        accuracy = {f: float(final[f]) for f in ACCURACIES if final.get(f) is not None}
        holdout = tuple(str(d) for d in result.record.get("holdout") or ())
        rho = None if result.label in ERM else spec.get("rho")
        one = Final(result.label, result.seed, rho, str(spec.get("data")), holdout, accuracy)
        found[one.label, str(one.seed), str(one.rho), one.data, one.holdout] = one
    every = [found[k] for k in sorted(found)]
    shared = [f for f in ACCURACIES if all(f in one.accuracy for one in every)]
    return every, (shared or list(ACCURACIES))[0]

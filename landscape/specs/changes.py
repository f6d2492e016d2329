"""Changes of the training examples, and how they are written: shares, ratios, kinds of noise."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import UsageError
from .base import Spec, check_number


def share(text: str, flag_name: str, kinds: tuple[str, ...]) -> tuple[str, float]:
    """Read ``SHARE`` or ``KIND:SHARE`` with a share in [0, 1]; the first kind is the default.

    Raises:
        UsageError: If it is something else.
    """
    kind, colon, number = text.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1 or (colon and kind not in kinds):
        forms = " or ".join(["0.3", *(f"{k}:0.3" for k in kinds[1:])])
        raise UsageError(f"{text!r} is no share", flag_name, f"write {forms}")
    return kind or kinds[0], value


def ratio(text: str) -> tuple[float, ...]:
    """Read ``8:1:1``.

    Raises:
        UsageError: If it is something else, or a part is not positive.
    """
    try:
        parts = tuple(float(t) for t in text.split(":"))
    except ValueError:
        parts = ()
    if not parts or not all(0 < p < float("inf") for p in parts):
        raise UsageError(f"{text!r} is no ratio", "`domain_ratio=`", "write positive numbers like 8:1:1")
    return parts


@dataclass(frozen=True, kw_only=True)
class DataChanges(Spec):
    """What of the training examples is changed before training."""

    label_noise: str | None = None
    """Share of the training labels that are replaced: 0.4 (symmetric) or pair:0.4 (by the next class)."""
    label_shift: float | None = None
    """Dirichlet concentration of the class proportions that each training domain draws (small: few classes each);
    surplus examples are left out."""
    domain_ratio: str | None = None
    """Relative sizes of the training domains in their order, like 8:1:1; surplus examples are left out."""
    domain_label_noise: tuple[str, ...] = ()
    """Share of the training examples whose domain is wrong (0.3) or unknown (missing:0.5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("label_shift", self.label_shift, above=0)
        if self.label_noise is not None:
            share(self.label_noise, "`label_noise=`", ("symmetric", "pair"))
        if self.domain_ratio is not None:
            ratio(self.domain_ratio)
        kinds = [share(text, "`domain_label_noise=`", ("wrong", "missing"))[0] for text in self.domain_label_noise]
        if len(set(kinds)) < len(kinds):
            raise UsageError("the same kind is given twice", "`domain_label_noise=`", "give each kind once")

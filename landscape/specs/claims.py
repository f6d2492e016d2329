"""A claim as an experiment file asks it: what would show it and what would refute it, written before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..base.errors import UsageError
from .base import Spec, check_choice
from .tables import tables_of

EXPECTS = ("lower", "higher", "equal", "predicts")


@dataclass(frozen=True, kw_only=True)
class ClaimSpec(Spec):
    """One sentence of a paper, as a question to the numbers of a study.

    A difference that is expected shows if its test says so; it is refuted if its whole 95 % interval lies within the
    margin, so that no difference of a size that matters is left. Everything else is "cannot tell": an interval that
    covers 0 refutes nothing.
    """

    says: str
    """The claim in words."""
    source: str = ""
    """Paper and place."""
    of: str
    """The method, as the comparison names it; the measure, if it ``predicts``."""
    than: str = ""
    """The measure that it is to predict better than (methods are compared with the report's baseline)."""
    quantity: str
    """What is compared, or the outcome that is predicted."""
    expects: Literal["lower", "higher", "equal", "predicts"]
    """What the claim expects of the quantity under the method."""
    margin: str = ""
    """Differences below it do not matter: a number in units of the quantity, or ``10%`` of the baseline's mean."""
    grows_with: str = ""
    """An axis of ``report.within``: the difference is expected to rise (``higher``) or fall along its values."""

    def __post_init__(self) -> None:
        check_choice("expects", self.expects, EXPECTS)
        where = f"the claim {self.says!r}"
        if self.margin:
            try:
                allowed = 0 < float(self.margin.removesuffix("%")) < math.inf
            except ValueError:
                allowed = False
            if not allowed:
                raise UsageError(f"margin = {self.margin!r}", where, 'write a positive number or a share, as "5%"')
        if self.expects == "predicts" and (self.margin or self.grows_with):
            raise UsageError("margin and grows_with are for comparisons of methods", where, "leave them out")
        if self.expects == "equal" and not self.margin:
            raise UsageError("that two methods are equal cannot be shown without a margin", where, "add margin")
        if self.than and self.expects != "predicts":
            raise UsageError("methods are compared with report.baseline", where, "leave out than")

    def size(self, mean: float | None) -> float | None:
        """The margin in units of the quantity, where the baseline's mean is ``mean``; None: there is none."""
        if not self.margin:
            return None
        if self.margin.endswith("%"):
            return None if mean is None else abs(mean) * float(self.margin.removesuffix("%")) / 100
        return float(self.margin)


def claims_of(content: Mapping[str, object], where: str) -> tuple[ClaimSpec, ...]:
    """The ``[[claims]]`` of an experiment file's content."""
    tables = tables_of(content, "claims", where)
    return tuple(ClaimSpec.from_dict(c, f"{where}, claims[{i}]") for i, c in enumerate(tables))


def refutation(claims: Sequence[ClaimSpec]) -> str:
    """What would refute these claims, in one sentence: the margins that were written down before the run."""
    margins: dict[str, dict[str, None]] = {}
    for claim in claims:
        if claim.margin:
            unit = f"{claim.margin.removesuffix('%')} %" if claim.margin.endswith("%") else claim.margin
            margins.setdefault(unit, {})[claim.quantity] = None
    parts = [f"{unit} of {', '.join(quantities)}" for unit, quantities in margins.items()]
    told = [f"95 % intervals of the differences within the margins ({'; '.join(parts)})"] if parts else []
    if any(c.expects == "predicts" for c in claims):
        told.append("taus whose whole intervals are negligible")
    text = f"{', or '.join(told)}, or differences of the other sign."
    return text[0].upper() + text[1:] if told else ""

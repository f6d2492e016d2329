"""A weighted sum, as a line of text: ``kind=cross_entropy,size=0.3*mse``, ``ce=1,aux=0.3``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from .errors import UsageError

_BEGINS = re.compile(r"\s*[\w.]+\s*=")
_TERM = re.compile(r"\s*([\w.]+)\s*=\s*(?:([^*=\s]+)\s*\*\s*)?(\S.*?)\s*")
_FORM = "write `loss='kind=cross_entropy,size=0.3*mse'`, or `loss='ce=1,aux=0.3'` of outputs that are losses"


class Term(NamedTuple):
    """One part of a sum.

    Attributes:
        of: The output that it is of.
        weight: What it is multiplied with.
        name: What is taken of the output; None: the output itself.
    """

    of: str
    weight: float
    name: str | None


def terms(text: str) -> list[Term] | None:
    """The parts of a weighted sum, or None if the text begins as none.

    Raises:
        UsageError: If it begins as one and does not go on so, or an output stands in it twice.

    Example:
        >>> terms("kind=cross_entropy,aux=0.3*mine.py:loss")
        [Term(of='kind', weight=1.0, name='cross_entropy'), Term(of='aux', weight=0.3, name='mine.py:loss')]
        >>> terms("ce=1,aux=0.3")[1], terms("cross_entropy")
        (Term(of='aux', weight=0.3, name=None), None)
    """
    if not _BEGINS.match(text):
        return None
    found = []
    for part in text.split(","):
        match = _TERM.fullmatch(part)
        if match is None:
            raise UsageError(f"{part.strip()!r} is no part of a loss", "`loss=`", _FORM)
        of, factor, name = match.groups()
        alone = None if factor else _number(name)
        weight = alone if alone is not None else _number(factor) if factor else 1.0
        if weight is None or not math.isfinite(weight):
            raise UsageError(f"{(factor or name)!r} is no weight", "`loss=`", _FORM)
        found.append(Term(of, weight, None if alone is not None else name))
    twice = sorted({t.of for t in found if sum(o.of == t.of for o in found) > 1})
    if twice:
        raise UsageError(f"{twice[0]!r} stands twice in the loss", "`loss=`", "name each output once")
    return found


def text_of(parts: Sequence[Term]) -> str:
    """The line that `terms` reads."""
    return ",".join(f"{of}={w:.10g}" if name is None else f"{of}={_factor(w)}{name}" for of, w, name in parts)


def _factor(weight: float) -> str:
    return "" if weight == 1 else f"{weight:.10g}*"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

"""What the figures of studies share: names of outcomes, verdicts as fills, measures one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...results.result import Result
from ..draw.drawing import Row, Want

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Correlated(Want):
    """Studies; a figure says something of those in which a measure was correlated with an outcome."""

    def tells(self, results: Sequence[Result]) -> bool:
        """Whether there is such a study."""
        return any(
            known_outcomes(r.record) and any(c["tau"] is not None for c in r.record["correlations"]) for r in results
        )


WANTS = Correlated("study", "compute it with `landscape study correlate`", "value", frozenset({"model", "measure"}))
OUTCOMES = {
    "gap_loss": "loss gap, in-domain",
    "gap_error": "error gap, in-domain",
    "unseen_gap_loss": "loss gap, unseen domains",
    "unseen_gap_error": "error gap, unseen domains",
}


def title(outcome: str) -> str:
    """An outcome as a heading."""
    return OUTCOMES.get(outcome, outcome.replace("_", " "))


def interval_words(rows: Sequence[Mapping[str, object]]) -> str:
    """How the intervals of these correlations were made; studies of before resampled configurations."""
    if any(r.get("interval") == "permuted" for r in rows):
        return "95 % intervals, as far to either side as τ reaches when levels of the design are exchanged"
    return "95 % cluster-bootstrap intervals"


def known_outcomes(record: Row) -> list[str]:
    """The outcomes that the models have."""
    return [o["outcome"] for o in record["outcomes"] if not o["note"]]


def one(results: Sequence[Result]) -> tuple[Result, list[str]]:
    """The first study, and a note where there are more."""
    more = len(results) - 1
    return results[0], [f"{more} further stud{'y is' if more == 1 else 'ies are'} not drawn"] if more else []


def rows_of(record: Row, outcome: str) -> dict[str, Any]:
    """The correlations with an outcome, by measure."""
    return {r["measure"]: r for r in record["correlations"] if r["outcome"] == outcome and r["tau"] is not None}


def nothing(figure: Figure, text: str) -> None:
    """Say on the figure itself that there is nothing to see."""
    figure.text(0.5, 0.5, text, ha="center", va="center")

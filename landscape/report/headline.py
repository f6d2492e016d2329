"""What a reader sees first: three numbers about the method that is asked about, and the one figure that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.digits import ratio, signed
from ..figures.course.measured import FIELDS, Field
from ..figures.draw.method_styles import is_plain
from ..figures.summary import cell_text

_ASKED = (("lambda_max",), ("m_sharpness",), ("unseen_accuracy", "test_accuracy", "train_loss"))
_DECISIVE = ("error-reduction", "eigenvalues", "m-sharpness", "unseen", "domains", "training", "contour")
_FIELDS = {f.name: f for f in FIELDS}


@dataclass(frozen=True)
class Tile:
    """One number.

    Attributes:
        title: The quantity.
        value: The number, with what it is relative to.
        detail: Whose it is, and the numbers behind it.
    """

    title: str
    value: str
    detail: str


def tiles(rows: Sequence[Mapping[str, Any]]) -> list[Tile]:
    """The largest eigenvalue, m-sharpness and accuracy where it is hardest, against plain training if that is there.

    Args:
        rows: From `landscape.figures.summary.summarize`. Of several methods beside plain training the one with the
            lowest largest eigenvalue is told, since that is whose generalization is asked about.
    """
    plain = [r for r in rows if is_plain(str(r["label"]))]
    others = [r for r in rows if not is_plain(str(r["label"]).replace("-2x", "", 1))]
    known = [r for r in others if r["lambda_max_mean"] is not None] or others
    told = min(known, key=lambda r: (r["lambda_max_mean"] is None, r["lambda_max_mean"] or 0.0), default=None)
    base = next((r for r in plain if told and _apart(r) == _apart(told)), None)
    if told is None:
        told = next(iter([*plain, *rows]), None)
    if told is None:
        return []
    found = []
    for names in _ASKED:
        for name in names:
            if told[f"{name}_mean"] is not None:
                found.append(_tile(_FIELDS[name], told, base))
                break
    return found


def _apart(row: Mapping[str, Any]) -> str:
    """Of which network and data a row is, where there are several."""
    return str(row["label"]).partition(" (")[2]


def _tile(field: Field, told: Mapping[str, Any], base: Mapping[str, Any] | None) -> Tile:
    mine, unit = cell_text(told, field), " %" if field.percent else ""
    if base is None or base[f"{field.name}_mean"] is None:
        return Tile(field.title, mine + unit, str(told["name"]))
    its = cell_text(base, field)
    detail = f"{told['name']} {mine}{unit}, {base['name']} {its}{unit}"
    here, there = told[f"{field.name}_mean"], base[f"{field.name}_mean"]
    if field.percent:
        return Tile(field.title, f"{signed(100 * (here - there), 1).replace('-', '−')} points", detail)
    if here > 0 and there > 0:
        return Tile(field.title, f"{ratio(here / there)} ×", detail)
    return Tile(field.title, mine, detail)


def decisive(kinds: Sequence[str]) -> str | None:
    """Of the kinds of figures that are drawn the one that belongs beside the verdict."""
    return next((kind for kind in _DECISIVE if kind in kinds), next(iter(kinds), None))

"""Which results may stand in one picture: those of one loss, looked at in one way, along the same directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...base.errors import UsageError
from ...base.files import stable_hash
from ...results.result import Result

# What has to be alike for two numbers to be compared, how it is called, and what results said nothing of had.
CONDITIONS = {
    "loss_function": ("the loss", None),
    "loss_hash": ("the code of the loss", None),
    "loss_over": ("the loss over", "example"),
    "weight_decay": ("the weight decay in the loss", 0.0),
    "operator": ("the matrix", "hessian"),
    "mode": ("the mode", "eval"),
    "replay_seed": ("the replay seed", None),
    "params": ("the parameters", None),
    "dtype": ("the precision", None),
}


# The same for surfaces: what is cut along other directions, or over another range, has another shape for that reason.
_CUTS = ("the directions", "the range and the grid")


def comparable(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """The results of each kind that agree in all `CONDITIONS`, and surfaces in directions, range and grid.

    Of several such groups the one of most methods is taken, then of most results, then of random directions, then
    the first.

    Returns:
        These results in their order, and a note on each condition by which others were left out.
    """
    kept: set[int] = set()
    notes = []
    for kind in dict.fromkeys(r.kind for r in results):
        of_kind = [r for r in results if r.kind == kind]
        groups: dict[tuple[Any, ...], list[Result]] = {}
        for result in of_kind:
            groups.setdefault(alike(result), []).append(result)
        chosen, members = max(groups.items(), key=lambda group: _weight(group[1]))
        kept |= {id(r) for r in members}
        for place, (name, (words, _)) in enumerate(CONDITIONS.items()):
            others = {key[place] for key in groups} - {chosen[place]}
            if others:
                count = sum(_condition(r, name) != chosen[place] for r in of_kind)
                told = (
                    ""
                    if name == "loss_hash"
                    else f" {_said(name, chosen[place])}, not {', '.join(sorted(_said(name, o) for o in others))}"
                )
                notes.append(f"{count} {kind} result(s) are not drawn beside the others: {words}{told}")
        for place, words in enumerate(_CUTS, start=len(CONDITIONS)):
            others = {key[place] for key in groups} - {chosen[place]}
            if others:
                count = sum(alike(r)[place] != chosen[place] for r in of_kind)
                told = f"{_text(chosen[place])}, not {' or '.join(sorted(map(_text, others)))}"
                notes.append(f"{count} {kind} result(s) are not drawn beside the others: {words} {told}")
    return [r for r in results if id(r) in kept], notes


def alike(result: Result) -> tuple[Any, ...]:
    """What two results have to share to stand in one picture."""
    conditions = tuple(_condition(result, name) for name in CONDITIONS)
    return (*conditions, _directions(result), _grid(result)) if result.kind == "surface" else (*conditions, "", "")


def along(results: Sequence[Result], direction: str | None) -> list[Result]:
    """The results without the surfaces and planes that are not cut along ``direction``.

    Args:
        results: Of any kinds.
        direction: As in ``landscape surface --direction``, with or without what stands behind the colon; None: all.

    Raises:
        UsageError: If there are surfaces, and none of them is.
    """
    if direction is None:
        return list(results)
    found = {id(r): _kinds(r) for r in results if r.kind in ("surface", "plane")}
    fit = {i for i, kinds in found.items() if any(direction in (k, k.partition(":")[0]) for k in kinds)}
    if found and not fit:
        there = ", ".join(sorted({k for kinds in found.values() for k in kinds})) or "none that is recorded"
        raise UsageError(f"no surface is cut along {direction!r}", "`direction=`", f"there is: {there}")
    return [r for r in results if id(r) not in found or id(r) in fit]


def _weight(members: Sequence[Result]) -> tuple[int, int, bool]:
    random = all(a.get("seed") is not None for a in members[0].record.get("axes") or [])
    return len({r.label for r in members}), len(members), random


def _kinds(result: Result) -> list[str]:
    return [str(a.get("direction")) for a in result.record.get("axes") or []]


def _directions(result: Result) -> str:
    """The directions of a surface with their seeds, as in the flags that made them."""
    told = []
    for axis in result.record.get("axes") or []:
        seed = axis.get("seed")
        more = "" if axis.get("one_dimensional", "zero") == "zero" else f", 1-D {axis['one_dimensional']}"
        drawn = "" if seed is None else f" (seed {seed}, {axis.get('axis', 0)}{more})"
        told.append(f"{axis.get('direction')}{drawn}")
    if len(told) > 2 and len({t.partition(",")[0] for t in told}) == 1:
        return f"{len(told)} of {told[0].partition(',')[0]})"
    return " and ".join(told) or "none recorded"


def _grid(result: Result) -> str:
    ends = []
    for axis in "xy":
        if axis in result.data.coords:
            values = np.asarray(result.data[axis].values, dtype=float)
            even = np.allclose(np.diff(values), np.diff(values)[:1], rtol=1e-6) if len(values) > 1 else True
            uneven = "" if even else f" {stable_hash(values.round(9).tolist())[:6]}"
            ends.append(
                f"{values[0]:.6g} to {values[-1]:.6g} in {len(values)} points{uneven}" if len(values) else "none"
            )
    return " by ".join(ends)


def _text(value: object) -> str:
    return str(value).replace("-", "−") if str(value)[:1] in "-0123456789" else str(value)


def _condition(result: Result, name: str) -> object:
    found = result.record.get(name)
    return CONDITIONS[name][1] if found is None else found


def _said(name: str, value: object) -> str:
    return str(value) if value is not None else "all" if name == "params" else "none"

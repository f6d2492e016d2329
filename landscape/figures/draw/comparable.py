"""Which results may stand in one picture: those of one loss, looked at in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def comparable(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """The results of each kind that agree in all `CONDITIONS`: the most there are, of equally many the first.

    Returns:
        These results in their order, and a note on each condition by which others were left out.
    """
    kept: set[int] = set()
    notes = []
    for kind in dict.fromkeys(r.kind for r in results):
        of_kind = [r for r in results if r.kind == kind]
        groups: dict[tuple[Any, ...], list[Result]] = {}
        for result in of_kind:
            groups.setdefault(tuple(_condition(result, name) for name in CONDITIONS), []).append(result)
        chosen, members = max(groups.items(), key=lambda group: len(group[1]))
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
    return [r for r in results if id(r) in kept], notes


def _condition(result: Result, name: str) -> Any:
    found = result.record.get(name)
    return CONDITIONS[name][1] if found is None else found


def _said(name: str, value: Any) -> str:
    return str(value) if value is not None else "all" if name == "params" else "none"

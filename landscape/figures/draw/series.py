"""Which results make one line, and how seeds are put together."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ...base.process_state import one_at_a_time
from ...results.result import Result
from .drawing import Row
from .method_styles import ordered
from .text import safe
from .words import method

Groups = dict[str, list[Result]]


def by_label(results: Sequence[Result]) -> tuple[Groups, list[str]]:
    """Results by label in legend order, one per training seed, and notes on what was left out.

    Of several results of one run the one on most examples is taken, then the one of the latest step, so that
    no run counts twice in a mean. Runs of other networks or data have labels of their own (`runs_apart`).
    """
    results = runs_apart(results)
    groups: dict[str, dict[Any, Result]] = {}
    for result in sorted(results, key=_rank):
        member = (
            result.seed
            if result.seed is not None
            else str(result.record.get("weights_hash") or result.record.get("target"))
        )
        groups.setdefault(result.label, {})[member] = result
    chosen: Groups = {label: sorted(groups[label].values(), key=_by_seed) for label in ordered(groups)}
    kept = sum(map(len, chosen.values()))
    notes = (
        [f"{len(results) - kept} further result(s) of the same methods and seeds are not drawn"]
        if kept < len(results)
        else []
    )
    if len({r.record.get("data_hash") for members in chosen.values() for r in members}) > 1:
        notes.append("not all results were computed on the same examples")
    return chosen, notes


def named_apart(results: Sequence[Result]) -> list[Result]:
    """The results, with other labels for bare checkpoints that only share the name of their file.

    ``sgd/model.pt`` and ``sam/model.pt`` are no two seeds of a method called model.pt. They are named by as much of
    their paths as tells them apart, and results of no target at all by their weights. A label that somebody put
    into the record stays.
    """
    groups: dict[str, set[str]] = {}
    for result in results:
        if not _labelled(result):
            groups.setdefault(result.label, set()).add(_whose(result))
    apart = {owner: text for owners in groups.values() if len(owners) > 1 for owner, text in _shortest(owners)}
    found = []
    for result in results:
        own = None if _labelled(result) else apart.get(_whose(result))
        found.append(result if own is None else copy(result))
        if own is not None:
            found[-1].record = {**result.record, "label": own}
    return found


def runs_apart(results: Sequence[Result]) -> list[Result]:
    """The results, with other labels for runs of one method on different networks or data.

    Two networks that SAM has trained are no two seeds of it: their mean belongs to nobody, and of one seed there are
    two. Runs that do not say what they are of stay together with those that do.
    """
    runs: dict[str, dict[str, dict[str, str]]] = {}
    for result in results:
        run = result.record.get("run") or {}
        if run.get("optimizer"):
            made = runs.setdefault(result.label, {}).setdefault(_training(result), {})
            made |= {what: run[what] for what in ("network", "data") if run.get(what)}
    apart = {(label, path): text for label, made in runs.items() for path, text in _apart(made).items()}
    found = []
    for result in results:
        text = apart.get((result.label, _training(result)))
        found.append(result if text is None else copy(result))
        if text is not None:
            found[-1].record = {**result.record, "run": {**result.record["run"], "apart": text}}
    return found


def _training(result: Result) -> str:
    return str((result.record.get("run") or {}).get("path") or result.record.get("target"))


def _apart(runs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """For each run by its folder what no other kind of run has: its network, if that is enough, its data, or both."""
    kinds = {(made.get("network"), made.get("data")) for made in runs.values()}
    words = {}
    for place, what in enumerate(("network", "data")):
        said = sorted({name for kind in kinds if (name := kind[place]) is not None})
        words[what] = _shortened(said) if len(said) > 1 else {}
    used = next((what for what, short in words.items() if len(short) == len(kinds)), None)
    found = {}
    for path, made in runs.items():
        told = [f"{w}={words[w][made[w]]}" for w in made if made[w] in words[w] and used in (None, w)]
        if told:
            found[path] = ", ".join(told)
    return found


def _shortened(names: Sequence[str]) -> dict[str, str]:
    """Names, without the folders of files and the callables in them, as far as they still differ."""
    files = [re.fullmatch(r"(.*?)([^/\\]*)\.py:(\w+)(.*)", name) for name in names]
    for form in (r"\2\4", r"\2:\3\4", r"\1\2:\3\4"):
        short = [name if file is None else file.expand(form) for name, file in zip(names, files, strict=True)]
        if len(set(short)) == len(names):
            return dict(zip(names, short, strict=True))
    return dict(zip(names, names, strict=True))


def _labelled(result: Result) -> bool:
    """Whether a run or a person gave the label, and not the name of a file."""
    label, target = result.record.get("label"), result.record.get("target")
    by_hand = label is not None and not (target and label == Path(str(target)).stem)
    return bool((result.record.get("run") or {}).get("optimizer")) or by_hand


def _whose(result: Result) -> str:
    target, weights = result.record.get("target"), result.record.get("weights_hash")
    return str(target or f"{result.kind} of weights {str(weights)[:8]}")


def _shortest(owners: set[str]) -> list[tuple[str, str]]:
    """Each path with its shortest end that no other one has."""
    deepest = max(len(Path(o).parts) for o in owners)
    for count in range(2, deepest + 1):
        ends = {o: "/".join(Path(o).parts[-count:]) for o in owners}
        if len(set(ends.values())) == len(owners):
            return list(ends.items())
    return [(o, o) for o in owners]


def _rank(result: Result) -> tuple[object, ...]:
    step = (result.record.get("run") or {}).get("step") or 0
    return (
        result.record.get("n_examples") or 0,
        step,
        str(result.record.get("target")),
        str(result.record.get("weights_hash")),
    )


def _by_seed(result: Result) -> tuple[object, ...]:
    return (
        result.seed is None,
        result.seed if result.seed is not None else 0,
        str(result.record.get("target")),
    )


def seeds_text(groups: Mapping[str, Sequence[Result]]) -> str:
    """``"2 seeds"``, or ``"1 to 3 seeds"`` where labels differ; checkpoints without a run are counted as such."""
    counts = sorted({len(members) for members in groups.values()})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    unit = "seed" if any(r.seed is not None for v in groups.values() for r in v) else "checkpoint"
    return f"{words} {unit}{'' if counts == [1] else 's'}"


def seeded(groups: Mapping[str, Sequence[Result]], keys: Iterable[str]) -> list[str]:
    """The entries of a legend: names of methods with how many seeds each has."""
    return [f"{safe(method(k))} ({seeds_text({k: groups[k]})})" for k in keys]


def stack(lines: Sequence[tuple[object, object]]) -> tuple[Any, Any, int]:
    """Lay lines ``(x, values)`` over each other.

    Returns:
        All x, sorted; a matrix with a row per line, NaN where a line has no finite value; and how many given
        values were not finite.
    """
    grid = np.unique(np.concatenate([np.asarray(x, dtype=float) for x, _ in lines]))
    table = np.full((len(lines), len(grid)), np.nan)
    for row, (x, values) in zip(table, lines, strict=True):
        row[np.searchsorted(grid, np.asarray(x, dtype=float))] = values
    lost = sum(int((~np.isfinite(np.asarray(v, dtype=float))).sum()) for _, v in lines)
    table[~np.isfinite(table)] = np.nan
    return grid, table, lost


def middle_and_band(table: Any, way: str) -> tuple[Any, Any, Any]:
    """Over the rows of ``table``: mean, minimum and maximum (``"mean"``), or median and quartiles (``"median"``).

    Columns without a number give NaN.
    """
    with one_at_a_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN is allowed and stays NaN
        if way == "mean":
            return np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0)
        low, middle, high = np.nanpercentile(table, [25, 50, 75], axis=0)
        return middle, low, high


def points(fixed: Row, **columns: object) -> list[Row]:
    """A row per point of a line: what is the same for all points, and the columns as numbers."""
    lines = zip(*columns.values(), strict=True)
    return [fixed | dict(zip(columns, map(float, values), strict=True)) for values in lines]


def lost_note(lost: int) -> list[str]:
    """The note on values that no line can show."""
    return [f"{lost} value(s) that are NaN or infinite are left out"] if lost else []

"""What the short benchmarks may cost at most: the bounds that CI holds, and when a measurement is beyond them.

A ratio is of times that were measured in turns in one process. Each is measured three times over, on every third
round, as least time over least time; the three differ by the noise that is left. It is beyond its bound only if all
three are, so that noise alone fails nothing. Counts of products and passes have no noise: one more than the bound is
beyond it. A bound without a measurement is beyond, too; so is a measurement that says it is of something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Bound(NamedTuple):
    """Of one line of the summary: our cost over the floor at most, and a peer's time over ours at least."""

    floor: float | None = None
    faster: float | None = None
    peer: str = "PyHessian"


MLP, RESNET, TRANSFORMER = "MLP 64-64-64-10", "ResNet-20 on noise", "12-layer transformer"
LOOP = "a loop over blocks"

RATIOS: Mapping[str, Bound] = {
    f"product, {MLP}": Bound(floor=1.4, faster=0.6),
    f"product, {RESNET}": Bound(floor=1.2, faster=0.9),
    f"product, {TRANSFORMER}": Bound(floor=1.35, faster=0.7),
    f"product, {RESNET}, 4 batches": Bound(floor=1.25, faster=1.2),
    f"product rebuilt, {RESNET}": Bound(floor=1.4),
    f"top 5 to 1e-03, {MLP}": Bound(faster=2.5),
    f"top 5 to 1e-03, {MLP}, no checks": Bound(faster=5.0),
    f"surface, {MLP}": Bound(floor=3.3),
    f"surface, {RESNET}": Bound(floor=1.35),
    f"surface, {TRANSFORMER}": Bound(floor=2.1),
    f"domains, {MLP}": Bound(floor=4.2),
    f"domains, {RESNET}": Bound(floor=2.1),
    f"domains, {TRANSFORMER}": Bound(floor=2.2),
    "a step of sam, ResNet-20": Bound(floor=1.2),
    "a step of sagm, ResNet-20": Bound(floor=1.2),
    "a step of disam, ResNet-20": Bound(floor=1.2),
    f"m-sharpness, m >= 64, {MLP} (worst: 256)": Bound(floor=1.3),
    f"m-sharpness, m <= 4, {MLP} (worst: 1)": Bound(faster=7.0, peer=LOOP),
    "m-sharpness, m >= 64, convnet 8x8 (worst: 256)": Bound(floor=1.45),
    "m-sharpness, m <= 4, convnet 8x8 (worst: 1)": Bound(faster=2.4, peer=LOOP),
}

COUNTS: Mapping[str, int] = {
    # Measured 18, 13 and 78; another processor rounds otherwise, which may take a step more.
    f"products, top 5 to 1e-03, {MLP}: ours": 20,
    f"products, top 5 to 1e-03, {MLP}: ours, no checks": 14,
    f"products, all three, {MLP}": 81,
    **{f"forward passes, surface, {name}": 7 * 7 + 3 for name in (MLP, RESNET, TRANSFORMER)},
    **{f"forward passes, domains, {name}": 7 for name in (MLP, RESNET, TRANSFORMER)},
    **{f"gradients, domains, {name}": 4 for name in (MLP, RESNET, TRANSFORMER)},
    **{f"gradients, a step of {name}": 2 for name in ("sam", "sagm", "disam")},
}


def beyond(
    lines: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    ratios: Mapping[str, Bound] = RATIOS,
    exact: Mapping[str, int] = COUNTS,
) -> list[str]:
    """A sentence for each bound that is not held; none if all are.

    Args:
        lines: Summary lines of the benchmarks that ran.
        counts: Their counts by name.
        ratios: Bounds by the task of a line.
        exact: Bounds of counts by name.
    """
    found: list[str] = []
    by_task = {line["task"]: line for line in lines}
    for task, bound in ratios.items():
        line = by_task.get(task)
        if line is None:
            found.append(f"{task}: not measured")
            continue
        if bound.floor is not None:
            if not line["floor"]:
                found.append(f"{task}: its cost over the floor was not measured")
            elif min(line["floor"]["thirds"]) > bound.floor:
                found.append(f"{task}: {_each(line['floor'])} of the floor, bound {bound.floor:g}")
        if bound.faster is not None:
            if not line["faster"] or line["peer"] != bound.peer:
                found.append(f"{task}: not compared with {bound.peer} but with {line['peer']}")
            elif max(line["faster"]["thirds"]) < bound.faster:
                found.append(f"{task}: {bound.peer} takes {_each(line['faster'])} of our time, not {bound.faster:g}")
    for name, most in exact.items():
        if name not in counts:
            found.append(f"{name}: not counted")
        elif counts[name] > most:
            found.append(f"{name}: {counts[name]}, bound {most}")
    return found


def _each(ratio: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:.2f}" for value in ratio["thirds"])

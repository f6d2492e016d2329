"""The whole story on embedded data: train ERM, SAM, SAGM and DISAM, analyse, draw, and write one page.

Real digits in six rotation domains; 0 and 75 degrees are never trained on. Plain training with twice the epochs costs
as many gradients as the other methods. Killed, it continues where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from landscape.base.errors import Interrupted
from landscape.specs import TrainSpec

from .options import Common
from .screen import Screen
from .tables import show_summary

OPTIMIZERS = ("sgd", "sam", "sagm", "disam")
HOLDOUT = ("0", "75")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo may be asked to do differently."""

    out: Path = Path("landscape-demo")
    """Folder of everything."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    epochs: int = 40
    """Epochs of each training."""
    force: bool = False
    """Start anew where a demo was made."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape demo``."""

    options: DemoOptions = field(default_factory=DemoOptions)
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Train, analyse, draw, report; on one thread, as a second one costs more than it brings to so small networks."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _told(arguments.options, screen)
    except Interrupted as stop:  # its training says how a training goes on
        raise Interrupted(stop.what, stop.where, "run the same command again, it computes only the rest") from None
    finally:
        torch.set_num_threads(before)


def _told(options: DemoOptions, screen: Screen) -> dict[str, Any]:
    from landscape.analyses.analyze import analyze, standard_set
    from landscape.base.progress import report
    from landscape.figures.render import drawable, render
    from landscape.report.report import write_report
    from landscape.results.history import training_result
    from landscape.runtime.distributed import is_main_process
    from landscape.training.trainer import train

    # The recipe of the SAM paper for CIFAR-10 (momentum 0.9, weight decay 5e-4, cosine schedule, rho 0.05) with
    # this toolkit's default learning rate and batch size; it was not searched for.
    spec = TrainSpec(
        data="digits-rotated",
        optimizer=OPTIMIZERS,
        seed=options.seed,
        epochs=options.epochs,
        schedule="cosine",
        weight_decay=5e-4,
        holdout=HOLDOUT,
        equal_cost=True,
    )
    first = replace(spec, optimizer=OPTIMIZERS[:1], seed=options.seed[:1], equal_cost=False)
    [begun] = train(first, options.out / "runs", resume=True, force=options.force)
    look = analyze("surface", str(begun.path))
    if is_main_process():
        (picture, *_) = render("contour", [look], options.out / "first-look", formats=("png",))
        screen.path("first picture", picture.absolute())
    runs = train(spec, options.out / "runs", resume=True, force=options.force)
    results: list[Any] = []
    for i, one in enumerate(runs):
        report("analyses", i, len(runs), one.path.name)
        drawn = one.record["spec"]["seed"][0] == options.seed[0]  # figures of planes have one network of each method
        results += [*standard_set(str(one.path), force=options.force, plane=drawn), training_result(one)]
    report("analyses", len(runs), len(runs))
    outputs: list[Path] = []
    kinds = drawable(results) if is_main_process() else []
    for i, kind in enumerate(kinds):
        report("figures", i, len(kinds), kind)
        outputs += render(kind, results, options.out / "figures")
    report("figures", len(kinds), len(kinds))
    page = options.out / "report.html"
    if is_main_process():
        write_report(results, page, title="SGD, SAM, SAGM and DISAM on rotated digits")
    show_summary(results, screen)
    screen.path("figures", (options.out / "figures").absolute())
    screen.path("report", page.absolute())
    return {"command": "demo", "outputs": [str(p.absolute()) for p in (page, *outputs)]}

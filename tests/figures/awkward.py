"""Results that are hard to lay out: ten methods, long names, huge, tiny and negative numbers, one point."""

from __future__ import annotations

from pathlib import Path

from figures import made
from landscape.results.result import Result

METHODS = ("sgd", "adamw", "sam", "asam", "gsam", "sagm", "disam", "disam-gsam", "entropy-sgd", "my own method, long")
DOMAINS = ("photographs at night", "clip art of things", "cartoons", "quick drawings", "0", "infographics")
LAYERS = tuple(f"bert.encoder.layer.{i}.{m}" for i in range(24) for m in ("attention.self.query", "output.dense"))
GALLERY = Path(__file__).resolve().parents[2] / "gallery"


def many() -> list[Result]:
    """Ten methods, two seeds, six domains of long names; losses over twelve decades, some sharpness negative."""
    results = []
    for i, label in enumerate(METHODS):
        for seed in (0, 1):
            rho = (0.001, 0.01, 0.05, 0.1, 1.0)
            wide = made.radii(label, seed, DOMAINS, rho)
            wide.data["value"].values[:] *= 10.0 ** (3 * i - 12)
            wide.data["stderr"].values[:] *= 10.0 ** (3 * i - 12)
            if i % 3 == 0:
                wide.data["value"].values[0] *= -1
                wide.data["domain_value"].values[0] *= -1e3
            loss = 10.0 ** (i - 6) * made.plane(label, seed).data["loss"].values
            later = made.plane(label, seed, loss, names=DOMAINS)
            top = 10.0 ** (i - 3)
            course = made.training(label, seed, DOMAINS, unseen=0.5 + 0.03 * i - 0.1 * seed)
            course.data["batch_loss"].values[:] *= 10.0 ** (i - 6)
            course.data["gradient_alignment_angle"].values[:] *= 4
            if i % 2:
                course.record["spec"]["rho"] = 0.01 * (i + 1)
            results += [
                made.hessian(label, seed, -top if i == 3 else top, 0.2),
                made.spectrum(label, seed),
                made.earlier(label, seed),
                made.groups(label, seed, 10 * (1 + i % 3), LAYERS, -top if i == 3 else top),
                made.sharpness(label, seed, 0.1, (0.05,)),
                wide,
                later,
                made.over_training(label, seed),
                made.line(label, seed),
                made.domains(label, seed, DOMAINS),
                made.domain_curves(label, seed, DOMAINS),
                course,
                made.trajectory(label, seed, METHODS, 5),
                made.between(label, seed, 10.0 ** (i - 5)),
            ]
    return results


def single() -> list[Result]:
    """One method, one seed, one domain, one eigenvalue, one radius, one block size."""
    one = made.sharpness("sam", 0, -1e-7, (0.05,))
    one.data = one.data.isel(m=slice(1))
    top = made.hessian("sam", 0, 1e-9)
    top.data = top.data.isel(rank=slice(1))
    return [
        top,
        made.spectrum("sam", 0, 123456),
        made.groups("sam", 0, 123456, ("0",)),
        one,
        made.radii("sam", 0, DOMAINS[:1], (0.05,)),
        made.plane("sam", 0, 1e6 * made.plane("sam", 0).data["loss"].values, names=DOMAINS[:1]),
        made.line("sam", 0, 1),
        made.domains("sam", 0, DOMAINS[:2]),
        made.domain_curves("sam", 0, DOMAINS[:2]),
        made.training("sam", 0, DOMAINS[:2]),
        made.trajectory("sam", 0, ("sam",), 1),
        made.between("sam", 0, -1e-4),
    ]


def usual() -> list[Result]:
    """What most people draw: four methods, three seeds, three domains."""
    return made.everything(("sgd", "sam", "sagm", "disam"), (0, 1, 2))


def study(name: str = "flatness-vs-generalization") -> Result:
    """A stored study of many measures."""
    return Result.load(GALLERY / name / "results" / f"study-{name}.nc")


def stored(story: str, pattern: str) -> list[Result]:
    """Results of the gallery."""
    return [Result.load(p) for p in sorted((GALLERY / story / "results").glob(pattern))]

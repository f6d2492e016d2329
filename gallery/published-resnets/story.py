"""Spectrum, surface and m-sharpness of the published ResNet-20 and ResNet-32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import HessianSpec, ProblemSpec, Result, SharpnessSpec, SurfaceSpec, analyze

HERE = Path(__file__).resolve().parent
SPECS = {"hessian": HessianSpec, "surface": SurfaceSpec, "sharpness": SharpnessSpec}


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Analyse both checkpoints on the same images, along the same directions."""
    if data is None:
        raise SystemExit("name the folder of the checkpoints and of CIFAR-10: --data FOLDER")
    archive = data / "cifar10-lossless-6102.npz"
    results = []
    for kind, spec in SPECS.items():
        for model, file in settings["networks"].items():
            problem = ProblemSpec.from_dict(
                {
                    "model": model,
                    "data": f"{HERE / 'cifar.py'}:cifar",
                    "data_arg": [f"file={str(archive)!r}"],
                    **settings["problem"],
                }
            )
            what = spec.from_dict(settings[kind])
            result = analyze(kind, str(data / file), problem, what, out=work)
            result.record["label"] = {"resnet20": "ResNet-20", "resnet32": "ResNet-32"}[model]
            results.append(result)
    return results

"""Loss landscapes that can be trusted: train, measure and compare networks under sharpness-aware optimizers.

    import landscape

    runs = landscape.train(optimizer=("sgd", "sam"), epochs=20)          # into runs/
    problem = landscape.open(runs[0])                                    # a network at its weights, with its data
    problem = landscape.Problem(model, (inputs, targets), "cross_entropy")  # or anything of your own
    landscape.hessian(problem, top=5)["eigenvalues"]

Names are imported when first used, so ``import landscape`` itself is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis import analyze, training_result
    from .api import open, train
    from .curvature.hessian import hessian
    from .domains.domains import domains
    from .errors import DataError, Interrupted, LandscapeError, NumericalError, ResourceError, UsageError
    from .examples import Examples
    from .figures.render import render
    from .figures.summary import summarize
    from .optim.disam import DISAM
    from .optim.engine import BatchLoss
    from .optim.sagm import SAGM
    from .optim.sam import SAM
    from .problem import Problem
    from .progress import reporting
    from .report.report import write_report
    from .result import Result
    from .run import Run
    from .sharpness.sharpness import sharpness
    from .specs import DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec, SurfaceSpec, TrainSpec
    from .surface.surface import surface

_WHERE = {
    # what is looked at
    "Problem": "problem",
    "Examples": "examples",
    "open": "api",
    # analyses
    "hessian": "curvature.hessian",
    "sharpness": "sharpness.sharpness",
    "surface": "surface.surface",
    "domains": "domains.domains",
    "analyze": "analysis",
    # training
    "train": "api",
    "SAM": "optim.sam",
    "SAGM": "optim.sagm",
    "DISAM": "optim.disam",
    "BatchLoss": "optim.engine",
    # what comes out, and what is made of it
    "Result": "result",
    "Run": "run",
    "training_result": "analysis",
    "render": "figures.render",
    "summarize": "figures.summary",
    "write_report": "report.report",
    "reporting": "progress",
    # specs
    "DomainsSpec": "specs",
    "HessianSpec": "specs",
    "ProblemSpec": "specs",
    "SharpnessSpec": "specs",
    "SurfaceSpec": "specs",
    "TrainSpec": "specs",
    # errors, one per exit code
    "LandscapeError": "errors",
    "UsageError": "errors",
    "DataError": "errors",
    "NumericalError": "errors",
    "ResourceError": "errors",
    "Interrupted": "errors",
}

__all__ = list(_WHERE)  # noqa: PLE0605 - the table above is the list


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = found  # also where a package of the same name (domains, sharpness) was just imported
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

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

from ._deprecated import install, renamed

if TYPE_CHECKING:
    from .analyses.analyze import analyze as analyze
    from .api import open as open
    from .api import run_study as run_study
    from .api import train as train
    from .base.allocator import keep_freed_memory as keep_freed_memory
    from .base.errors import DataError as DataError
    from .base.errors import Interrupted as Interrupted
    from .base.errors import LandscapeError as LandscapeError
    from .base.errors import NumericalError as NumericalError
    from .base.errors import ResourceError as ResourceError
    from .base.errors import UsageError as UsageError
    from .base.progress import reporting as reporting
    from .curvature.hessian import hessian as hessian
    from .data.examples import Examples as Examples
    from .domainwise.domains import domains as domains
    from .figures.render import render as render
    from .figures.summary import summarize as summarize
    from .integrations.record import record as record
    from .measures.sharpness import sharpness as sharpness
    from .optim import ASAM as ASAM
    from .optim import DISAM as DISAM
    from .optim import DISAMGSAM as DISAMGSAM
    from .optim import DISAMSAGM as DISAMSAGM
    from .optim import ERM as ERM
    from .optim import FSAM as FSAM
    from .optim import GSAM as GSAM
    from .optim import SAGM as SAGM
    from .optim import SAM as SAM
    from .optim import SWA as SWA
    from .optim import SWAD as SWAD
    from .optim import USAM as USAM
    from .optim import WSAM as WSAM
    from .optim import BatchLoss as BatchLoss
    from .optim import EntropySGD as EntropySGD
    from .optim import LookSAM as LookSAM
    from .optim import MicroBatches as MicroBatches
    from .optim import VREx as VREx
    from .problem.problem import Problem as Problem
    from .report.report import write_report as write_report
    from .results.history import training_result as training_result
    from .results.result import Result as Result
    from .results.run import Run as Run
    from .runtime.distributed import processes as processes
    from .specs import DomainsSpec as DomainsSpec
    from .specs import HessianSpec as HessianSpec
    from .specs import PathSpec as PathSpec
    from .specs import ProblemSpec as ProblemSpec
    from .specs import SharpnessSpec as SharpnessSpec
    from .specs import SurfaceSpec as SurfaceSpec
    from .specs import TrainSpec as TrainSpec
    from .surfaces.path import path as path
    from .surfaces.surface import surface as surface
    from .training.events import scalars as scalars

_WHERE = {
    # what is looked at
    "Problem": "problem.problem",
    "Examples": "data.examples",
    "open": "api",
    # analyses
    "hessian": "curvature.hessian",
    "sharpness": "measures.sharpness",
    "surface": "surfaces.surface",
    "path": "surfaces.path",
    "domains": "domainwise.domains",
    "analyze": "analyses.analyze",
    "processes": "runtime.distributed",
    "keep_freed_memory": "base.allocator",
    # training
    "train": "api",
    "record": "integrations.record",
    "scalars": "training.events",
    "run_study": "api",
    "ERM": "optim",
    "SAM": "optim",
    "USAM": "optim",
    "ASAM": "optim",
    "GSAM": "optim",
    "SAGM": "optim",
    "DISAM": "optim",
    "DISAMGSAM": "optim",
    "DISAMSAGM": "optim",
    "FSAM": "optim",
    "LookSAM": "optim",
    "WSAM": "optim",
    "EntropySGD": "optim",
    "VREx": "optim",
    "SWA": "optim",
    "SWAD": "optim",
    "BatchLoss": "optim",
    "MicroBatches": "optim",
    # what comes out, and what is made of it
    "Result": "results.result",
    "Run": "results.run",
    "training_result": "results.history",
    "render": "figures.render",
    "summarize": "figures.summary",
    "write_report": "report.report",
    "reporting": "base.progress",
    # specs
    "DomainsSpec": "specs",
    "HessianSpec": "specs",
    "PathSpec": "specs",
    "ProblemSpec": "specs",
    "SharpnessSpec": "specs",
    "SurfaceSpec": "specs",
    "TrainSpec": "specs",
    # errors, one per exit code
    "LandscapeError": "base.errors",
    "UsageError": "base.errors",
    "DataError": "base.errors",
    "NumericalError": "base.errors",
    "ResourceError": "base.errors",
    "Interrupted": "base.errors",
}

__all__ = list(_WHERE)
install()


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        return renamed(__name__)(name)
    found = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

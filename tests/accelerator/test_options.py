"""Every option of training and of the analyses changes on the device what it changes on the CPU."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import landscape
from landscape.specs import (
    DomainsSpec,
    HessianSpec,
    PathSpec,
    ProblemSpec,
    SharpnessSpec,
    Spec,
    SurfaceSpec,
    TrainSpec,
)
from landscape.surfaces.evaluate.batchnorm import calibration_problem

from . import families
from .comparison import problem, same, train, weights
from .pretend import Device
from .test_commands import told

# Options that go together: the method, the family, and what it is told. What `train` of comparison.py gives counts.
TRAININGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ball": ("sam", "batch_norm", {
        "adaptive": True, "p": "inf", "ascent_steps": 2, "bn_second_pass": "update", "clip": 0.1, "rho": 0.1,
        "schedule": "cosine", "weight_decay": 0.01, "weight_decay_in_perturbation": True, "momentum": 0.5,
    }),
    "pieces": ("sam", "batch_norm", {
        "m": 3, "sampler": "balanced", "holdout": ("c",), "base": "adam", "select": "oracle", "save_every": "2steps",
    }),
    "second order": ("sam", "attention", {"order": 2, "train_only": "block|out", "order_seed": 3}),
    "second order of cells": ("sam", "lstm", {"order": 2, "clip": 1.0}),
    "accumulated": ("sagm", "batch_norm", {"accumulate": 2, "alpha": 0.01, "average": "swa"}),
    "gap": ("gsam", "weight_norm", {"rho_min": 0.01, "alpha": 0.2, "schedule": "linear", "tensorboard": True}),
    "domains": ("disam", "batch_norm", {
        "lam": 0.2, "disam_variance": "sample", "label_noise": "0.2", "label_shift": 1.0,
        "domain_label_noise": ("0.3",), "domain_ratio": "3:2:1",
    }),
    "validated": ("sgd", "batch_norm", {
        "average": "swad", "validation": 0.3, "augment": ("flip-crop", "cutout", "mixup"), "stop_at": 1e-9,
        "steps": None, "epochs": 3,
    }),
    "left out": ("sgd", "weight_norm", {
        "leave_one_out": True, "select": "training-domain", "equal_cost": True, "steps": 2, "workers": 0,
        "save_every": "1steps", "validation": 0.3,
    }),
    "kept": ("looksam", "weight_norm", {"sam_every": 2, "alpha": 0.5, "loss": "cross_entropy", "seed": (3,)}),
    "mean": ("fsam", "weight_norm", {"sigma": 0.9, "lam": 0.8, "probe": ("surrogate-gap@every=2",)}),
    "weighted": ("wsam", "weight_norm", {"gamma": 0.7}),
    "scaled": ("asam", "weight_norm", {"eta": 0.1}),
    "chain": ("entropy-sgd", "weight_norm", {
        "langevin_steps": 3, "langevin_lr": 0.05, "langevin_noise": 0.01, "gamma": 0.3,
    }),
}  # fmt: skip
TRAIN_DEFAULTS = ("optimizer", "model", "data", "data_arg", "device", "steps", "batch_size", "lr", "dtype")
# The analysis, the family, what it is told, and what the problem is told.
ANALYSES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "trace": ("hessian", "weight_norm", {
        "trace": True, "trace_rtol": 0.9, "trace_method": "hutch++", "density": True, "bottom": 1,
        "memory": 0.001, "block": 1, "max_products": 500, "allow_partial": True,
    }, {}),
    "xtrace": ("hessian", "weight_norm", {"trace": True, "trace_rtol": 0.9, "trace_method": "xtrace"}, {}),
    "labels": ("hessian", "weight_norm", {"operator": "fisher-mc", "label_samples": 2, "subsamples": 2}, {}),
    "predictions": ("hessian", "weight_norm", {"operator": "empirical-fisher", "unit": "prediction"}, {}),
    "groups": ("hessian", "attention", {"group_by": "kind", "top": 1, "tol": 1e-2}, {}),
    "second opinion": ("hessian", "weight_norm", {"cross_check": ("pyhessian",)}, {}),
    "climbing": ("sharpness", "batch_norm", {
        "m": (4,), "rho": (0.1,), "p": "1", "inner_steps": 3, "blocks": "stratified", "adaptive": True,
    }, {}),
    "projected": ("sharpness", "weight_norm", {
        "measure": ("m-sharpness",), "maximizer": "apgd", "m": (4,), "normalize_logits": True, "subsets": 2,
    }, {}),
    "rescaled": ("sharpness", "batch_norm", {
        "measure": ("asam-sharpness", "average-case"), "eta": 0.1, "draws": 3, "control": "rescale",
    }, {}),
    "reach": ("surface", "batch_norm", {
        "dim": 1, "range": "auto", "repeats": 2, "one_dimensional": "tensor", "bn": "recalibrate",
        "metrics": ("loss", "accuracy", "domain-loss"), "points": 3,
    }, {}),
    "adaptive grid": ("surface", "weight_norm", {"adaptive_grid": True, "points": 9}, {}),
    "bent": ("path", "batch_norm", {"kind": "polychain", "points": 3, "bn": "keep", "lr": 0.01}, {}),
    "of domains": ("domains", "batch_norm", {
        "curvature": True, "m": 3, "rho": 0.1, "lam": 0.2, "sharpness": True,
    }, {}),
    "training mode": ("hessian", "batch_norm", {"top": 1}, {"mode": "train", "replay_seed": 3}),
    "batches": ("hessian", "batch_norm", {"top": 1}, {"loss_over": "batch", "mode": "train", "replay_seed": 1}),
    "differences": ("hessian", "weight_norm", {"top": 1, "tol": 1e-2}, {"product": "difference"}),
    "decayed": ("hessian", "weight_norm", {"top": 1}, {"weight_decay": 0.1}),
}  # fmt: skip
OPENED: dict[str, dict[str, Any]] = {
    "a part": {"params": "weight|bias", "examples": 9, "domain": ("a", "b"), "seed": 2, "split": "train"},
}
# What is not varied here, each with its reason.
NOT_COVERED = {
    TrainSpec: {
        "amp": "torch has no autocast for a device written in Python; its passes are the network's own",
        "model_arg": "words for the function that makes the network, on the CPU",
        "init": "reads a file as paths do; a study's pretrained arms do it",
    },
    HessianSpec: {
        "warm_start": "reads stored vectors to where the basis is, as the journal of products does",
        "vectors": "whether they are written down",
    },
    SharpnessSpec: {"start": "another file than the start of the run, which test_commands measures from"},
    SurfaceSpec: {},
    PathSpec: {},
    DomainsSpec: {},
    ProblemSpec: {
        "model_arg": "words for the function that makes the network",
        "key": "words for the reader of a file",
        "logit_chunk": "heads of language models in transformers' form: tests/autograd, on the CPU",
        "objective": "tests/problem, on the CPU: its batches go to the device by the same one function",
        "shard": "FSDP2 needs a device mesh of torch's own; tests/processes/test_sharded.py, on CPUs",
    },
}


@pytest.mark.parametrize("name", list(TRAININGS))
def test_training(device: Device, name: str, tmp_path: Path):
    optimizer, family, options = TRAININGS[name]
    same(lambda where: weights(train(tmp_path / where, where, family, optimizer, **options)))


@pytest.mark.parametrize("name", list(ANALYSES))
def test_analysis(device: Device, name: str, tmp_path: Path):
    analysis, family, options, of = ANALYSES[name]

    def ask(where: str) -> Any:
        p = problem(family, where, **of)
        if analysis != "path":
            return getattr(landscape, analysis)(p, **options).record
        other = tmp_path / "b.pt"
        torch.save(getattr(families, family)(seed=2).state_dict(), other)
        training = calibration_problem(p, p.examples)
        return landscape.path(p, other, training=training, steps=3, train_batch=8, **options).record

    same(ask)


@pytest.mark.parametrize("name", list(OPENED))
def test_opening(device: Device, name: str, tmp_path: Path):
    run = train(tmp_path, "cpu", "batch_norm", "sgd", steps=1)

    def ask(where: str) -> Any:
        p = landscape.open(run, device=where, dtype="float64", **OPENED[name])
        return {"loss": p.loss(), "gradient": p.gradient().tolist()}

    same(ask)


def _given(spec: type[Spec]) -> set[str]:
    """The fields that some test of the device gives."""
    command = {
        HessianSpec: "hessian", SharpnessSpec: "sharpness", SurfaceSpec: "surface", PathSpec: "path",
        DomainsSpec: "domains", TrainSpec: "train",
    }.get(spec)  # fmt: skip
    lines = [words for words in told("cpu").values() if command is None or words[0] == command]
    flags = {w.removeprefix("--").replace("-", "_") for words in lines for w in words if w.startswith("--")}
    if spec is TrainSpec:
        return flags | set(TRAIN_DEFAULTS) | {k for *_, options in TRAININGS.values() for k in options}
    if spec is ProblemSpec:
        opened = {k for options in OPENED.values() for k in options}
        return flags | opened | {k for *_, of in ANALYSES.values() for k in of} | {"loss", "batch_size"}
    more = {"steps", "train_batch"} if spec is PathSpec else {"direction"} if spec is SurfaceSpec else set()
    return flags | more | {k for kind, _, options, _ in ANALYSES.values() if kind == command for k in options}


@pytest.mark.parametrize("spec", list(NOT_COVERED), ids=lambda spec: spec.__name__)
def test_every_option_is_given_or_says_why_not(spec: type[Spec]):
    names, given, left_out = {f.name for f in fields(spec)}, _given(spec), NOT_COVERED[spec]
    assert names - given == set(left_out)
    assert all(left_out.values())

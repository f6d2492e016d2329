"""Five steps of ``landscape train`` against the papers' formulas (formulas.py), float64, to 1e-10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import landscape
from landscape.base.errors import UsageError

from . import formulas

HERE = Path(__file__).parent / "formulas.py"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "sam": ("sam", {"rho": 0.3}),
    "sam adaptive": ("sam", {"rho": 0.6, "adaptive": True}),
    "sam p=1": ("sam", {"rho": 0.3, "p": "1"}),
    "sam p=inf": ("sam", {"rho": 0.05, "p": "inf"}),
    "sam three steps": ("sam", {"rho": 0.3, "ascent_steps": 3}),
    "sam order 2": ("sam", {"rho": 0.3, "order": 2}),
    "sam order 2, decay in perturbation": ("sam", {"rho": 0.3, "order": 2, "weight_decay_in_perturbation": True}),
    "sam m=1": ("sam", {"rho": 0.3, "m": 1}),
    "sam decay in perturbation": ("sam", {"rho": 0.3, "weight_decay_in_perturbation": True}),
    "sam statistics in both": ("sam", {"rho": 0.3, "bn_second_pass": "update"}),
    "usam": ("usam", {"rho": 0.4}),
    "asam": ("asam", {"rho": 0.6, "eta": 0.05}),
    "gsam": ("gsam", {"rho": 0.4, "rho_min": 0.1, "alpha": 0.5}),
    "gsam constant, adaptive": ("gsam", {"rho": 0.8, "alpha": 0.5, "adaptive": True}),
    "sagm": ("sagm", {"rho": 0.3, "alpha": 0.2}),
    "sagm adaptive": ("sagm", {"rho": 0.6, "alpha": 0.2, "adaptive": True}),
    "disam": ("disam", {"rho": 0.3, "lam": 0.7}),
    "disam sample": ("disam", {"rho": 0.3, "lam": 0.7, "disam_variance": "sample"}),
    "disam-gsam": ("disam-gsam", {"rho": 0.3, "alpha": 0.5, "lam": 0.7}),
    "disam-sagm": ("disam-sagm", {"rho": 0.3, "alpha": 0.2, "lam": 0.7}),
    "vrex": ("vrex", {"lam": 0.7}),
    "fsam": ("fsam", {"rho": 0.3, "sigma": 0.6, "lam": 0.8}),
    "looksam": ("looksam", {"rho": 0.3, "alpha": 0.4, "sam_every": 2}),
    "wsam": ("wsam", {"rho": 0.3, "gamma": 0.6}),
    "entropy-sgd": ("entropy-sgd", {"gamma": 0.4, "alpha": 0.6, "langevin_steps": 4, "langevin_lr": 0.1}),
}
NOT_WITH_NORM = {"sam m=1"}  # batch statistics of one example do not exist
DECAY = 0.01


def trained(case: str, base: str, norm: bool, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    method, settings = METHODS[case]
    plain = method == "sgd"
    extra = {"langevin_noise": 0.0} if method == "entropy-sgd" else {}
    (run,) = landscape.train(
        folder,
        data=f"{HERE}:data",
        model=f"{HERE}:network",
        model_arg=(f"norm={str(norm).lower()}",),
        optimizer=(base if plain else method,),
        base=None if plain else base,
        lr=0.2 if base == "sgd" else 0.02,
        weight_decay=DECAY,
        schedule="cosine",
        steps=5,
        batch_size="full",
        dtype="float64",
        **{**settings, **extra, **changes},
    )
    return load_file(run.checkpoint())


def derived(case: str, base: str, norm: bool, **options: Any) -> dict[str, torch.Tensor]:
    method, settings = METHODS[case]
    return formulas.train(method, settings, base, norm, lr=0.2 if base == "sgd" else 0.02, decay=DECAY, **options)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize(
    ("case", "base"),
    [(c, b) for c in METHODS for b in ("sgd", "adam", "adamw") if b != "adamw" or c in ("sgd", "sam")],
)
def test_five_steps_of_the_command_equal_the_formulas(case: str, base: str, norm: bool, tmp_path: Path):
    """Weights, running statistics and the count of batches."""
    if norm and case in NOT_WITH_NORM:
        with pytest.raises(UsageError, match="no statistics of 1 example"):
            trained(case, base, norm, tmp_path)
        return
    assert distance(trained(case, base, norm, tmp_path), derived(case, base, norm)) < 1e-10


@pytest.mark.parametrize(
    ("case", "setting"),
    [(c, k) for c, (_, s) in METHODS.items() for k, v in s.items() if isinstance(v, float)],
)
def test_one_percent_is_noticed(case: str, setting: str, tmp_path: Path):
    changed = {setting: METHODS[case][1][setting] * 1.01}
    assert distance(trained(case, "sgd", False, tmp_path, **changed), derived(case, "sgd", False)) > 1e-7


@pytest.mark.parametrize("case", ["sgd", "sam", "sagm"])
def test_clipping_bounds_the_update_gradient(case: str, tmp_path: Path):
    clip = 0.1
    assert distance(trained(case, "sgd", False, tmp_path, clip=clip), derived(case, "sgd", False)) > 1e-4
    assert (
        distance(trained(case, "sgd", False, tmp_path / "b", clip=clip), derived(case, "sgd", False, clip=clip))
        < 1e-10
    )


def test_the_methods_end_in_different_places():
    """No agreement above is an accident of a small step."""
    ends = {case: derived(case, "sgd", True) for case in METHODS if case not in NOT_WITH_NORM}
    names = list(ends)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert distance(ends[a], ends[b]) > 1e-6, (a, b)

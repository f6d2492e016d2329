"""Lazy names: ``name -> "module:object"``, resolved on first use, with neighbours for unknown names.

Nothing here imports torch, so that ``landscape list`` and ``--help`` answer at once.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One registered object.

    Attributes:
        target: ``"package.module:object"``.
        summary: One line for ``landscape list``.
        details: Named facts shown beside it (formula, cost, paper, ...).
        options: Names of the method flags the object understands (optimizers only).
    """

    target: str
    summary: str
    details: Mapping[str, str] | None = None
    options: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the module and return the object."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


class Registry(Mapping[str, Entry]):
    """A fixed mapping from names to entries.

    A name ``PREFIX:ARGUMENT`` (argument in capitals) stands for a family: its object takes the text after the
    colon as its first argument.

    Args:
        kind: What is registered, in the singular; used in messages.
        entries: The entries, in the order in which they are listed.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_name(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, default: Any = None) -> Any:
        """The entry called ``name``, or ``default``."""
        return self._entries.get(name, default)

    def family(self, name: str) -> str | None:
        """The registered ``PREFIX:ARGUMENT`` that ``name`` belongs to, or None."""
        prefix, colon, rest = name.partition(":")
        return next((k for k in self._entries if colon and rest and k.startswith(f"{prefix}:")), None)

    def load(self, name: str) -> Any:
        """Import and return the object called ``name``.

        Raises:
            UsageError: If there is no such name; the message lists neighbours and all names.
        """
        return self[name].load()


def neighbours(name: str, known: Iterable[str]) -> list[str]:
    """Names a reader may have meant: near in spelling, or sharing a prefix of three letters."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    return near or [k for k in known if len(name) >= 3 and k[:3].lower() == name[:3].lower()]


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> UsageError:
    """The error for an unknown name, with a did-you-mean and the full list."""
    known = list(known)
    near = neighbours(name, known)
    meant = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", where, f"{meant}there is: {', '.join(known) or 'nothing'}")


_TWO_PASSES = ("bn_second_pass", "weight_decay_in_perturbation")

OPTIMIZERS = Registry(
    "optimizer",
    {
        "sgd": Entry(
            "landscape.optim.engine:ERM",
            "stochastic gradient descent with momentum (ERM)",
            {"formula": "w ← w − lr·buf, buf ← momentum·buf + g + wd·w", "cost": "1", "paper": "–"},
        ),
        "adam": Entry(
            "landscape.optim.engine:ERM",
            "Adam with L2 decay in the gradient (ERM)",
            {"formula": "w ← w − lr·m̂/(√v̂ + eps)", "cost": "1", "paper": "arXiv 1412.6980"},
        ),
        "adamw": Entry(
            "landscape.optim.engine:ERM",
            "Adam with decoupled weight decay (ERM)",
            {"formula": "w ← (1 − lr·wd)·w − lr·m̂/(√v̂ + eps)", "cost": "1", "paper": "arXiv 1711.05101"},
        ),
        "sam": Entry(
            "landscape.optim.sam:SAM",
            "sharpness-aware minimization",
            {"formula": "e = rho·g/‖g‖, G = ∇L(w+e)", "cost": "2", "paper": "arXiv 2010.01412"},
            ("rho", "adaptive", "p", "ascent_steps", "order", "m", *_TWO_PASSES),
        ),
        "usam": Entry(
            "landscape.optim.usam:USAM",
            "SAM without the normalisation of its climb",
            {"formula": "e = rho·g, G = ∇L(w+e)", "cost": "2", "paper": "arXiv 2206.06232"},
            ("rho", "m", *_TWO_PASSES),
        ),
        "asam": Entry(
            "landscape.optim.asam:ASAM",
            "adaptive SAM by the official rule",
            {
                "formula": "e = rho·T²g/‖T·g‖, T = |w|+eta for weights, 1 for others, G = ∇L(w+e)",
                "cost": "2",
                "paper": "arXiv 2102.11600",
            },
            ("rho", "eta", "m", *_TWO_PASSES),
        ),
        "gsam": Entry(
            "landscape.optim.gsam:GSAM",
            "surrogate gap guided SAM",
            {
                "formula": "e = rho_t·g/‖g‖, G = g' − alpha·(part of g orthogonal to g')",
                "cost": "2",
                "paper": "arXiv 2203.08065",
            },
            ("rho", "rho_min", "alpha", "adaptive", "m", *_TWO_PASSES),
        ),
        "sagm": Entry(
            "landscape.optim.sagm:SAGM",
            "sharpness-aware gradient matching",
            {
                "formula": "e = (rho/‖g‖ − alpha)·g, G = (g + ∇L(w+e))/2",
                "cost": "2",
                "paper": "arXiv 2303.10353",
            },
            ("rho", "alpha", "adaptive", "m", *_TWO_PASSES),
        ),
        "disam": Entry(
            "landscape.optim.disam:DISAM",
            "domain-inspired sharpness-aware minimization",
            {
                "formula": "e = rho·d/‖d‖, d = ∇[L − lam·Var(L_i)], G = ∇L(w+e)",
                "cost": "2",
                "paper": "arXiv 2405.18861",
            },
            ("rho", "lam", "disam_variance", "adaptive", "p", "ascent_steps", "m", *_TWO_PASSES),
        ),
        "disam-gsam": Entry(
            "landscape.optim.disam:DISAMGSAM",
            "GSAM with DISAM's climb",
            {
                "formula": "e = rho_t·d/‖d‖, G = g' − alpha·(part of d orthogonal to g')",
                "cost": "2",
                "paper": "arXiv 2405.18861, Table 1",
            },
            ("rho", "rho_min", "alpha", "lam", "disam_variance", "adaptive", "m", *_TWO_PASSES),
        ),
        "disam-sagm": Entry(
            "landscape.optim.disam:DISAMSAGM",
            "SAGM with DISAM's climb",
            {
                "formula": "e = (rho/‖d‖ − alpha)·d, G = (d + ∇L(w+e))/2",
                "cost": "2",
                "paper": "arXiv 2405.18861, Table 1",
            },
            ("rho", "alpha", "lam", "disam_variance", "adaptive", "m", *_TWO_PASSES),
        ),
        "fsam": Entry(
            "landscape.optim.fsam:FSAM",
            "friendly SAM: climbs along the batch's own part of the gradient",
            {
                "formula": "e = rho·r/‖r‖, r = g − sigma·m, m ← lam·m + (1−lam)·g, G = ∇L(w+e)",
                "cost": "2",
                "paper": "arXiv 2403.12350",
            },
            ("rho", "sigma", "lam", *_TWO_PASSES),
        ),
        "looksam": Entry(
            "landscape.optim.looksam:LookSAM",
            "SAM every k-th step, its sideways part used again between",
            {
                "formula": "every k-th step SAM; else G = g + alpha·‖g‖·v/‖v‖, v = part of g' orthogonal to g",
                "cost": "1 + 1/k",
                "paper": "arXiv 2203.02714",
            },
            ("rho", "alpha", "sam_every", *_TWO_PASSES),
        ),
        "wsam": Entry(
            "landscape.optim.wsam:WSAM",
            "weighted SAM, sharpness decoupled from the base step",
            {
                "formula": "base step with g, then w ← w − lr·gamma/(1−gamma)·(∇L(w+e) − g)",
                "cost": "2",
                "paper": "arXiv 2305.15817",
            },
            ("rho", "gamma", *_TWO_PASSES),
        ),
        "entropy-sgd": Entry(
            "landscape.optim.entropy_sgd:EntropySGD",
            "descent along the local entropy, by Langevin dynamics",
            {
                "formula": "G = gamma·(w − ⟨x⟩), x ← x − lr_x·[∇L(x) + gamma·(x−w)] + noise, L times",
                "cost": "L",
                "paper": "arXiv 1611.01838",
            },
            ("gamma", "alpha", "langevin_steps", "langevin_lr", "langevin_noise"),
        ),
    },
)

MODELS = Registry(
    "model",
    {
        "mlp": Entry("landscape.models.mlp:mlp", "fully connected network (hidden=64,64; activation=relu)"),
        "convnet": Entry("landscape.models.convnet:convnet", "small convolutional network (BatchNorm optional)"),
        "resnet20": Entry("landscape.models.resnet:resnet20", "CIFAR ResNet of He et al. 2015, 269,722 parameters"),
        "resnet32": Entry("landscape.models.resnet:resnet32", "CIFAR ResNet of He et al. 2015, 464,154 parameters"),
        "resnet44": Entry("landscape.models.resnet:resnet44", "CIFAR ResNet of He et al. 2015, 658,586 parameters"),
        "resnet56": Entry("landscape.models.resnet:resnet56", "CIFAR ResNet of He et al. 2015, 853,018 parameters"),
        "torchvision:NAME": Entry("landscape.models.libraries:torchvision_model", "any network of torchvision"),
        "timm:NAME": Entry("landscape.models.libraries:timm_model", "any network of timm"),
        "hf:NAME_OR_FOLDER": Entry(
            "landscape.models.libraries:hf_model",
            "a network of transformers, from a folder or the hub (task=text-classification)",
        ),
    },
)

DATA = Registry(
    "data set",
    {
        "digits-rotated": Entry(
            "landscape.data.digits:digits_rotated",
            "1,797 real 8x8 digits as six rotation domains, 0 to 75 degrees, each image in one domain",
        ),
        "digits": Entry("landscape.data.digits:digits", "1,797 real 8x8 digits, one domain"),
        "gaussian-domains": Entry(
            "landscape.data.gaussian:gaussian_domains",
            "synthetic Gaussian classes in domains with clear boundaries (overlap=0..1)",
        ),
        "domains:FOLDER": Entry(
            "landscape.data.folders:domain_folders",
            "images as domain/class/image, in the order and with the split of DomainBed (size=64)",
        ),
        "images:FOLDER": Entry(
            "landscape.data.folders:class_folders",
            "images as class/image, or with train/, val/, test/ above the classes (size=64)",
        ),
        "hf:NAME_OR_FOLDER": Entry(
            "landscape.data.hf:hf_data", "data of the datasets library, saved to a folder or on the hub"
        ),
    },
)

LOSSES = Registry(
    "loss",
    {
        "cross_entropy": Entry("landscape.losses:cross_entropy", "softmax cross-entropy, integer targets"),
        "mse": Entry("landscape.losses:mse", "squared error, mean over the outputs of an example"),
        "l1": Entry("landscape.losses:l1", "absolute error, mean over the outputs of an example"),
        "huber": Entry("landscape.losses:huber", "Huber error (delta 1), mean over the outputs of an example"),
        "bce_with_logits": Entry("landscape.losses:bce_with_logits", "binary cross-entropy of logits"),
        "nll": Entry("landscape.losses:nll", "negative log-likelihood of log-probabilities"),
        "causal_lm": Entry(
            "landscape.losses:causal_lm", "next-token cross-entropy, mean over all tokens that count (not -100)"
        ),
        "token_cross_entropy": Entry(
            "landscape.losses:token_cross_entropy", "cross-entropy of logits (n, tokens, classes), -100 ignored"
        ),
    },
)

MEASURES = Registry(
    "measure",
    {
        "m-sharpness": Entry(
            "landscape.measures.m_sharpness:m_sharpness",
            "mean over blocks of m examples of the loss rise at the block's own ascent step",
            {
                "formula": "mean_k [L_k(w + e_k) − L_k(w)], e_k = rho·g_k/‖g_k‖",
                "cost": "1 gradient + 1 forward per example and m",
                "paper": "arXiv 2010.01412, section 4.1",
            },
        ),
    },
)

DIRECTIONS = Registry(
    "direction",
    {
        "filter": Entry(
            "landscape.surfaces.random_directions:draw",
            "Gaussian, each filter scaled to the norm of the network's filter",
        ),
        "layer": Entry(
            "landscape.surfaces.random_directions:draw",
            "Gaussian, each tensor scaled to the norm of the network's tensor",
        ),
        "model": Entry(
            "landscape.surfaces.random_directions:draw", "Gaussian, the whole scaled to the norm of the network"
        ),
        "unit": Entry("landscape.surfaces.random_directions:draw", "Gaussian, the whole scaled to length 1"),
        "gaussian": Entry("landscape.surfaces.random_directions:draw", "Gaussian as drawn, entries of variance 1"),
        "eigvec:K": Entry(
            "landscape.curvature.hessian:hessian", "eigenvector of the K-th largest Hessian eigenvalue, of length 1"
        ),
        "pca:K": Entry(
            "landscape.surfaces.trajectory:components",
            "K-th principal component of the runs' checkpoints",
        ),
        "grad": Entry("landscape.surfaces.ascent_directions:gradient_direction", "gradient, of length 1"),
        "sam:RHO": Entry(
            "landscape.surfaces.ascent_directions:sam_direction",
            "SAM's step of radius RHO: 1 is its perturbed point",
        ),
        "asam:RHO": Entry(
            "landscape.surfaces.ascent_directions:asam_direction", "ASAM's ascent step of radius RHO, likewise"
        ),
        "domain-grad:NAME": Entry(
            "landscape.surfaces.ascent_directions:domain_gradient_direction",
            "gradient of a domain's loss, length 1",
        ),
        "checkpoint:FILE": Entry(
            "landscape.surfaces.snapshots:difference", "from the network to another run or checkpoint: 1 is there"
        ),
        "file:FILE": Entry(
            "landscape.surfaces.directions:read_direction", "stored directions, for example those of another surface"
        ),
    },
)

FIGURES = Registry(
    "figure",
    {
        "training": Entry(
            "landscape.figures.training:draw", "loss, per-domain loss and domain-loss variance over training"
        ),
        "eigenvalues": Entry("landscape.figures.eigenvalues:draw", "top eigenvalues per optimizer, with residuals"),
        "m-sharpness": Entry("landscape.figures.m_sharpness:draw", "m-sharpness over m per optimizer"),
        "slice": Entry("landscape.figures.slice:draw", "1-D slices of the loss along the same directions"),
        "contour": Entry("landscape.figures.contour:draw", "2-D contours on one scale with one colour bar"),
        "surface3d": Entry("landscape.figures.surface3d:draw", "interactive 3-D surfaces (html)"),
        "domains": Entry("landscape.figures.domains:draw", "loss and accuracy per domain and optimizer"),
    },
)

ANALYSES = Registry(
    "analysis",
    {
        "hessian": Entry("landscape.curvature.hessian:hessian", "Hessian eigenvalues with true residuals"),
        "sharpness": Entry("landscape.measures.sharpness:sharpness", "m-sharpness and its relatives"),
        "surface": Entry("landscape.surfaces.surface:surface", "1-D and 2-D slices of the loss surface"),
        "domains": Entry(
            "landscape.domainwise.domains:domains", "per-domain loss, accuracy, variance and gradient cosines"
        ),
    },
)

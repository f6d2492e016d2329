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
        options: Names of the flags the object understands (optimizers and measures).
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
            "mean over blocks of m examples of the loss rise at the block's own ascent",
            {
                "formula": "mean_k max_{‖e_k‖_p ≤ rho} L_k(w + e_k) − L_k(w), by e_k = rho·g_k/‖g_k‖ or more steps",
                "cost": "1 gradient per example and m, and 1 forward per rho (or 1 gradient per inner step)",
                "paper": "arXiv 2010.01412, section 4.1",
            },
            ("m", "rho", "p", "adaptive", "inner_steps", "maximizer"),
        ),
        "asam-sharpness": Entry(
            "landscape.measures.m_sharpness:asam_sharpness",
            "m-sharpness in the ball of the authors' ASAM",
            {
                "formula": "‖e/T‖_p ≤ rho, T = |w| + eta for weights, 1 for biases",
                "cost": "as m-sharpness",
                "paper": "arXiv 2102.11600",
            },
            ("m", "rho", "p", "inner_steps", "maximizer", "eta"),
        ),
        "worst-case-adaptive": Entry(
            "landscape.measures.m_sharpness:worst_case_adaptive",
            "worst-case adaptive sharpness by Auto-PGD on blocks of 128",
            {
                "formula": "mean_k max_{‖e/|w|‖_p ≤ rho} L_k(w + e) − L_k(w)",
                "cost": "21 gradients per example and rho",
                "paper": "arXiv 2302.07011",
            },
            ("m", "rho", "p", "inner_steps", "maximizer"),
        ),
        "average-case": Entry(
            "landscape.measures.average_case:average_case",
            "mean rise under isotropic Gaussian (p = inf: uniform) noise",
            {
                "formula": "E L(w + δ) − L(w), δ ~ N(0, rho²)",
                "cost": "100 forwards per example and rho",
                "paper": "arXiv 2302.07011",
            },
            ("rho", "p", "draws"),
        ),
        "average-case-adaptive": Entry(
            "landscape.measures.average_case:average_case_adaptive",
            "mean rise under noise in proportion to each weight",
            {
                "formula": "E L(w + δ) − L(w), δ ~ N(0, rho²·w²)",
                "cost": "100 forwards per example and rho",
                "paper": "arXiv 2302.07011",
            },
            ("rho", "p", "draws"),
        ),
        "surrogate-gap": Entry(
            "landscape.measures.surrogate_gap:surrogate_gap",
            "rise at the ascent step of all examples, and the curvature along it",
            {
                "formula": "h = L(w + rho·g/‖g‖) − L(w); 2(h − rho‖g‖)/rho² → gᵀHg/‖g‖²",
                "cost": "1 gradient per example, and 1 forward per rho",
                "paper": "arXiv 2203.08065, 2303.10353",
            },
            ("rho",),
        ),
        "keskar": Entry(
            "landscape.measures.keskar:keskar",
            "Keskar's eps-sharpness in the whole space, by L-BFGS-B",
            {
                "formula": "100·(max_{|z_i| ≤ eps(|w_i|+1)} L(w + z) − L(w))/(1 + L(w))",
                "cost": "about 12 gradients per example and rho",
                "paper": "arXiv 1609.04836",
            },
            ("rho",),
        ),
        "keskar-subspace": Entry(
            "landscape.measures.keskar:keskar_subspace",
            "Keskar's eps-sharpness in a random subspace of 100 dimensions",
            {
                "formula": "100·(max_{|z_i| ≤ eps(|(A⁺w)_i|+1)} L(w + Az) − L(w))/(1 + L(w))",
                "cost": "about 12 gradients per example and rho; 100 vectors",
                "paper": "arXiv 1609.04836",
            },
            ("rho",),
        ),
        "local-flatness": Entry(
            "landscape.measures.local_flatness:local_flatness",
            "F_gamma: mean rise at distance gamma (--rho) in random directions",
            {
                "formula": "E_u L(w + gamma·u) − L(w), u uniform on the unit sphere",
                "cost": "100 forwards per example and rho",
                "paper": "arXiv 2102.08604 (SWAD)",
            },
            ("rho", "draws"),
        ),
        "pac-bayes-sigma": Entry(
            "landscape.measures.pac_bayes:pac_bayes_sigma",
            "Gaussian noise on the weights that costs 0.1 accuracy; larger is flatter",
            {
                "formula": "sigma with E[acc(w) − acc(w + N(0, sigma²))] = 0.1, by bisection",
                "cost": "up to 180 forwards per example",
                "paper": "arXiv 1912.02178",
            },
            ("draws",),
        ),
        "pac-bayes-sigma-magnitude": Entry(
            "landscape.measures.pac_bayes:pac_bayes_sigma_magnitude",
            "the same with noise in proportion to each weight",
            {
                "formula": "noise of standard deviation sigma·|w| + 0.001",
                "cost": "up to 180 forwards per example",
                "paper": "arXiv 1912.02178",
            },
            ("draws",),
        ),
        "fisher-rao": Entry(
            "landscape.measures.fisher_rao:fisher_rao",
            "Fisher-Rao norm with the labels of the data",
            {
                "formula": "mean_i ⟨w, ∇l_i(w)⟩²",
                "cost": "about 2 gradients per example",
                "paper": "arXiv 1711.01530",
            },
        ),
        "relative-flatness": Entry(
            "landscape.measures.relative_flatness:relative_flatness",
            "relative flatness of each layer, invariant under rescaling",
            {
                "formula": "Σ_{s,s'} ⟨w_s, w_s'⟩ Tr(∂²L/∂w_s∂w_s')",
                "cost": "up to 100 Hessian-vector products per layer",
                "paper": "arXiv 2001.00939",
            },
            ("draws",),
        ),
        "gradient-norm": Entry(
            "landscape.measures.gradients:gradient_norm",
            "norm of the gradient over all examples",
            {
                "formula": "‖∇L(w)‖₂",
                "cost": "1 gradient per example",
                "paper": "–",
            },
        ),
        "gradient-variance": Entry(
            "landscape.measures.gradients:gradient_variance",
            "variance of the gradient between batches of m, DISAM's sharpness figure",
            {
                "formula": "Σ_k ‖g_k − ḡ‖²/(K − 1)",
                "cost": "2 gradients per example and m",
                "paper": "arXiv 2405.18861, appendix C.3",
            },
            ("m",),
        ),
        "input-sharpness": Entry(
            "landscape.measures.input_sharpness:input_sharpness",
            "rise when each input moves by rho times its own norm",
            {
                "formula": "mean_i max_{‖d‖_p ≤ rho‖x_i‖_p} l_i(x_i + d) − l_i(x_i)",
                "cost": "2 gradients per example and rho",
                "paper": "arXiv 2010.01412, section 6",
            },
            ("rho", "p", "inner_steps"),
        ),
        "weight-norm": Entry(
            "landscape.measures.baselines:weight_norm",
            "no sharpness: norm of the weights",
            {
                "formula": "‖w‖₂",
                "cost": "none",
                "paper": "arXiv 1912.02178",
            },
        ),
        "distance-from-start": Entry(
            "landscape.measures.baselines:distance_from_start",
            "no sharpness: distance from the weights that training started from",
            {
                "formula": "‖w − w₀‖₂",
                "cost": "none",
                "paper": "arXiv 1912.02178",
            },
            ("start",),
        ),
        "path-norm": Entry(
            "landscape.measures.baselines:path_norm",
            "no sharpness: norm over all paths of the squared weights",
            {
                "formula": "√ Σ_paths Π w²",
                "cost": "1 forward",
                "paper": "arXiv 1503.00036",
            },
        ),
        "log-spectral-norm": Entry(
            "landscape.measures.baselines:log_spectral_norm",
            "no sharpness: logarithm of the product of the layers' spectral norms",
            {
                "formula": "Σ log ‖W‖₂",
                "cost": "one SVD per layer",
                "paper": "arXiv 1912.02178",
            },
        ),
        "margin": Entry(
            "landscape.measures.baselines:margin",
            "no sharpness: 10th percentile of the margins",
            {
                "formula": "f_y(x) − max_{j≠y} f_j(x)",
                "cost": "1 forward per example",
                "paper": "arXiv 1912.02178",
            },
        ),
        "parameter-count": Entry(
            "landscape.measures.baselines:parameter_count",
            "no sharpness: number of parameters",
            {
                "formula": "n",
                "cost": "none",
                "paper": "–",
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
        "probes": Entry("landscape.figures.probes:draw", "surrogate gap, gradient angles and more over training"),
        "eigenvalues": Entry("landscape.figures.eigenvalues:draw", "top eigenvalues per optimizer, with residuals"),
        "spectra": Entry(
            "landscape.figures.spectra:draw", "spectral densities: rows optimizers, columns checkpoints"
        ),
        "curvature-course": Entry(
            "landscape.figures.curvature_course:draw", "lambda_1, lambda_5 and their ratio over training"
        ),
        "m-sharpness": Entry("landscape.figures.m_sharpness:draw", "m-sharpness over m per optimizer"),
        "slice": Entry("landscape.figures.slice:draw", "1-D slices of the loss along the same directions"),
        "contour": Entry("landscape.figures.contour:draw", "2-D contours on one scale with one colour bar"),
        "domain-surfaces": Entry(
            "landscape.figures.domain_surfaces:draw", "2-D contours per domain and optimizer, on one scale"
        ),
        "plane": Entry("landscape.figures.plane:draw", "planes through checkpoints: trajectories, three minima"),
        "path": Entry("landscape.figures.path:draw", "loss between two checkpoints, with its barrier"),
        "merge-tree": Entry("landscape.figures.merge_tree:draw", "minima of 2-D surfaces and where basins meet"),
        "surface3d": Entry("landscape.figures.surface3d:draw", "interactive 3-D surfaces (html)"),
        "domains": Entry("landscape.figures.domains:draw", "loss and accuracy per domain and optimizer"),
        "domain-curves": Entry(
            "landscape.figures.domain_curves:draw",
            "per-domain losses over training, also scaled to [0, 1], their variance and conflict",
        ),
        "domain-matrix": Entry(
            "landscape.figures.domain_matrix:draw", "gradient cosines and sharpness across domains as matrices"
        ),
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

"""Every optimizer by name, with its formula, cost, paper and the method flags that it reads."""

from __future__ import annotations

from ..base.names import Entry, Registry

_TWO_PASSES = ("bn_second_pass", "weight_decay_in_perturbation")

OPTIMIZERS = Registry(
    "optimizer",
    {
        "sgd": Entry(
            "landscape.optim.core.engine:ERM",
            "stochastic gradient descent with momentum (ERM)",
            {"formula": "w ← w − lr·buf, buf ← momentum·buf + g + wd·w", "cost": "1", "paper": "–"},
        ),
        "adam": Entry(
            "landscape.optim.core.engine:ERM",
            "Adam with L2 decay in the gradient (ERM)",
            {"formula": "w ← w − lr·m̂/(√v̂ + eps)", "cost": "1", "paper": "arXiv 1412.6980"},
        ),
        "adamw": Entry(
            "landscape.optim.core.engine:ERM",
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
        "vrex": Entry(
            "landscape.optim.vrex:VREx",
            "ERM with the variance of the domain losses as a penalty (V-REx)",
            {"formula": "G = ∇[L + lam·Var(L_i)]", "cost": "1", "paper": "arXiv 2003.00688"},
            ("lam",),
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

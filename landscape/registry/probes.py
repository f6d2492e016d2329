"""Every quantity that a training can record about itself, by name."""

from __future__ import annotations

from ..base.names import Entry, Registry


def _entry(function: str, summary: str, formula: str, cost: str, paper: str) -> Entry:
    details = {"formula": formula, "cost": cost, "paper": paper}
    return Entry(f"landscape.training.probes:{function}", summary, details)


PROBES = Registry(
    "probe",
    {
        "surrogate-gap": _entry(
            "surrogate_gap",
            "rise of the loss at SAM's point, and what it says of the curvature",
            "h = L(w + e) − L(w), 2h/rho², ‖∇L‖",
            "1 gradient and 1 forward pass",
            "arXiv 2203.08065, arXiv 2303.10353",
        ),
        "gradient-alignment": _entry(
            "gradient_alignment",
            "angle between the gradients at w and at SAM's point",
            "cos(∇L, ∇L_p), L_p = L(w + e)",
            "2 gradients",
            "arXiv 2303.10353",
        ),
        "gradient-conflict": _entry(
            "gradient_conflict",
            "whether the gradient of the surrogate gap works against those it is made of",
            "cos(∇h, ∇L) and cos(∇h, ∇L_p), ∇h = ∇L_p − ∇L; 1 where below 0",
            "2 gradients",
            "arXiv 2303.10353, section 3",
        ),
        "second-order": _entry(
            "second_order",
            "what SAM's update leaves out by not differentiating the perturbation",
            "cosine and norm ratio of g' and g' + rho (∂e/∂w)ᵀ g'",
            "2 gradients and 1 Hessian product",
            "arXiv 2010.01412, appendix C.4",
        ),
        "inner-maximum": _entry(
            "inner_maximum",
            "share of the inner maximum that SAM's single step reaches",
            "(L(w + e) − L(w)) / max over 20 projected steps",
            "22 gradients",
            "arXiv 2010.01412, appendix C.2",
        ),
        "domain-weights": _entry(
            "domain_weights",
            "weight of each domain's gradient in DISAM's climb",
            "beta_i = n_i/N − (2 lambda/M)(L_i − mean L)",
            "1 forward pass",
            "arXiv 2405.18861, Eq. 8",
        ),
        "domain-losses": _entry(
            "domain_losses", "mean loss of each domain", "L_i", "1 forward pass", "arXiv 2405.18861, section 3"
        ),
        "domain-variance": _entry(
            "domain_variance",
            "variance of the domain losses, at w and at SAM's point",
            "(1/M) Σ (L_i − mean L)²",
            "1 gradient and 2 forward passes",
            "arXiv 2405.18861, figure 1b",
        ),
        "m-sharpness": _entry(
            "m_sharpness",
            "mean rise of the loss of blocks of 1 and of 16 examples that climb by rho, in eval mode",
            "Σ_k (|B_k|/n) [L_k(w + rho ∇L_k/‖∇L_k‖) − L_k(w)]",
            "2 gradients per example",
            "arXiv 2010.01412, section 4.1",
        ),
        "eigenvalues": _entry(
            "eigenvalues",
            "the five largest eigenvalues of the Hessian of the training loss, in eval mode",
            "lambda_1 ... lambda_5, lambda_1/lambda_5",
            "some 20 Hessian products",
            "arXiv 2010.01412, figure 3",
        ),
    },
)

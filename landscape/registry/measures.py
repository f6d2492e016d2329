"""Every sharpness measure and baseline by name, with its formula, cost, paper and flags."""

from __future__ import annotations

from ..base.names import Entry, Registry

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
            ("m", "blocks", "rho", "p", "adaptive", "inner_steps", "maximizer"),
        ),
        "asam-sharpness": Entry(
            "landscape.measures.m_sharpness:asam_sharpness",
            "m-sharpness in the ball of the authors' ASAM",
            {
                "formula": "‖e/T‖_p ≤ rho, T = |w| + eta for weights, 1 for biases",
                "cost": "as m-sharpness",
                "paper": "arXiv 2102.11600",
            },
            ("m", "blocks", "rho", "p", "inner_steps", "maximizer", "eta"),
        ),
        "worst-case-adaptive": Entry(
            "landscape.measures.m_sharpness:worst_case_adaptive",
            "worst-case adaptive sharpness by Auto-PGD on blocks of 128",
            {
                "formula": "mean_k max_{‖e/|w|‖_p ≤ rho} L_k(w + e) − L_k(w)",
                "cost": "21 gradients per example and rho",
                "paper": "arXiv 2302.07011",
            },
            ("m", "blocks", "rho", "p", "inner_steps", "maximizer"),
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
            "F_gamma: mean rise at distance gamma (`rho=`) in random directions",
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
            ("m", "blocks"),
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

"""The losses that have names."""

from __future__ import annotations

from ..base.names import Entry, Registry

OBJECTIVES = Registry("objective", {})

LOSSES = Registry(
    "loss",
    {
        "cross_entropy": Entry("landscape.data.losses:cross_entropy", "softmax cross-entropy, integer targets"),
        "mse": Entry("landscape.data.losses:mse", "squared error, mean over the outputs of an example"),
        "l1": Entry("landscape.data.losses:l1", "absolute error, mean over the outputs of an example"),
        "huber": Entry("landscape.data.losses:huber", "Huber error (delta 1), mean over the outputs of an example"),
        "bce_with_logits": Entry("landscape.data.losses:bce_with_logits", "binary cross-entropy of logits"),
        "nll": Entry("landscape.data.losses:nll", "negative log-likelihood of log-probabilities"),
        "causal_lm": Entry(
            "landscape.data.losses:causal_lm", "next-token cross-entropy, mean over all tokens that count (not -100)"
        ),
        "token_cross_entropy": Entry(
            "landscape.data.losses:token_cross_entropy", "cross-entropy of logits (n, tokens, classes), -100 ignored"
        ),
    },
    sums="landscape.problem.weighted_losses:WeightedLosses",
)

"""What is legal and hardly ever meant: losses below what they can be, odd targets, images of another scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data import losses
from ..evaluation import Evaluation

_FROM_ZERO = (
    losses.cross_entropy,
    losses.token_cross_entropy,
    losses.causal_lm,
    losses.nll,
    losses.mse,
    losses.l1,
    losses.huber,
    losses.bce_with_logits,
)
_BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_ROUNDING = 1e-6


def misuse(loss: losses.LossFunction, some_targets: Callable[[], object], evaluation: Evaluation) -> list[str]:
    """Signs that targets and loss do not belong together, a sentence each.

    Args:
        loss: The loss; of a user's own nothing is known.
        some_targets: Gives a few of the targets, asked only where they may be odd.
        evaluation: Of all examples.
    """
    if not isinstance(loss, losses.Loss):
        return []
    found, name = [], loss.__name__
    if loss in _FROM_ZERO or loss.module is not None:
        lowest = min(d.loss for d in evaluation.domains.values())
        if lowest < -_ROUNDING:
            why = "its inputs are no log-probabilities" if _is_nll(loss) else "targets and loss do not fit each other"
            found.append(f"{name} is {lowest:.4g}, and cannot be below 0: {why}")
    binary = loss is losses.bce_with_logits or isinstance(loss.module, _BINARY)
    if not binary and loss is not losses.cross_entropy and not isinstance(loss.module, nn.CrossEntropyLoss):
        return found
    targets = some_targets()
    if not isinstance(targets, Tensor) or not targets.is_floating_point() or not targets.numel():
        return found
    low, high = float(targets.min()), float(targets.max())
    if binary and not 0 <= low <= high <= 1:
        found.append(f"{name} wants targets in 0..1, there are some in {low:.4g}..{high:.4g}")
    if not binary and (low < 0 or bool(((targets.sum(1) - 1).abs() > 1e-3).any())):
        found.append(f"{name} wants labels or probabilities that sum to 1, there are others in {low:.4g}..{high:.4g}")
    return found


def _is_nll(loss: losses.Loss) -> bool:
    return loss is losses.nll or isinstance(loss.module, nn.NLLLoss)


def image_scale(
    model: nn.Module, facts: Mapping[str, object], given: tuple[Any, Any] | None, source: str
) -> list[str]:
    """Whether images come on another scale than the network's library says for its weights.

    Args:
        model: The network.
        facts: Of the data set; ``normalize`` where it holds images.
        given: Mean and deviation per channel that the images were normalised with.
        source: The name of the model.
    """
    wanted = expected_scale(model, source)
    if given is None or wanted is None or "normalize" not in facts:
        return []
    library, mean, deviation = wanted
    if len(mean) != len(given[0]) or torch.allclose(torch.tensor([mean, deviation]), torch.tensor(given), atol=1e-3):
        return []
    fix = "`data_arg='normalize=imagenet'`" if (mean, deviation) == _IMAGENET else "normalise them in a data callable"
    return [
        f"{library} says mean {_shown(mean)} and deviation {_shown(deviation)} for the images of this network, they "
        f"come with normalize={facts['normalize']}: {fix}, unless the weights were trained so"
    ]


def expected_scale(model: nn.Module, source: str = "") -> tuple[str, tuple[float, ...], tuple[float, ...]] | None:
    """The library that made a network, and the mean and deviation that it says; None where it says none."""
    configured = getattr(model, "pretrained_cfg", None)
    if isinstance(configured, Mapping) and configured.get("mean") and configured.get("std"):
        return "timm", tuple(configured["mean"]), tuple(configured["std"])
    module = type(model).__module__
    if module.startswith("torchvision.models.") and "detection" not in module:  # those normalise inside
        return "torchvision", *_IMAGENET
    file = Path(source.removeprefix("hf:")).expanduser() / "preprocessor_config.json"
    if source.startswith("hf:") and file.is_file():
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return None
        if isinstance(said, dict) and said.get("do_normalize") and said.get("image_mean") and said.get("image_std"):
            return "preprocessor_config.json", tuple(said["image_mean"]), tuple(said["image_std"])
    return None


def _shown(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{v:g}' for v in values)})"

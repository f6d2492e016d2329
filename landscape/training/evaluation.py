"""How good a network is on everything there is: per split, per domain, seen and unseen apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.examples import Examples
from ..data.loss_values import NoTarget
from ..data.losses import LossFunction
from ..data.splits import Splits
from ..problem.evaluation import Evaluation, evaluate


class Scorer:
    """Evaluates all splits of the data; domains that are not trained on are reported apart.

    Args:
        splits: The data.
        unseen: Domains that are not trained on.
        loss: The loss.
        device: Where the model is.
        dtype: Its floating type.
    """

    def __init__(
        self,
        splits: Splits,
        unseen: tuple[str, ...],
        loss: LossFunction,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.splits, self.unseen, self.loss = splits, unseen, loss
        self.device, self.dtype = device, dtype

    def score(self, model: nn.Module) -> dict[str, Any]:
        """Losses and accuracies in eval mode.

        Returns:
            ``SPLIT_loss`` and ``SPLIT_accuracy`` over the seen domains of each split (test fields None where
            there is no test split); ``domains``: the same per domain, with ``seen``; over the seen domains'
            training losses ``domain_loss_variance`` (uniform, ddof 0); ``unseen_loss`` and
            ``unseen_accuracy`` over all examples of the unseen domains, whatever their split.
        """
        evaluations = {name: self._evaluate(model, name, examples) for name, examples in self.splits.items()}
        scores: dict[str, Any] = {
            "train_loss": None,
            "train_accuracy": None,
            "test_loss": None,
            "test_accuracy": None,
        }
        for name, evaluation in evaluations.items():
            scores[f"{name}_loss"], scores[f"{name}_accuracy"] = self._pooled([evaluation], seen=True)
        scores["unseen_loss"], scores["unseen_accuracy"] = self._pooled(list(evaluations.values()), seen=False)
        scores["domains"] = self._domains(evaluations) if self.splits.domains else None
        seen = [d.loss for n, d in evaluations["train"].domains.items() if n not in self.unseen]
        scores["domain_loss_variance"] = _finite(float(np.var(seen))) if self.splits.domains else None
        return scores

    def _evaluate(self, model: nn.Module, split: str, examples: Examples) -> Evaluation:
        try:
            return evaluate(model, examples, self.loss, device=self.device, dtype=self.dtype)
        except NoTarget as error:
            raise NoTarget(error.what, f"the {split} split", error.fix) from error

    def _pooled(self, evaluations: list[Evaluation], *, seen: bool) -> tuple[float | None, float | None]:
        parts = [d for e in evaluations for n, d in e.domains.items() if (n not in self.unseen) == seen]
        n = sum(d.weight for d in parts)
        if not n:
            return None, None
        known = [(d.accuracy * d.trials, d.trials) for d in parts if d.accuracy is not None]
        accuracy = sum(hits for hits, _ in known) / sum(k for _, k in known) if len(known) == len(parts) else None
        return _finite(sum(d.loss * d.weight for d in parts) / n), accuracy

    def _domains(self, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
        domains: dict[str, Any] = {}
        for name in self.splits.domains or ():
            domains[name] = {"seen": name not in self.unseen}
            for split in dict.fromkeys(("train", "test", *evaluations)):
                found = evaluations[split].domains.get(name) if split in evaluations else None
                domains[name][f"{split}_loss"] = _finite(found.loss) if found else None
                domains[name][f"{split}_accuracy"] = found.accuracy if found else None
        return domains


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None

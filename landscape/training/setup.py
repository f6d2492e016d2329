"""From a spec to the things of one training: data, model, loss, optimizer - and back from a run's record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base.errors import UsageError, argument
from ..base.plugins import Plugin, resolve
from ..data.changes import changed
from ..data.losses import LossFunction, as_loss
from ..data.splits import Splits, open_data
from ..models.build import build_model, default_model, facts_of
from ..optim.core.build import method_defaults
from ..registry import DATA, LOSSES, MODELS, OPTIMIZERS
from ..results.identity import ALGORITHMS
from ..results.provenance import origins
from ..runtime.random_state import seed_everything
from ..specs import TrainSpec, key_values

DEFAULT_BATCH = 64


VALIDATION = 0.2  # as DomainBed holds out


@dataclass
class TrainingInputs:
    """Data, model builder and loss, resolved once and shared by all runs of a call."""

    splits: Splits
    data: Plugin
    model: Plugin
    loss: Plugin
    model_arguments: dict[str, Any]
    facts: dict[str, Any]

    @property
    def loss_function(self) -> LossFunction:
        """The loss callable."""
        return as_loss(self.loss.call)

    def new_model(self, seed: int) -> nn.Module:
        """A network with the initial weights of ``seed`` (a user's callable decides its own)."""
        seed_everything(seed, "init")
        return build_model(self.model, self.model_arguments, self.facts)

    def record(self) -> dict[str, Any]:
        """What a run keeps to find all of it again."""
        return {
            "data": self.data.record,
            "model": self.model.record,
            "loss": self.loss.record,
            "facts": self.facts,
            "data_hash": {name: examples.fingerprint() for name, examples in self.splits.items()},
            "data_facts": dict(self.splits["train"].facts) or None,
        }

    def origins(self) -> dict[str, Any]:
        """Where code and data lay and what they were, to be compared with what is there later."""
        named = {"data": self.data, "model": self.model, "loss": self.loss}
        return {**origins(named), "algorithm": ALGORITHMS["training"]}


def open_inputs(spec: TrainSpec) -> TrainingInputs:
    """Resolve what the user named; everything is checked before any training starts.

    Raises:
        UsageError: If a name, an argument or a held-out domain is unknown.
        DataError: If the data cannot be understood.
    """
    data = resolve(spec.data, DATA)
    loss = resolve(spec.loss, LOSSES)
    splits = open_data(data, key_values(spec.data_arg, "data_arg"))
    splits.check_domains(spec.holdout, "`holdout=`")
    if splits.domains and not set(splits.domains) - set(splits.unseen(spec.holdout)):
        raise UsageError("every domain is held out", "`holdout=`", "leave at least one to train on")
    model = resolve(spec.model or default_model(splits["train"]), MODELS)
    arguments = key_values(spec.model_arg, "model_arg")
    return TrainingInputs(splits, data, model, loss, arguments, facts_of(splits["train"]))


def with_validation(spec: TrainSpec, splits: Splits) -> TrainSpec:
    """The spec of a single run that sets validation examples aside if it chooses by them and the data has none.

    Choosing by the test split would make of its numbers the best of several.

    Raises:
        UsageError: If examples are to be set aside and the data has a split val.
    """
    chooses = spec.average == "swad" or spec.select == "training-domain"
    if "val" in splits:
        if spec.validation is not None:
            raise UsageError("the data has a split val of its own", "`validation=`", "drop the flag")
        return spec
    return spec.with_(validation=VALIDATION) if chooses and spec.validation is None else spec


def method_settings(spec: TrainSpec) -> dict[str, Any]:
    """All parameters of the method of a single run, defaults filled in."""
    defaults = method_defaults(spec.optimizer[0])
    return {k: getattr(spec, k) if spec.given(k) else default for k, default in defaults.items()}


def training_size(spec: TrainSpec, splits: Splits) -> int:
    """How many examples a single run is trained on, after everything that is done to them."""
    found = changed(splits, with_validation(spec, splits).to_dict(), spec.holdout, spec.seed[0]).splits
    return len(seen_positions(found, "train", spec.holdout))


def seen_positions(splits: Splits, split: str, holdout: tuple[str, ...]) -> Any:
    """Positions in a split of the examples whose domain is trained on."""
    examples = splits[split]
    held = [examples.domain_names.index(n) for n in splits.unseen(holdout)]
    return np.flatnonzero(~np.isin(examples.domain, held))


def check_examples(spec: TrainSpec, splits: Splits) -> None:
    """Refuse a single run whose training examples cannot serve it.

    Raises:
        UsageError: If DISAM has no domains, the batch is larger than the training set, or a piece than the batch.
    """
    name = spec.optimizer[0]
    if OPTIMIZERS.load(name).needs_domains and not splits.domains:
        raise UsageError(
            f"{name.upper()} needs domains and the data has none",
            f"`optimizer={name!r}`",
            "use data with domains, or sam",
        )
    if spec.sampler == "balanced" and not splits.domains:
        raise UsageError("the data has no domains", "`sampler='balanced'`", "use mixed")
    n = training_size(spec, splits)
    if isinstance(spec.batch_size, int) and spec.batch_size > n:
        raise UsageError(
            f"batch_size={spec.batch_size} exceeds the {n} training examples", "`batch_size=`", "use full"
        )
    size = batch_size(spec, n)
    for name, value in (("m", spec.m), ("accumulate", spec.accumulate)):
        if value is not None and value > size:
            raise UsageError(f"{value} is more than the {size} examples of a batch", argument(name), "lower it")


def piece_size(spec: TrainSpec, batch: int) -> int | None:
    """Examples per piece of a batch (or of one process's part of it) of ``batch``; None where it stays whole."""
    return spec.m or (-(-batch // spec.accumulate) if spec.accumulate else None)


def batch_size(spec: TrainSpec, n: int) -> int:
    """Examples per step out of ``n``."""
    return n if spec.batch_size == "full" else spec.batch_size or min(DEFAULT_BATCH, n)


def torch_dtype(name: str) -> torch.dtype:
    """The torch type called ``float32`` or ``float64``."""
    return {"float32": torch.float32, "float64": torch.float64}[name]


def resolved_spec(spec: TrainSpec, ingredients: TrainingInputs) -> dict[str, Any]:
    """The spec of a single run with every default filled in and plug-ins by absolute path."""
    return {
        **spec.to_dict(),
        **method_settings(spec),
        "batch_size": spec.batch_size or batch_size(spec, training_size(spec, ingredients.splits)),
        "data": ingredients.data.name,
        "model": ingredients.model.name,
        "loss": ingredients.loss.name,
    }

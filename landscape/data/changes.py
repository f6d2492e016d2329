"""What an experiment does to its training examples: shifted or wrong labels, unequal domains, wrong domain labels.

Every change is a function of (data, specification, seed), so that an analysis finds the examples a run was
trained on again. The examples with their true labels and domains stay beside them as the split ``train_clean``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..base.errors import UsageError
from ..specs.changes import ratio, share
from .examples import Examples, Indices
from .splits import Splits
from .stores import DatasetStore, TensorStore

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Changes:
    """What was changed in the training examples.

    Attributes:
        splits: The data with ``train`` as it is trained on, and ``train_clean`` if labels or domains are wrong.
        record: What a run keeps: positions in the changed ``train``, true and given values, sizes.
    """

    splits: Splits
    record: dict[str, Any]


def changed(splits: Splits, spec: Mapping[str, Any], holdout: Sequence[str], seed: int) -> Changes:
    """Apply ``validation``, ``label_shift``, ``domain_ratio``, ``label_noise`` and ``domain_label_noise``, in order.

    Args:
        splits: The data as it is.
        spec: The fields of a `TrainSpec`.
        holdout: Domains that are not trained on; they stay as they are.
        seed: Seed of the choices.

    Raises:
        UsageError: If targets are no classes, the data has no domains, or the ratio has the wrong length.
    """
    train, record = splits["train"], dict[str, Any]()
    aside: dict[str, Examples] = {}
    if spec.get("validation") and "val" not in splits:
        train, aside["val"] = _set_aside(train, spec["validation"], holdout, seed)
        splits = _replaced(splits, {**splits, "train": train, **aside})
        record["validation_sizes"] = _sizes(aside["val"])
    if spec.get("label_shift"):
        train = _with_label_shift(train, spec["label_shift"], holdout, seed)
    if spec.get("domain_ratio"):
        train = _with_ratio(train, ratio(spec["domain_ratio"]), holdout, seed)
    if train is not splits["train"]:
        record["domain_sizes"] = _sizes(train)
    if spec.get("label_shift"):
        record["class_counts"] = _class_counts(train)
    noisy = train
    if spec.get("label_noise"):
        noisy, record["label_noise"] = _with_label_noise(noisy, spec["label_noise"], seed)
    for text in spec.get("domain_label_noise") or ():
        kind, part = share(text, "`domain_label_noise=`", ("wrong", "missing"))
        noisy, record[f"{kind}_domains"] = _with_domain_noise(noisy, kind, part, holdout, seed)
    if not record:
        return Changes(splits, {})
    made: dict[str, Examples] = {**splits, "train": noisy}
    if noisy is not train:
        made["train_clean"] = train
    return Changes(_replaced(splits, made), record)


def _replaced(splits: Splits, made: dict[str, Examples]) -> Splits:
    found = Splits(made)
    found.untrained = splits.untrained
    return found


def _set_aside(train: Examples, part: float, holdout: Sequence[str], seed: int) -> tuple[Examples, Examples]:
    """Training examples without, and with only, a share of each seen domain, of each class alike.

    Raises:
        UsageError: If no domain has two examples to divide.
    """
    chosen: list[Indices] = []
    for i in _seen(train, holdout):
        here = np.flatnonzero(train.domain == i)
        count = min(max(1, round(part * len(here))), len(here) - 1)
        chosen.append(here[train.select(here).stratified_order(seed)[:count]])
    val = np.sort(np.concatenate(chosen))
    if not len(val):
        raise UsageError("no training domain has two examples", "`validation=`", "choose without: `select='last'`")
    return train.select(np.setdiff1d(np.arange(len(train)), val)), train.select(val)


def _seen(train: Examples, holdout: Sequence[str]) -> list[int]:
    """The domains that are trained on."""
    return [i for i, name in enumerate(train.domain_names) if name not in holdout and (train.domain == i).any()]


def _with_label_shift(train: Examples, concentration: float, holdout: Sequence[str], seed: int) -> Examples:
    """The largest subset of each seen domain that has its own draw of class proportions."""
    labels = train.classes()
    if labels is None or not train.domains:
        what = "the targets are no classes" if labels is None else "the data has no domains"
        raise UsageError(what, "`label_shift=`", "drop the flag")
    seen = _seen(train, holdout)
    keep = [np.flatnonzero(~np.isin(train.domain, seen))]
    for i in seen:
        generator = np.random.default_rng([seed, 0x5417F, i])
        here = np.flatnonzero(train.domain == i)
        own = [here[labels[here] == c] for c in np.unique(labels[here])]
        proportions = generator.dirichlet([concentration] * len(own))
        size = min(len(rows) / p for rows, p in zip(own, proportions, strict=True) if p > 0)
        for rows, p in zip(own, proportions, strict=True):
            keep.append(generator.permutation(rows)[: round(p * size)])
    return train.select(np.sort(np.concatenate(keep)))


def _class_counts(examples: Examples) -> dict[str, dict[str, int]]:
    """How many examples of each class every domain has."""
    labels = examples.classes()
    assert labels is not None
    classes = np.unique(labels)
    return {
        name: {str(c): int((own == c).sum()) for c in classes}
        for i, name in enumerate(examples.domain_names)
        for own in [labels[examples.domain == i]]
    }


def _with_ratio(train: Examples, parts: tuple[float, ...], holdout: Sequence[str], seed: int) -> Examples:
    if not train.domains:
        raise UsageError("the data has no domains", "`domain_ratio=`", "drop the flag, or use data with domains")
    seen = _seen(train, holdout)
    if len(seen) != len(parts):
        names = ", ".join(train.domains[i] for i in seen)
        raise UsageError(
            f"{len(parts)} parts for {len(seen)} training domains", "`domain_ratio=`", f"give one for each of {names}"
        )
    counts = {i: int((train.domain == i).sum()) for i in seen}
    unit = min(counts[i] / part for i, part in zip(seen, parts, strict=True))
    keep = [np.flatnonzero(~np.isin(train.domain, seen))]
    for i, part in zip(seen, parts, strict=True):
        own = train.select(np.flatnonzero(train.domain == i))
        count = max(1, min(counts[i], round(part * unit)))
        chosen = own.stratified_order(seed)[:count]
        keep.append(np.flatnonzero(train.domain == i)[np.sort(chosen)])
    return train.select(np.sort(np.concatenate(keep)))


def _sizes(examples: Examples) -> dict[str, int]:
    return {name: int((examples.domain == i).sum()) for i, name in enumerate(examples.domain_names)}


def _with_label_noise(train: Examples, text: str, seed: int) -> tuple[Examples, dict[str, object]]:
    kind, part = share(text, "`label_noise=`", ("symmetric", "pair"))
    labels = train.classes()
    if labels is None:
        raise UsageError("the targets are no classes", "`label_noise=`", "drop the flag")
    generator = np.random.default_rng([seed, 0x1ABE1])
    classes = int(labels.max()) + 1
    places = np.sort(generator.permutation(len(train))[: round(part * len(train))])
    given = labels.copy()
    # Symmetric: one of the other classes, so that the share is the share of wrong labels.
    shift = generator.integers(1, classes, len(places)) if kind == "symmetric" and classes > 1 else 1
    given[places] = (labels[places] + shift) % classes
    record = {
        "kind": kind,
        "positions": places.tolist(),
        "true": labels[places].tolist(),
        "given": given[places].tolist(),
    }
    return _relabelled(train, given), record


def _relabelled(examples: Examples, labels: Indices) -> Examples:
    store = examples.store
    everything = np.array(store.labels)
    everything[examples.rows] = labels
    if isinstance(store, TensorStore):
        targets = torch.from_numpy(everything).to(store.targets).reshape(store.targets.shape)
        new: Any = TensorStore(store.inputs, targets, store.facts, store.places)
    else:
        assert isinstance(store, DatasetStore)
        new = DatasetStore([_Relabelled(store, everything)], store.where, store.places)
        new.facts = store.facts
    return Examples(new, examples.rows, examples.domain, examples.domains)


class _Relabelled:
    """The examples of a store with other labels, as a ``Dataset``."""

    def __init__(self, store: DatasetStore, labels: Indices) -> None:
        self.store, self.labels = store, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.store.one(row)[0], int(self.labels[row])


def _with_domain_noise(
    train: Examples, kind: str, part: float, holdout: Sequence[str], seed: int
) -> tuple[Examples, dict[str, object]]:
    if not train.domains:
        raise UsageError(
            "the data has no domains", "`domain_label_noise=`", "drop the flag, or use data with domains"
        )
    seen = _seen(train, holdout)
    pool = np.flatnonzero(np.isin(train.domain, seen))
    generator = np.random.default_rng([seed, 0xD0, len(kind)])
    places = np.sort(generator.permutation(pool)[: round(part * len(pool))])
    domain, domains = train.domain.copy(), train.domains
    if kind == "missing":
        domains = (*domains, UNKNOWN)
        domain[places] = len(domains) - 1
    elif len(seen) > 1:
        here = np.searchsorted(seen, domain[places])
        domain[places] = np.array(seen)[(here + generator.integers(1, len(seen), len(places))) % len(seen)]
    record = {
        "positions": places.tolist(),
        "true": [train.domains[i] for i in train.domain[places]],
        "given": [domains[i] for i in domain[places]],
    }
    return Examples(train.store, train.rows, domain, domains), record

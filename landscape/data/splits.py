"""From what a data callable returns to splits, ``{"train": Examples, "test": ...}``, on one list of domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..base.errors import DataError, UsageError
from ..base.names import unknown_name
from ..base.plugins import Plugin, call
from .examples import Examples, distinct_names

_MAPPING = '{"train": ..., "test": ...}, of which "train" is required'


class Splits(dict[str, Examples]):
    """Examples by split name; all splits share one list of domain names.

    Args:
        splits: A mapping from split names to a dataset, or to a mapping from domain names to datasets. One dataset
            alone is ``"train"``.
        where: What returned it, for messages.
        first: How many examples of each stream to read.
        ready_made: Whether data sets are ready-made batches for an objective.

    Attributes:
        domains: Names of the domains of all splits, None where there are none.
        untrained: Names of domains of which ``"train"`` has no example, so that no training can see them.

    Raises:
        DataError: If there is no ``"train"``, or something in it is no data set.
        UsageError: If something is a stream and ``first`` is not given.
    """

    def __init__(
        self, splits: object, where: str = "the data callable", first: int | None = None, *, ready_made: bool = False
    ) -> None:
        if splits is None or isinstance(splits, (str, bytes, int, float)):
            raise DataError(f"it returned {_a(splits)}", where, f"return a data set, or {_MAPPING}")
        if not isinstance(splits, Mapping):
            splits = {"train": splits}
        if "train" not in splits:
            raise DataError(f'there is no "train" split, only: {", ".join(map(str, splits))}', where, 'add "train"')
        names = distinct_names("split", splits, where)
        take = Examples.of_batches if ready_made else Examples.of
        made = {
            name: take(v, f"{where}, split {name!r}", first) for name, v in zip(names, splits.values(), strict=True)
        }
        named = [e for e in made.values() if e.domains]
        union = list(dict.fromkeys(n for e in made.values() for n in e.domain_names)) if named else None
        super().__init__({k: _on(e, tuple(union)) if union else e for k, e in made.items()})
        self.domains: tuple[str, ...] | None = tuple(union) if union else None
        # A split without domains says nothing of where its examples come from, so it is no domain of its own.
        divided = {n for e in named for n in e.domain_names}
        trained = {self["train"].domain_names[i] for i in np.unique(self["train"].domain)}
        self.untrained = tuple(n for n in self.domains or () if n in divided and n not in trained)

    def unseen(self, holdout: Sequence[str]) -> tuple[str, ...]:
        """The domains that a training without those of ``holdout`` does not see."""
        return tuple(n for n in self.domains or () if n in holdout or n in self.untrained)

    def split(self, name: str) -> Examples:
        """The split called ``name``.

        Raises:
            UsageError: If there is none; lists those that exist.
        """
        if name not in self:
            raise unknown_name("split", name, self, "`split=`")
        return self[name]

    def check_domains(self, names: tuple[str, ...], where: str) -> None:
        """Refuse names that are no domains of this data.

        Raises:
            UsageError: Naming ``where`` they were given.
        """
        for name in names:
            if not self.domains:
                raise UsageError("the data has no domains", where, "drop the flag, or use data with domains")
            if name not in self.domains:
                raise unknown_name("domain", name, self.domains, where)


def _a(found: object) -> str:
    return "None" if found is None else f"a {type(found).__name__}"


def _on(examples: Examples, names: tuple[str, ...]) -> Examples:
    places = np.array([names.index(n) for n in examples.domain_names])
    return Examples(examples.store, examples.rows, places[examples.domain], names)


def open_data(
    plugin: Plugin, arguments: Mapping[str, object], first: int | None = None, *, ready_made: bool = False
) -> Splits:
    """Call a data callable and understand what it returns; of streams the ``first`` examples are read."""
    return Splits(call(plugin, arguments), plugin.name, first, ready_made=ready_made)


def holdout_split(n: int, fraction: float, seed: int, domain: int) -> tuple[object, object]:
    """Seeded split of ``n`` examples of one domain: the first ``int(fraction * n)`` of a shuffle are held out.

    Returns:
        Positions that are kept and positions that are held out.
    """
    order = np.random.default_rng([seed, domain]).permutation(n)
    held = int(fraction * n)
    return np.sort(order[held:]), np.sort(order[:held])

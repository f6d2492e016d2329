"""Products that are stored as they are made: a run that was killed goes on where it was, to the same numbers.

Everything that this room computes follows from the products with the operator, and each vector to multiply follows
from the products before it. So the products are the whole state of a run: with them at hand its own arithmetic is
repeated in a moment, whatever the run is for, and ends with the same bits as one that was never stopped. A run with
another budget, tolerance or number of pairs begins with the same products, and finds them, too.

A product is stored with a sample of the vector that it belongs to, and is used for no other vector. Files are
written whole or not at all, in the pauses that long computations leave: never more than a twentieth of the time.

Of several processes each stores its part of every product, in a folder of its own: its pieces where vectors are
spread over them, else its stretch. A product is there if all have their parts of it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...base.errors import Interrupted, LandscapeError, ResourceError
from ...base.files import make_folder, remove_stale_temporaries, stable_hash
from ...problem.by_differences.differences import Differences, Measured
from ...problem.problem import Problem
from ...results.identity import ALGORITHMS, bits
from ...runtime.devices import wide
from ...runtime.distributed import (
    all_gather_bytes,
    any_process,
    is_distributed,
    rank_and_world_size,
    reduce_everywhere_,
    shard,
)
from ...sharding.vectors import Sharded, own_part
from ...weights.weights import save_tensors
from ..operators import Operator

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_WRITES = 5.0
_LARGEST_SHARE = 20  # a write may take a twentieth of the time since the last one
_WAITING_BYTES = 2**28
_SHARE_OF_DISK = 0.1
_SAMPLE = 64  # entries of a vector that tell it from any other


def journal_name(problem: Problem, kind: str, label_samples: int, seed: int) -> str:
    """The folder's name, made of everything that decides the bits of the products."""
    several = [rank_and_world_size()[1]] if is_distributed() else []  # whose sums round otherwise
    key = stable_hash([ALGORITHMS["hessian"], bits(problem), kind, label_samples, seed, *several])
    return f"hessian-{key[:16]}.products"


class Journal:
    """The stored products of one computation.

    Args:
        folder: Where they are; it is made when the first are written. None: nothing is stored.
        alone: This process computes by itself, whatever others do. Else all that compute together have a journal.
    """

    def __init__(self, folder: Path | None, *, alone: bool = False) -> None:
        rank, world = rank_and_world_size()
        self.folder = folder / f"process-{rank + 1}-of-{world}" if folder and world > 1 else folder
        self._several = world > 1 and not alone
        self.found = 0
        self._where: dict[str, Path] = {}
        self._waiting: dict[str, Tensor] = {}
        self._written = time.monotonic()
        self._pause = _SECONDS_BETWEEN_WRITES
        if self.folder is not None and self.folder.is_dir():
            remove_stale_temporaries(self.folder)
            self._read(self.folder)
        self._common = self._of_all() if folder is not None and self._several else set()

    def of(self, operator: Operator, part: str) -> Operator:
        """The operator with its products stored; ``part`` says which of the computation's operators it is."""
        return operator if self.folder is None else _Recorded(operator, self, part)

    def take(self, name: str, vector: Tensor) -> Tensor | None:
        """The stored product of that name with that vector, if there is one; all processes ask for the same."""
        if not self._several:
            product = self._own(name, vector)
        else:
            own = self._own(name, vector) if name in self._common else None
            if name not in self._common or any_process(own is None):
                return None
            assert own is not None
            product = _together(own, vector)
        if product is None:
            return None
        if not self.found:
            log.info("going on with the products stored in %s", self.folder)
        self.found += 1
        return product

    def _of_all(self) -> set[str]:
        """Names of the products of which every process has its part."""
        names = json.dumps(sorted(self._where)).encode()
        return set.intersection(*(set(json.loads(found)) for found in all_gather_bytes(names)))

    def _own(self, name: str, vector: Tensor) -> Tensor | None:
        """This process's part of a product."""
        path = self._where.get(name)
        if path is None:
            return None
        try:
            with safe_open(path, framework="pt") as file:
                sample: Tensor = file.get_tensor(f"{name} of")
                product: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            log.warning("the stored products %s are damaged (%s) and are made again", path, error)
            self._where = {k: p for k, p in self._where.items() if p != path}
            return None
        return product if torch.equal(sample, _sample(vector).cpu()) else None

    def keep(self, name: str, vector: Tensor, product: Tensor) -> None:
        """Remember a product; write what has gathered once that takes little of the time."""
        self._waiting[name] = _part(product)
        self._waiting[f"{name} of"] = _sample(vector)
        since = time.monotonic() - self._written
        if since >= self._pause or sum(t.nbytes for t in self._waiting.values()) > _WAITING_BYTES:
            self.write()

    def write(self) -> None:
        """Write what has gathered; without room on the disk the computation goes on without."""
        if not self._waiting or self.folder is None:
            return
        waiting, self._waiting = self._waiting, {}
        started = time.monotonic()
        # Much faster than the disk: made again as fast as read.
        fast = started - self._written < _SECONDS_BETWEEN_WRITES
        size = sum(t.nbytes for t in waiting.values())
        if not fast and size <= _SHARE_OF_DISK * _free_bytes(self.folder):
            path = self.folder / f"products-{os.getpid()}-{time.time_ns()}.safetensors"
            try:
                save_tensors(path, waiting)
                self._where |= dict.fromkeys((k for k in waiting if not k.endswith(" of")), path)
            except ResourceError as error:
                log.warning("products are not stored: %s", error)
        self._written = time.monotonic()
        self._pause = max(_SECONDS_BETWEEN_WRITES, _LARGEST_SHARE * (self._written - started))

    def discard(self) -> None:
        """Delete the folder: the result is stored."""
        self._waiting = {}
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Ctrl-C inside becomes the message that the run can be continued, after everything has been written.

        Raises:
            Interrupted: By Ctrl-C, if products are stored.
        """
        try:
            yield
        except KeyboardInterrupt:
            self._written = 0.0
            self.write()
            if not self._where:
                raise
            fix = "run the same command again, it makes only the others"
            raise Interrupted(f"stopped with {len(self._where)} products stored", str(self.folder), fix) from None
        except LandscapeError:
            self.write()
            raise

    def _read(self, folder: Path) -> None:
        for path in sorted(folder.glob("products-*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    self._where |= dict.fromkeys((k for k in file.keys() if not k.endswith(" of")), path)  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                log.warning("the stored products %s are damaged (%s) and are made again", path, error)


class _Recorded(Operator):
    """An operator whose products come from a journal where they stand in it, and go there where they do not."""

    def __init__(self, inner: Operator, journal: Journal, part: str) -> None:
        super().__init__(inner.n, inner.device, inner.dtype)
        self.inner, self.journal, self.part = inner, journal, part
        self.prepared = False

    def product(self, vector: Tensor) -> Tensor:
        """The stored product, or a new one."""
        name = f"{self.part} {self.count}"
        stored = self.journal.take(name, vector)
        if stored is not None:
            if not self.prepared:
                self.inner.prepare(vector)
                self.prepared = True
            return stored.to(self.device)
        product, self.prepared = self.inner.product(vector), True
        self.journal.keep(name, vector, product)
        return product

    def measure(self, vector: Tensor) -> Measured | None:
        """By the inner operator; not stored."""
        return self.inner.measure(vector)

    @property
    def differences(self) -> Differences | None:
        """The inner operator's."""
        return self.inner.differences

    def close(self) -> None:
        """Let go of what the inner operator holds."""
        self.inner.close()

    def facts(self) -> dict[str, Any]:
        """The inner operator's."""
        return self.inner.facts()


def _part(vector: Tensor) -> Tensor:
    """What this process stores of a vector ``(n,)``."""
    if isinstance(vector, Sharded):
        return vector.own
    return vector[shard(len(vector))].clone() if is_distributed() else vector


def _together(own: Tensor, like: Tensor) -> Tensor:
    """The vector of which this process has stored ``own``."""
    if isinstance(like, Sharded):
        return Sharded(own.to(like.device), like.lay)
    if not is_distributed():
        return own
    whole = torch.zeros(len(like), dtype=own.dtype)
    whole[shard(len(like))] = own
    reduce_everywhere_(whole)
    return whole


def _sample(vector: Tensor) -> Tensor:
    """Some entries of a vector and its sum, float64; of one that is spread of this process's part. Not waited for."""
    vector = own_part(vector)
    n = len(vector)
    places = torch.arange(0, n, max(1, n // _SAMPLE), device=vector.device)
    return torch.cat([wide(vector[places]), wide(vector).sum().reshape(1)])


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(make_folder(folder)).free

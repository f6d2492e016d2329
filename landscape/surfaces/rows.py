"""Rows of a surface that are stored as they finish: killed at any time, only what is missing is computed again.

Finished rows wait at most two seconds in memory; then they are written, whole or not at all, into a part file
of their own, so that several processes can fill one folder. Whether a row is done says the file, never a value:
NaN is a legal loss.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import Interrupted, LandscapeError, ResourceError
from ..files import atomic_path, make_folder, read_json, stable_hash, write_json
from ..progress import report
from ..weights import tensors_hash
from .directions import Direction, named_tensors
from .walker import Walker

log = logging.getLogger(__name__)
T = TypeVar("T")

_SECONDS_BETWEEN_WRITES = 2.0
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_WAIT = 120.0


def conditions(walker: Walker, axes: Sequence[Direction], more: Sequence[Any]) -> dict[str, Any]:
    """Everything that decides the bits of a row: rows stored under other conditions are never mixed with new ones."""
    problem = walker.problem
    facts = problem.describe()
    names = ("weights_hash", "data_hash", "loss_function", "device", "dtype", "micro_batch", "threads", "torch")
    return {
        **{k: facts[k] for k in names},
        "policy": walker.policy,
        "other data": [p.data_hash if p else None for p in (walker.test, walker.training)],
        "directions": tensors_hash(named_tensors(problem, axes)),
        "more": list(more),
    }


def process_place() -> tuple[int, int]:
    """Rank and number of processes, as ``torchrun`` says them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def discard(folder: Path) -> None:
    """Delete stored rows: the result that they were for is stored. The first process waits for the others."""
    rank, world = process_place()
    if rank:
        if folder.is_dir():
            (folder / f"finished-{rank}").touch()
        return
    end = time.monotonic() + 10
    while time.monotonic() < end and len(list(folder.glob("finished-*"))) < world - 1:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    shutil.rmtree(folder, ignore_errors=True)


class Rows:
    """Rows by name, computed once.

    Args:
        folder: Where they are stored; None: in memory only.
        conditions: Everything that decides their bits; rows stored under other conditions are dropped.
    """

    def __init__(self, folder: Path | None = None, conditions: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.rank, self.world = process_place() if folder else (0, 1)
        self.computed = 0
        self._done: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self._read: set[str] = set()
        self._written = time.monotonic()
        if folder is not None:
            self._open(folder, stable_hash(conditions or {}))

    def __len__(self) -> int:
        return len(self._done)

    @property
    def stored(self) -> int:
        """How many rows were there already, or came from other processes."""
        return len(self._done) - self.computed

    def compute(self, task: str, names: list[str], row: Callable[[int], Any]) -> list[Any]:
        """All rows called ``names``; ``row(i)`` makes the array of one that is missing.

        With several processes each takes its share first, and then helps out from the end.
        """
        own = [i for i in range(len(names)) if i % self.world == self.rank]
        others = [i for i in reversed(range(len(names))) if i % self.world != self.rank]
        try:
            self._look()
            for i in (*own, *others):
                if i % self.world != self.rank and names[i] not in self._done:
                    self._write(everything=True)
                    self._look()
                if names[i] not in self._done:
                    self._done[names[i]] = self._pending[names[i]] = row(i)
                    self.computed += 1
                    self._write()
                report(task, sum(n in self._done for n in names), len(names))
        finally:  # also when stopped by Ctrl-C or an error
            self._write(everything=True)
        return [self._done[n] for n in names]

    def until_interrupted(self, work: Callable[[], T]) -> T:
        """Do ``work``; where rows are stored, Ctrl-C becomes the message that it can be continued.

        Raises:
            Interrupted: By Ctrl-C, if there is a folder.
        """
        try:
            return work()
        except KeyboardInterrupt:
            if self.folder is None:
                raise
            fix = "run the same command again, it computes only the rest"
            raise Interrupted(f"stopped with {len(self)} rows stored", str(self.folder), fix) from None

    # -- files ---------------------------------------------------------------------------------------------------

    def _open(self, folder: Path, conditions: str) -> None:
        """Make the folder one of these conditions; only the first process drops what belongs to others."""
        manifest = folder / "conditions.json"

        def known() -> Any:
            try:
                return read_json(manifest) if manifest.is_file() else None
            except LandscapeError:
                return ""

        if self.rank == 0:
            if known() not in (None, conditions):
                log.warning("rows stored in %s were computed under other conditions and are dropped", folder)
                shutil.rmtree(folder, ignore_errors=True)
            if known() is None:
                make_folder(folder)
                write_json(manifest, conditions)
        end = time.monotonic() + _SECONDS_TO_WAIT
        while known() != conditions:
            if time.monotonic() > end:
                what = "the first process does not compute the same rows"
                raise ResourceError(what, str(folder), "start all processes with the same arguments")
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self._look()
        if self._done:
            log.info("going on after %d stored rows in %s", len(self._done), folder)

    def _look(self) -> None:
        """Read the part files that appeared since the last look."""
        if self.folder is None:
            return
        for part in sorted(self.folder.glob("rows-*.npz")):
            if part.name in self._read:
                continue
            self._read.add(part.name)
            try:
                with open(part, "rb") as handle, np.load(handle, allow_pickle=False) as rows:
                    for name in rows.files:
                        self._done.setdefault(name, rows[name])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                log.warning("the stored rows %s are damaged (%s) and are computed again", part, error)

    def _write(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        due = everything or now - self._written >= _SECONDS_BETWEEN_WRITES
        if self.folder is None or not self._pending or not due:
            return
        part = self.folder / f"rows-{self.rank}-{os.getpid()}-{time.time_ns()}.npz"
        with atomic_path(part) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **self._pending)
        self._read.add(part.name)
        self._pending, self._written = {}, now

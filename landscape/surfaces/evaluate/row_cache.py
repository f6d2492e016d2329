"""Rows of a surface that are stored as they finish: killed at any time, only what is missing is computed again.

Finished rows wait at most two seconds in memory; then they are written, whole or not at all, into a part file
of their own. Whether a row is done says the file, never a value: NaN is a legal loss. Several processes share the
rows out, each writes its own, and at the end they give them to each other.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...base.errors import Interrupted, LandscapeError
from ...base.files import atomic_path, make_folder, read_json, stable_hash, write_json
from ...base.progress import report
from ...problem.evaluation import QUANTITIES
from ...results.identity import ALGORITHMS, bits
from ...runtime.distributed import all_gather_bytes, barrier, is_main_process, rank_and_world_size, run_on_main
from ...sharding.parts import WholeTensors
from ...weights.weights import tensors_hash
from ..directions.direction import Direction, named_tensors
from .evaluator import Evaluator

log = logging.getLogger(__name__)
T = TypeVar("T")

_SECONDS_BETWEEN_WRITES = 2.0


def cache_key(walker: Evaluator, axes: Sequence[Direction], more: Sequence[Any]) -> dict[str, Any]:
    """Everything that decides the bits of a row: rows stored under other conditions are never mixed with new ones."""
    problem = walker.problem
    return {
        "algorithm": ALGORITHMS["surface"],
        **bits(problem),
        "quantities": QUANTITIES,
        "policy": walker.policy,
        "other data": [p.data_hash if p else None for p in (walker.test, walker.training)],
        "directions": tensors_hash(WholeTensors(named_tensors(problem, axes))),
        "more": list(more),
    }


class RowCache:
    """Rows by name, computed once.

    Args:
        folder: Where they are stored; None: in memory only.
        conditions: Everything that decides their bits; rows stored under other conditions are dropped.
        together: All processes compute every row together, and the first one stores it.
    """

    def __init__(
        self, folder: Path | None = None, conditions: Mapping[str, Any] | None = None, *, together: bool = False
    ) -> None:
        self.folder, self.together = folder, together
        self.rank, self.world = rank_and_world_size()
        self.computed = 0
        self._done: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self._written = time.monotonic()
        if folder is not None:
            self._open(folder, stable_hash(conditions or {}))

    def __len__(self) -> int:
        return len(self._done)

    @property
    def stored(self) -> int:
        """How many rows were there already, or came from other processes."""
        return len(self._done) - self.computed

    def compute(
        self, task: str, names: list[str], made: Callable[[list[int]], Sequence[Any]], at_once: int = 1
    ) -> list[Any]:
        """All rows called ``names``; ``made`` gives the arrays of ``at_once`` neighbours, by their places.

        Which rows are neighbours depends on nothing that is stored and on no number of processes, since a row's bits
        may depend on its neighbours: where one is missing, all are made. Several processes share the groups out.
        """
        groups = [list(range(i, min(i + at_once, len(names)))) for i in range(0, len(names), at_once)]
        wanted = run_on_main(lambda: [g for g in groups if any(names[i] not in self._done for i in g)])
        own_groups = wanted if self.together else wanted[self.rank :: self.world]
        missing, own = ([i for g in some for i in g] for some in (wanted, own_groups))
        known = len(names) - len(missing)
        report(task, known, len(names))
        try:
            for k, few in enumerate(own_groups):
                if self.together or any(names[i] not in self._done for i in few):
                    for i, row in zip(few, made(few), strict=True):
                        self._done[names[i]] = self._pending[names[i]] = row
                        self.computed += 1
                    self._write()
                report(task, min(known + (k + 1) * at_once * self.world, len(names)), len(names))
        finally:  # also when stopped by Ctrl-C or an error
            self._write(everything=True)
        mine = set(range(len(names))) - set(missing) | set(own) if is_main_process() else own
        if self.together and not is_main_process():
            mine = []
        self._exchange([names[i] for i in mine])
        return [self._done[n] for n in names]

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """A choice that the bits of rows depend on: made once for all processes, and stored beside the rows."""
        file = None if self.folder is None else self.folder / f"{name}.json"

        def ask() -> Any:
            if file is not None and file.is_file():
                return read_json(file)
            found = make()
            if file is not None:
                write_json(file, found)
            return found

        return run_on_main(ask)

    def _exchange(self, mine: Iterable[str]) -> None:
        """Give rows to the other processes, and take theirs."""
        if self.world == 1:
            return
        parcel = io.BytesIO()
        np.savez(parcel, **{name: self._done[name] for name in mine})
        for other in all_gather_bytes(parcel.getvalue()):
            self._take(io.BytesIO(other))

    def _take(self, source: Any) -> None:
        with np.load(source, allow_pickle=False) as rows:
            for name in rows.files:
                self._done.setdefault(name, rows[name])

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
        """Make the folder one of these conditions, without rows that belong to others."""
        manifest = folder / "conditions.json"

        def known() -> Any:
            try:
                return read_json(manifest) if manifest.is_file() else None
            except LandscapeError:
                return ""

        if is_main_process():
            if known() not in (None, conditions):
                log.warning("rows stored in %s were computed under other conditions and are dropped", folder)
                shutil.rmtree(folder, ignore_errors=True)
            if known() is None:
                make_folder(folder)
                write_json(manifest, conditions)
        barrier()
        self._look()
        if self._done:
            log.info("going on after %d stored rows in %s", len(self._done), folder)

    def _look(self) -> None:
        """Read the part files."""
        assert self.folder is not None
        for part in sorted(self.folder.glob("rows-*.npz")):
            try:
                with open(part, "rb") as handle:
                    self._take(handle)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                log.warning("the stored rows %s are damaged (%s) and are computed again", part, error)

    def _write(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        due = everything or now - self._written >= _SECONDS_BETWEEN_WRITES
        if self.folder is None or not self._pending or not due:
            return
        if self.together and not is_main_process():
            self._pending = {}
            return
        part = self.folder / f"rows-{self.rank}-{os.getpid()}-{time.time_ns()}.npz"
        with atomic_path(part) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **self._pending)
        self._pending, self._written = {}, now

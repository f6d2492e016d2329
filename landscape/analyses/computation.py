"""One way for a number: found again by its identity, else computed, said whose it is, and stored.

Every analysis of one target or of several is a `Computation`. What a kind needs beside its problem and its spec is
said in `landscape.analyses.prepare` and `landscape.analyses.joint`; all that follows is here.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import LandscapeError
from ..base.files import make_folder, remove_stale_temporaries
from ..curvature.hessian import NotConverged
from ..problem.problem import Problem
from ..results.identity import identity, key
from ..results.provenance import weights_state
from ..results.result import Result
from ..results.target import Target
from ..runtime.distributed import barrier, broadcast, is_main_process, run_on_main
from ..runtime.random_state import preserved_random_state
from ..specs import ProblemSpec, Spec

log = logging.getLogger(__name__)

_COMMON = Path("landscape-results")
_KINDS = {"domains": ("domains", "domain-curves")}  # what an analysis may give; else its own name
Record = dict[str, Any]


@dataclass(frozen=True)
class Computation:
    """What a number depends on, and how it comes about.

    Attributes:
        kind: Of the result.
        targets: What was pointed at; the first one's examples and loss are those of the problem.
        problem: Network, loss and examples.
        problem_spec: What was asked of them.
        spec: What is computed.
        compute: From the folder of what is unfinished to the result.
        others: What decides the numbers beside problem and specs: other examples, contents of files.
        unfinished: Name of the folder in which finished parts wait; None: after the result's own file.
        placed: From the result's record and the run's facts to what else its place says.
    """

    kind: str
    targets: Sequence[Target]
    problem: Problem
    problem_spec: ProblemSpec
    spec: Spec
    compute: Callable[[Path], Result]
    others: Sequence[object] = ()
    unfinished: str | None = None
    placed: Callable[[Record, Mapping[str, object] | None], Record] = lambda _record, _run: {}

    def result(self, folder: Path, *, force: bool = False) -> Result:
        """The stored result of equal identity in a folder, or a computed one, stored there.

        Raises:
            NotConverged: With what there is, which is kept under another name.
        """
        found = identity(self.kind, self.problem, self.spec, self.problem_spec, self.others)
        # Code of users may know its rank and so be another one in every process: the first one's names count.
        path = folder / broadcast(f"{self.kind}-{key(self.kind, found)}.nc")
        if not force and run_on_main(lambda: is_stored(path, self.kind, found)):
            log.info("stored result, same weights, network, data and options: %s", path)
            return self._place(Result.load(path))
        made = {"identity": found, "origins": self._origins()}
        store = folder / broadcast(self.unfinished) if self.unfinished else path.with_suffix(".rows")
        try:
            with preserved_random_state():
                result = self.compute(store)
        except NotConverged as error:
            self._place(error.result).record |= made
            _keep(error.result, path.with_suffix(".partial.nc"))  # never taken for a whole result
            raise
        self._place(result).record |= made
        _keep(result, path)
        _discard(store)
        return result

    def _place(self, result: Result) -> Result:
        """Say whose result it is; equal weights in two places share nothing but the numbers."""
        run = self.targets[0].facts()
        result.record |= {
            "target": str(self.targets[0].checkpoint),
            "run": run,
            "split": self.problem_spec.split,
            "problem_spec": self.problem_spec.to_dict(),
        }
        result.record |= self.placed(result.record, run)
        return result

    def _origins(self) -> dict[str, object] | None:
        """What can be looked at again without running anything, with the weights of all targets."""
        if self.problem.origins is None or len(self.targets) == 1:
            return self.problem.origins
        files = dict.fromkeys(t.checkpoint for t in self.targets)
        return {**self.problem.origins, "weights": [[str(file), weights_state(file)] for file in files]}


def results_folder(targets: Sequence[Target], out: Path | str | None) -> Path:
    """Where results of these targets belong: beside the only run there is, else in a folder here; made."""
    homes = {t.results for t in targets}
    folder = make_folder(Path(out).absolute() if out else homes.pop() if len(homes) == 1 else _COMMON.absolute())
    remove_stale_temporaries(folder)
    return folder


def is_stored(path: Path, kind: str, found: Mapping[str, object]) -> bool:
    """Whether the result of this identity is there and whole; of several processes the first one looks.

    A file that was renamed or put there by somebody holds another identity than its name says.
    """
    if not path.exists():
        return False
    try:
        stored = Result.load(path)
    except LandscapeError:
        log.warning("the stored result %s is damaged and is computed again", path)
        return False
    if stored.kind not in _KINDS.get(kind, (kind,)) or key(kind, stored.record.get("identity") or {}) != key(
        kind, found
    ):
        log.warning("the stored result %s is that of another computation; this one is computed again", path)
        return False
    return True


def _keep(result: Result, path: Path) -> None:
    """Store a result; of several processes, which all have it, the first one writes and the others wait."""
    if is_main_process() or result.spread:
        result.save(path)
    barrier()
    result.path = path


def _discard(folder: Path) -> None:
    """Delete finished parts: the result that they were for is stored."""
    barrier()
    if is_main_process():
        shutil.rmtree(folder, ignore_errors=True)

"""`Run`: a training's folder, which can be killed at any instant and continued.

RUN/run.json          the resolved spec, versions, status
RUN/metrics.jsonl     one JSON object per logged step
RUN/checkpoints/      step-NNNNNNNN.safetensors, weights and buffers
RUN/state/resume.pt   everything that bit-exact continuation needs, one file, replaced atomically
RUN/results/          stored analyses
RUN/figures/
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.errors import DataError, UsageError
from ..base.files import folder_lock, make_folder, read_json, remove_stale_temporaries, write_bytes, write_json
from ..runtime.distributed import is_main_process
from ..storage.record_form import FolderRecord
from ..storage.stored_form import require_fields

_STEP = re.compile(r"step-(\d+)\.safetensors")


def step_of(checkpoint: Path) -> int | None:
    """The training step that a checkpoint's file name says; None where it is no name of ours."""
    match = _STEP.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


class Run:
    """A run folder. Reading needs no lock; writing happens inside `writing`.

    Example:
        >>> import tempfile, landscape
        >>> folder = tempfile.mkdtemp()
        >>> [run] = landscape.train(folder, data="gaussian-domains", model="mlp", steps=5, optimizer=("sam",))
        >>> again = landscape.Run(run.path)
        >>> sorted(again.checkpoints())
        [5]
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    # -- reading ---------------------------------------------------------------------------------------------

    @staticmethod
    def is_run(path: Path | str) -> bool:
        """Whether ``path`` is a run folder."""
        return (Path(path) / "run.json").is_file()

    @property
    def record(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            UsageError: If this is no run folder.
            DataError: If the file is damaged.
        """
        file = self.path / "run.json"
        if not file.is_file():
            raise UsageError(
                "this folder is no run (it has no run.json)",
                str(self.path),
                "name a run or a checkpoint file",
            )
        record = read_json(file)
        try:
            require_fields("run.json does not describe a run", record, FolderRecord)
        except ValueError as error:
            raise DataError(str(error), str(file), "restore it, or train anew") from None
        return dict(record)

    @property
    def spec(self) -> dict[str, Any]:
        """The resolved training spec."""
        spec: dict[str, Any] = self.record["spec"]
        return spec

    def checkpoints(self) -> dict[int, Path]:
        """Checkpoint files by step, ascending."""
        found = {}
        for path in (self.path / "checkpoints").glob("step-*.safetensors"):
            step = step_of(path)
            if step is not None:
                found[step] = path
        return dict(sorted(found.items()))

    def checkpoint(self, which: str = "") -> Path:
        """The checkpoint file named by ``""`` (the last), ``"best"``, ``"selected"`` or ``"step=N"``.

        Raises:
            UsageError: If there is none; lists the steps that exist.
        """
        found = self.checkpoints()
        if not found:
            raise UsageError(
                "the run has no checkpoint yet",
                str(self.path),
                "let it go on with `landscape train --resume`",
            )
        if not which:
            return found[max(found)]
        if which == "best":
            return found[self._best_step(found)]
        if which == "selected":
            return found[self._selected_step(found)]
        match = re.fullmatch(r"step=(\d+)", which)
        if match and int(match[1]) in found:
            return found[int(match[1])]
        steps = ", ".join(f"step={s}" for s in list(found)[-10:])
        raise UsageError(f"there is no checkpoint {which!r}", str(self.path), f"there is: best, {steps}")

    def _best_step(self, found: Mapping[int, Path]) -> int:
        """The checkpoint with the lowest held-in loss (validation split, else test split) of the seen domains."""
        scores: dict[int, float] = {}
        for line in self.metrics():
            step, evaluation = line.get("step"), line.get("evaluation")
            if not isinstance(evaluation, dict) or not isinstance(step, int) or step not in found:
                continue
            score = evaluation.get("val_loss", evaluation.get("test_loss"))
            if isinstance(score, (int, float)):
                scores[step] = score
        if not scores:
            raise UsageError("no checkpoint has a validation or test loss", str(self.path), "name a step, RUN@step=N")
        return min(scores, key=lambda s: (scores[s], s))

    def _selected_step(self, found: Mapping[int, Path]) -> int:
        """The checkpoint that the run's ``select`` rule chose."""
        selected = self.record.get("selected")
        step = selected.get("step") if isinstance(selected, dict) else None
        if not isinstance(step, int) or step not in found:
            raise UsageError("nothing was selected", str(self.path), "train with `select=`, or name a step")
        return step

    def metrics(self) -> list[dict[str, Any]]:
        """The logged lines; a last line that a kill cut short is left out."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        lines = []
        for text in file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            if isinstance(line, dict):
                lines.append(line)
        return lines

    # -- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer; what a dead writer left unfinished is removed first.

        Of several processes that train together the first one writes; `writing`, `start`, `update` and
        `keep_metrics_until` do nothing in the others.

        Raises:
            UsageError: If another process writes here, or the path cannot be a folder.
        """
        if not is_main_process():
            yield
            return
        with folder_lock(self.path):
            for folder in (self.path / "checkpoints", self.path / "state"):
                remove_stale_temporaries(folder)
            yield

    def require_free(self, fix: str) -> None:
        """Refuse a folder in which something else lies; hidden files do not count.

        Raises:
            UsageError: With ``fix``, if there are any files.
        """
        if self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            raise UsageError("the folder holds other files", str(self.path), fix)

    def start(self, record: Mapping[str, object]) -> None:
        """Write ``run.json`` and empty the run of anything older."""
        if not is_main_process():
            return
        for name in ("checkpoints", "state", "results", "figures"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / "metrics.jsonl").unlink(missing_ok=True)
        make_folder(self.path / "checkpoints")
        write_json(self.path / "run.json", record)

    def update(self, **changes: object) -> None:
        """Change fields of ``run.json``."""
        if is_main_process():
            write_json(self.path / "run.json", {**self.record, **changes})

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` belongs."""
        return self.path / "checkpoints" / f"step-{step:08d}.safetensors"

    @property
    def state_path(self) -> Path:
        """Where the resume state belongs."""
        return self.path / "state" / "resume.pt"

    def keep_checkpoints_until(self, step: int) -> None:
        """Delete checkpoints after ``step``: they are about to be made again."""
        for late, path in self.checkpoints().items():
            if late > step and is_main_process():
                path.unlink()

    def keep_metrics_until(self, step: int) -> None:
        """Drop logged lines after ``step``: they are about to be made again."""
        if not is_main_process():
            return
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.metrics() if line.get("step", 0) <= step]
        write_bytes(self.path / "metrics.jsonl", "".join(lines).encode())

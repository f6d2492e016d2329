"""How far one command goes: the files that ``landscape hessian`` runs through, and how deep it stands in them.

What is wanted are fewer than 45 files and 20 frames. The bounds are what holds today
(114 and 35, and 177 with those that are imported only) and a little; they go down with the numbers.
``python tests/cli/test_walk.py RUN`` prints the walk.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import landscape_cli

import landscape

FILES, IMPORTED, FRAMES = 115, 179, 36
OWN = tuple(f"{Path(package.__file__).parent}/" for package in (landscape, landscape_cli))
_FUNCTION = 1  # CO_OPTIMIZED: a function's code, not that of a module or a class


class Walk:
    """What is noted of the functions that are called: their files, and the longest row of own ones."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.imported: set[str] = set()
        self.deepest: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(OWN):
            return
        if not code.co_flags & _FUNCTION:
            self.imported |= {code.co_filename} if code.co_name == "<module>" else set()
            return
        self.files.add(code.co_filename)
        row = list(own_frames(frame))
        if len(row) > len(self.deepest):
            self.deepest = [f"{Path(c.co_filename).name}: {c.co_name}" for c in reversed(row)]


def own_frames(frame: FrameType | None) -> Any:
    """The code of the own functions in which a call stands, the innermost first."""
    while frame is not None:
        code: CodeType = frame.f_code
        if code.co_flags & _FUNCTION and code.co_filename.startswith(OWN):
            yield code
        frame = frame.f_back


def walk(run: str) -> Walk:
    """The walk of a Hessian that is computed, in a process that has imported nothing of it."""
    from landscape_cli.app import main

    found = Walk()
    sys.setprofile(found)
    try:
        assert main(["hessian", run, "--top", "2", "--force", "--json"]) == 0
    finally:
        sys.setprofile(None)
    return found


def test_one_hessian_runs_through_few_files(tmp_path: Path):
    [run] = landscape.train(tmp_path, data="gaussian-domains", model="mlp", steps=2)
    done = subprocess.run(
        [sys.executable, __file__, str(run.path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    files, imported, frames = map(int, done.stdout.splitlines()[-1].split())
    assert files <= FILES, done.stdout
    assert imported <= IMPORTED, done.stdout
    assert 8 < frames <= FRAMES, done.stdout


if __name__ == "__main__":
    found = walk(sys.argv[1])
    print(*sorted(found.files), *found.deepest, sep="\n")
    print(len(found.files), len(found.files | found.imported), len(found.deepest))

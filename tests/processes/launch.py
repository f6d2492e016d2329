"""Starting real processes with torchrun, as a user does: gloo on this machine, at a port that is free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT = 600  # seconds; a job that hangs is a failure, not a hung suite
ENTRANCE = [sys.executable, "-c", "import sys; from landscape_cli.app import main; sys.exit(main())"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The caller's environment without what another launcher left there."""
    launchers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {
        **{k: v for k, v in os.environ.items() if k not in launchers},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]),
        "XDG_STATE_HOME": str(folder / "state"),
        **more,
    }


def start(*words: object, processes: int = 2, folder: Path, **more: str) -> subprocess.Popen[str]:
    """Start a program in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, *map(str, words)],
        cwd=folder, env=environment(folder, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for its end."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def job(*words: object, **options: Any) -> subprocess.Popen[str]:
    """``torchrun --no-python ... landscape WORDS``, started."""
    return start("--no-python", *ENTRANCE, *words, **options)


def landscape(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    return finished(job(*words, **options))


def answers(script: str, folder: Path, processes: int = 2) -> list[dict[str, Any]]:
    """What each process of a script of this folder wrote as JSON."""
    done = finished(start(HERE / script, folder, processes=processes, folder=folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]

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


def torchrun(
    *words: object, processes: int = 2, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in several processes and wait for its end."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    named = {
        **{k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(folder)]),
        "XDG_STATE_HOME": str(folder / "state"),
        **environment,
    }
    return subprocess.run(
        [*start, *map(str, words)],
        cwd=folder, env=named, timeout=LIMIT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def landscape(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """``torchrun --no-python ... landscape WORDS`` (its entrance as a module, which needs no installed command)."""
    code = "import sys; from landscape_cli.app import main; sys.exit(main())"
    return torchrun("--no-python", sys.executable, "-c", code, *words, **options)


def answers(script: str, folder: Path, processes: int = 2) -> list[dict[str, Any]]:
    """What each process of a script of this folder wrote as JSON."""
    done = torchrun(HERE / script, folder, processes=processes, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]

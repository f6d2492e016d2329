"""Run by torchrun: what two processes answer together on the pretend device, which they share, and on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import landscape
from accelerator.comparison import numbers, problem, train, weights
from accelerator.pretend import pretending, register
from landscape.runtime.distributed import is_main_process


def analyses(where: str) -> dict[str, Any]:
    p = problem("batch_norm", where)
    v = torch.sin(torch.arange(p.n_parameters, dtype=torch.float64)).to(p.device)
    return {
        "gradient": p.gradient().tolist(),
        "product": p.hvp(v).tolist(),
        "each": p.example_losses().tolist(),
        "hessian": landscape.hessian(p, top=1, tol=1e-2).record,
        "sharpness": landscape.sharpness(p, m=(4,)).record,
        "surface": landscape.surface(p, points=3).data["loss"].values.tolist(),
        "domains": landscape.domains(p).record,
    }


def main(folder: Path) -> None:
    register()
    found: dict[str, Any] = {}
    with landscape.processes():
        for where in ("cpu", "pretend"):
            with pretending() as device:
                found[where] = analyses(where)
                run = train(folder / where, where, "weight_norm", "disam")
                found[where] |= weights(run)
                assert bool(device.operations) == (where == "pretend")
        if is_main_process():
            (folder / "found.json").write_text(json.dumps({k: numbers(v) for k, v in found.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

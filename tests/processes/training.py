"""Run by torchrun: every optimizer for five steps, by this process alone and by all together."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from cases import domain_data, small_mlp

import landscape
from landscape.registry import OPTIMIZERS
from landscape.runtime import distributed

FOLDER = Path(sys.argv[1])


def network() -> torch.nn.Module:
    return small_mlp()


def data() -> Any:
    return {"train": domain_data((23, 11, 3)), "test": domain_data((5, 4, 3), seed=1)}


def runs() -> dict[str, dict[str, Any]]:
    """Every optimizer, and what changes how a batch is taken apart."""
    found: dict[str, dict[str, Any]] = {name: {"optimizer": (name,)} for name in OPTIMIZERS}
    found |= {
        "pieces of m": {"optimizer": ("sam",), "m": 3},
        "domains in pieces of m": {"optimizer": ("disam",), "m": 4},
        "accumulated": {"optimizer": ("disam-sagm",), "accumulate": 3},
        "second order": {"optimizer": ("sam",), "order": 2, "rho": 0.5},
        "fewer than processes": {"optimizer": ("gsam",), "batch_size": 1},
        "fewer pieces than processes": {"optimizer": ("sam",), "m": 7},
        "balanced": {"optimizer": ("disam",), "sampler": "balanced"},
        "averaged": {"optimizer": ("sgd",), "average": "swa"},
        "mixed up": {"optimizer": ("sagm",), "augment": ("mixup",)},
        "clipped": {"optimizer": ("sam",), "clip": 0.01},
        "probed": {
            "optimizer": ("sam",),
            "probe": tuple(
                f"{p}@every=2"
                for p in ("surrogate-gap", "gradient-alignment", "second-order", "inner-maximum", "domain-weights",
                          "domain-variance", "eigenvalues")
            ),
        },
    }  # fmt: skip
    return found


def trained(folder: Path) -> dict[str, Any]:
    found = {}
    for name, options in runs().items():
        chosen = {"model": f"{__file__}:network", "data": f"{__file__}:data", "dtype": "float64", "device": "cpu",
                  "steps": 5, "batch_size": 7, "lr": 0.1, "save_every": "2steps", **options}  # fmt: skip
        (run,) = landscape.train(folder / name.replace(" ", "-"), **chosen)
        found[name] = {
            "weights": torch.cat([t.flatten() for t in _weights(run.checkpoint())]).tolist(),
            "log": [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()],
            "final": run.record["final"],
            "files": sorted(p.name for p in run.path.rglob("*") if p.is_file() and not p.name.startswith(".")),
            "gradients": run.record["gradient_evaluations"],
        }
    return found


def _weights(file: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return list(load_file(file).values())


def main() -> None:
    rank = os.environ["RANK"]
    single = trained(FOLDER / f"alone-{rank}") if rank == "0" else {}
    with landscape.processes():
        together = trained(FOLDER / "together")
        distributed.barrier()
    (FOLDER / f"{rank}.json").write_text(json.dumps({"one": single, "together": together}))


if __name__ == "__main__":
    main()

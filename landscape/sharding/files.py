"""Vectors that are spread over processes, as safetensors in shards with an index, in the layout of Hugging Face.

Every process writes whole tensors of which it gathers one at a time, about as many bytes as the others: nobody holds
a whole vector, and whoever reads the files, in however many processes, finds plain tensors in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..base.files import write_json
from ..runtime.distributed import barrier, is_main_process, rank_and_world_size
from ..weights.weights import save_tensors
from .parts import WholeTensors


def save_spread(stem: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors into ``STEM-00001-of-0000N.safetensors``, ... and their index; all processes write.

    Args:
        stem: Path without suffix.
        tensors: By name, the same names in every process.
        facts: What they are, for the header of each file.

    Returns:
        ``STEM.safetensors.index.json``.
    """
    rank, world = rank_and_world_size()
    bytes_of = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    loads, places = [0] * world, {}
    for name in sorted(bytes_of, key=lambda n: (-bytes_of[n], n)):
        places[name] = min(range(world), key=lambda r: loads[r])
        loads[places[name]] += bytes_of[name]
    used = sorted(set(places.values()))
    files = {r: f"{stem.name}-{i:05d}-of-{len(used):05d}.safetensors" for i, r in enumerate(used, 1)}
    whole, mine = WholeTensors(tensors), dict[str, Tensor]()
    for name in sorted(tensors):
        found = whole[name]  # all gather; one keeps
        if places[name] == rank:
            mine[name] = found
    if mine:
        save_tensors(stem.with_name(files[rank]), mine, facts)
    index = stem.with_name(f"{stem.name}.safetensors.index.json")
    barrier()
    if is_main_process():
        weight_map = {name: files[place] for name, place in sorted(places.items())}
        write_json(index, {"metadata": {"total_size": sum(bytes_of.values())}, "weight_map": weight_map})
        for old in stem.parent.glob(f"{stem.name}-*-of-*.safetensors"):  # of another number of processes
            if old.name not in files.values():
                os.unlink(old)
    barrier()
    return index

"""Which weight files a folder stands for: those of Hugging Face, of torch.distributed and of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..base.errors import DataError, UsageError
from ..base.files import read_json
from .distributed_folders import distributed_files, is_distributed_folder

_HUGGING_FACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".th")


def weight_files(folder: Path) -> dict[Path, list[str] | None]:
    """The files that hold a folder's weights.

    Searched in this order: one Hugging Face file, the shards of a Hugging Face index, those of
    ``torch.distributed.checkpoint``, ``last.ckpt``, the only checkpoint in it or in its ``checkpoints``.

    Returns:
        Each file with the names it must hold (None: whatever is in it); empty where there is none.

    Raises:
        UsageError: If there are several checkpoints and none is the natural one.
        DataError: If an index is damaged, or a shard is missing.
    """
    for name in _HUGGING_FACE:
        if (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".index.json") else {folder / name: None}
    if is_distributed_folder(folder):
        return dict.fromkeys(distributed_files(folder))
    for place in (folder, folder / "checkpoints"):
        found = sorted(p for p in place.glob("*") if p.suffix in _SUFFIXES and p.is_file())
        last = [p for p in found if p.name == "last.ckpt"] or found
        if len(last) == 1:
            return {last[0]: None}
        if last:
            names = ", ".join(str(p.relative_to(folder)) for p in found[:10])
            raise UsageError(f"the folder holds {len(found)} checkpoints", str(folder), f"name one: {names}")
    steps = sorted(p.name for p in folder.glob("checkpoint-*") if p.is_dir())
    if steps:  # the output folder of a Trainer that has not saved its last state
        names = ", ".join(steps[:10])
        raise UsageError(f"the folder holds {len(steps)} checkpoint folder(s)", str(folder), f"name one: {names}")
    return {}


def _shards(index: Path) -> dict[Path, list[str] | None]:
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(places, Mapping) or not places or not all(isinstance(v, str) for v in places.values()):
        raise DataError("the index names no shards", str(index), "copy the folder again")
    shards: dict[Path, list[str] | None] = {}
    for name, shard in places.items():
        if Path(shard).name != shard:
            raise DataError(f"the index names a file elsewhere: {shard!r}", str(index), "do not use it")
        names = shards.setdefault(index.parent / shard, [])
        assert names is not None
        names.append(str(name))
    missing = [s.name for s in shards if not s.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} shard(s) are missing: {', '.join(missing[:10])}", str(index), "copy them, too"
        )
    return shards

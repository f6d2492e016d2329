"""Adapters as PEFT saves them: a folder with ``adapter_config.json`` beside the matrices, a target by itself.

The library puts the LoRA matrices into the base network; it is given fields that were looked at here, never the
folder. Folders of ``save_pretrained`` without an adapter say themselves what they are, too.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..base.errors import DataError, LandscapeError, UsageError
from ..base.files import read_json
from ..base.foreign_patterns import require_harmless

CONFIG = "adapter_config.json"
_SLACK = 16  # times the largest rank in the file: a rank that is only wrong is told by the shapes, later

_TAKEN = frozenset(
    {"r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora"}
    | {"modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_dora"}
    | {"task_type"}
)
# Where it came from, and how its matrices began: the file says what they are now.
_LEFT = frozenset(
    {"peft_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode"}
    | {"init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"}
    | {"ensure_weight_tying"}
)


def is_adapter(path: Path) -> bool:
    """Whether a target is a folder that PEFT has saved."""
    return (path / CONFIG).is_file()


def base_model(folder: Path) -> str:
    """The name of an adapter's base network, as ``model`` takes it.

    Raises:
        UsageError: If it is no folder here: nothing is downloaded because of a file.
    """
    said = _config(folder).get("base_model_name_or_path")
    if isinstance(said, str) and said and "\0" not in said:
        for place in (Path(said).expanduser(), folder / said):
            if (place / "config.json").is_file():
                return f"hf:{place.absolute()}"
    raise UsageError(
        f"the adapter's base model {str(said)[:200]!r} is no folder with a config.json here",
        str(folder / CONFIG),
        "name the base model: `model='hf:FOLDER'`",
    )


def said_model(path: Path) -> str | None:
    """The name, as ``model`` takes it, of the network that a folder of ``save_pretrained`` describes; None: none.

    No code comes with it: the architecture is one that transformers knows.
    """
    config = path / "config.json"
    content: Any = read_json(config) if config.is_file() else None
    described = isinstance(content, Mapping) and "model_type" in content
    return f"hf:{path.absolute()}" if described else None


def names_of_state(folder: Path) -> str:
    """Regular expression for the names that an adapter's file has to hold; all others are the base network's."""
    bias = str(_config(folder).get("bias"))
    biases = r"|\bbias$" if bias == "all" else r"|\bbase_layer\.bias$" if bias.endswith("_only") else ""
    return r"\blora_|\bmodules_to_save\b" + biases


def with_adapter(base: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A base network with the adapter's modules in it, which are all that moves; a network that has them is itself.

    Args:
        base: The network.
        folder: The adapter's.
        tensors: What its file holds.

    Raises:
        UsageError: If PEFT is missing, or the adapter is of a kind that is not known here.
        DataError: If its configuration does not fit the network.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise UsageError(
            "this is an adapter of PEFT, which is not installed", str(folder), "pip install peft"
        ) from error
    if hasattr(base, "peft_config"):
        return base
    where = str(folder / CONFIG)
    config = _config(folder)
    if config.get("peft_type") != "LORA":
        raise UsageError(
            f"its adapter is of type {str(config.get('peft_type'))[:50]!r}; LoRA is known here",
            where,
            "build the network in a file of yours and name it with `model='file.py:callable'`",
        )
    try:
        usual = peft.LoraConfig().to_dict()
        odd = [k for k, v in config.items() if k not in _TAKEN | _LEFT and v and v != usual.get(k)]
        if odd:
            raise UsageError(
                f"its adapter uses {', '.join(sorted(odd)[:5])}, not known here",
                where,
                "build the network in a file of yours and name it with `model='file.py:callable'`",
            )
        fields = {k: v for k, v in config.items() if k in _TAKEN}
        _require_modest(fields, tensors, where)
        require_harmless(_patterns(fields), [name for name, _ in base.named_modules()], where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: nn.Module = peft.get_peft_model(base, peft.LoraConfig(**fields, inference_mode=False))
        return made
    except LandscapeError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(f"PEFT cannot put it into the network: {text}", where, "is it another base model?") from error


def _require_modest(fields: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse ranks whose matrices would take memory that the file does not account for.

    Raises:
        DataError: If there are such, or one is no number.
    """
    pattern = fields.get("rank_pattern") or {}
    claimed = [fields.get("r", 8), *(pattern.values() if isinstance(pattern, Mapping) else [pattern])]
    if not all(type(rank) is int and rank > 0 for rank in claimed):
        raise DataError("it claims a rank that is no positive number", where, "copy the folder again")
    held = max((t.shape[0] for name, t in tensors.items() if _A.search(name) and t.ndim), default=1)
    if max(claimed) > _SLACK * held:
        said = f"it claims rank {max(claimed):,}, and the largest in its file is {held:,}"
        raise DataError(said, where, "do not use it")


_A = re.compile(r"\blora_(embedding_)?A\b")


def _patterns(fields: Mapping[str, Any]) -> list[str]:
    """All expressions in a configuration, as PEFT matches them with the names of modules."""

    def texts(name: str) -> list[str]:
        value = fields.get(name)
        return [str(v) for v in ([value] if isinstance(value, str) else value or ())]

    whole = [v for name in ("target_modules", "exclude_modules") if isinstance(v := fields.get(name), str)]
    ends = [rf"(.*\.)?({k})$" for name in ("rank_pattern", "alpha_pattern") for k in texts(name) if not _plain(k)]
    inner = [rf"(^|.*\.){m}($|\..*)" for m in texts("modules_to_save") if not _plain(m)]
    layers = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in texts("layers_pattern") if not _plain(p)]
    return [*whole, *ends, *inner, *layers]


def _plain(text: str) -> bool:
    return bool(re.fullmatch(r"[\w.\-]*", text))


def _config(folder: Path) -> Mapping[str, Any]:
    content: Any = read_json(folder / CONFIG)
    if not isinstance(content, Mapping):
        raise DataError("it describes no adapter", str(folder / CONFIG), "copy the folder again")
    return content

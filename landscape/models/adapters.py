"""Adapters as PEFT saves them: a folder with ``adapter_config.json`` beside the matrices, a target by itself.

The library puts the LoRA matrices into the base network; it is given fields that were looked at here, never the
folder.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..base.errors import DataError, LandscapeError, UsageError
from ..base.files import read_json

CONFIG = "adapter_config.json"
# Names of the state that an adapter's file has to hold; all others are the base network's.
STATE = r"\blora_|\bmodules_to_save\b"

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


def with_adapter(base: nn.Module, folder: Path) -> nn.Module:
    """A base network with the adapter's modules in it, which are all that moves; a network that has them is itself.

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fields = {k: v for k, v in config.items() if k in _TAKEN}
            made: nn.Module = peft.get_peft_model(base, peft.LoraConfig(**fields, inference_mode=False))
        return made
    except LandscapeError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(f"PEFT cannot put it into the network: {text}", where, "is it another base model?") from error


def _config(folder: Path) -> Mapping[str, object]:
    content = read_json(folder / CONFIG)
    if not isinstance(content, Mapping):
        raise DataError("it describes no adapter", str(folder / CONFIG), "copy the folder again")
    return content

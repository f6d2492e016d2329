"""Networks of other libraries by name: ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME_OR_FOLDER``.

Their weights are random unless the arguments ask for pretrained ones, or the folder holds some; a checkpoint that
is analysed replaces them. Code that a model repository brings along is never run.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from ..base.errors import LandscapeError, UsageError
from ..base.names import neighbours
from ..base.plugins import library
from ..weights.checkpoint import read_weights
from ..weights.checkpoint_folders import weight_files
from ..weights.load_state_dict import load_into

_TIMM_FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
}


def torchvision_model(name: str, *, classes: int | None = None, **options: object) -> nn.Module:
    """A network of torchvision.

    Args:
        name: As in ``torchvision.models.list_models()``.
        classes: Number of outputs; taken from the data where not given.
        **options: Arguments of the model's builder (``weights="DEFAULT"`` downloads pretrained ones).

    Raises:
        UsageError: If the library is missing, or the name or an option unknown.
    """
    models = importlib.import_module(f"{library('torchvision', 'vision').__name__}.models")
    _check_name(name, models.list_models(), "torchvision.models.list_models()")
    if classes is not None and "weights" not in options:
        options.setdefault("num_classes", classes)
    return _built(lambda: models.get_model(name, **options), f"torchvision:{name}")


def timm_model(
    name: str, *, classes: int | None = None, in_channels: int | None = None, **options: object
) -> nn.Module:
    """A network of timm.

    Args:
        name: As in ``timm.list_models()``.
        classes: Number of outputs; taken from the data where not given.
        in_channels: Channels of the images; taken from the data where not given.
        **options: Arguments of ``timm.create_model`` (``img_size=64``, ``pretrained=true``, ...).

    Raises:
        UsageError: If the library is missing, or the name or an option unknown.
    """
    timm = library("timm", "vision")
    _check_name(name.partition(".")[0], timm.list_models(), "timm.list_models()")
    for option in _TIMM_FILES & set(options):  # read as pickles there
        raise UsageError(
            f"{option} is not for here", "`model_arg=`", "name the checkpoint as TARGET, or with `init=`"
        )
    if classes is not None:
        options.setdefault("num_classes", classes)
    if in_channels is not None:
        options.setdefault("in_chans", in_channels)
    return _built(lambda: timm.create_model(name, **options), f"timm:{name}")


def hf_model(source: str, *, task: str | None = None, **options: object) -> nn.Module:
    """A network of transformers, from a folder (``config.json``, and weights if it holds some) or the hub.

    It is the architecture that the configuration names; weights in a folder are read by our own safe reader.

    Args:
        source: A folder, or a name on the hub (which downloads).
        task: For a configuration that names no architecture, or another one: ``text-classification``,
            ``image-classification``, ``token-classification``, ``causal-lm`` or ``masked-lm``.
        **options: Fields of the configuration (``num_labels=3``, ...).

    Raises:
        UsageError: If the library is missing, the configuration cannot be read, or the model needs remote code.
        DataError: If weights in the folder do not fit.
    """
    transformers = library("transformers", "hf")
    folder = Path(source).expanduser()
    local = folder.is_dir()
    if task is not None and task not in TASKS:
        raise UsageError(f"task={task!r}", "`model_arg=`", f"expected one of {', '.join(TASKS)}")
    if local and not (folder / "config.json").is_file():
        raise UsageError("the folder has no config.json", str(folder), "save the model with save_pretrained")
    where = f"hf:{source}"

    def build() -> Any:
        config = transformers.AutoConfig.from_pretrained(
            str(folder) if local else source, trust_remote_code=False, local_files_only=local, **options
        )
        config.use_cache = False  # caches hold memory, and a recomputed forward pass would append to them twice
        named = [getattr(transformers, a, None) for a in config.architectures or ()]
        if task is None and not any(named):
            raise UsageError(
                f"its configuration names no known architecture ({', '.join(config.architectures or ()) or 'none'})",
                where,
                f"pass `model_arg='task=NAME'`, one of {', '.join(TASKS)}",
            )
        kind = getattr(transformers, TASKS[task]) if task else next(k for k in named if k)
        # Plain attention has second derivatives, and a configuration cannot ask for kernels from the hub.
        plain = {"attn_implementation": "eager"}
        if local:
            return kind.from_config(config, **plain) if task else kind._from_config(config, **plain)
        return kind.from_pretrained(source, config=config, trust_remote_code=False, use_safetensors=True, **plain)

    model = _built(build, where)
    if local and weight_files(folder):
        load_into(model, read_weights(folder), folder)
    return model


def _check_name(name: str, known: list[str], where: str) -> None:
    if name not in known:
        near = neighbours(name, known)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UsageError(f"unknown model {name!r}", where.partition(".")[0], f"{meant}see {where}")


def _built(build: Any, where: str) -> nn.Module:
    try:
        model: nn.Module = build()
        return model
    except LandscapeError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                "the model needs code of its own, which is never run from a folder",
                where,
                "build it in a file of yours and name file.py:callable",
            ) from error
        text = " ".join(str(error).split())[:300]
        raise UsageError(f"building it raised {type(error).__name__}: {text}", where, "check `model_arg=`") from error

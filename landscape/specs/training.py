"""What a training is told, by what its user thinks of: network and data, steps, the run, what is recorded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..base.errors import UsageError
from ..registry import OPTIMIZERS, PROBES
from .base import Spec, check_choice, check_distinct, check_number, key_values
from .problem import DTYPES, KeyValues, check_device

BASES = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "linear")
AVERAGES = ("none", "swa", "swad")
SAMPLERS = ("mixed", "balanced")
SELECTIONS = ("last", "training-domain", "leave-one-domain-out", "oracle")
AUGMENTATIONS = ("flip-crop", "cutout", "mixup")


@dataclass(frozen=True, kw_only=True)
class NetworkAndData(Spec):
    """What is trained on what."""

    data: str = "digits-rotated"
    """Registered name, {domains,images,hf}:FOLDER, pkg.module:callable or path/to/file.py:callable."""
    model: str | None = None
    """Registered name, {torchvision,timm,hf}:NAME, module:callable or file.py:callable (default: convnet or mlp)."""
    loss: str = "cross_entropy"
    """Registered name or a callable (output, target) -> per-example losses or their mean."""
    model_arg: KeyValues = ()
    """k=v argument of the model callable (TOML value, else text)."""
    data_arg: KeyValues = ()
    """k=v argument of the data callable (TOML value, else text)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        key_values(self.model_arg, "model_arg")
        key_values(self.data_arg, "data_arg")


@dataclass(frozen=True, kw_only=True)
class Steps(Spec):
    """By which method, in what steps, and how many of them."""

    optimizer: tuple[str, ...] = ("sgd",)
    """One or several methods; see `landscape list optimizers`."""
    base: str | None = None
    """Base optimizer of the sharpness-aware methods: sgd, adam or adamw (default: sgd)."""
    lr: float | None = None
    """Learning rate (default: 0.05 for sgd, 0.001 for adam and adamw)."""
    momentum: float | None = None
    """Momentum of sgd (default: 0.9)."""
    weight_decay: float = 0.0
    """Weight decay of the base step, at the unperturbed weights."""
    schedule: str = "constant"
    """Learning rate over the run: constant, cosine or linear (both to 0)."""
    epochs: int | None = None
    """Passes over the training examples (default: 30)."""
    steps: int | None = None
    """Optimizer steps, instead of --epochs."""
    batch_size: int | Literal["full"] | None = None
    """Examples per step, or full (default: 64, or all where there are fewer)."""
    seed: tuple[int, ...] = (0,)
    """One or several seeds: initial weights and order of the examples."""
    order_seed: int | None = None
    """Another seed for the order of the examples alone (default: --seed)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("optimizer", self.optimizer)
        for name in self.optimizer:
            check_choice("optimizer", name, OPTIMIZERS)
        check_distinct("seed", self.seed)
        check_choice("base", self.base, BASES)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("lr", "momentum", "weight_decay"):
            check_number(name, getattr(self, name), least=0)
        check_number("momentum", self.momentum, least=0, most=1)
        for name in ("epochs", "steps"):
            check_number(name, getattr(self, name), least=1)
        for seed in self.seed:
            check_number("seed", seed, least=0)
        check_number("order_seed", self.order_seed, least=0)
        if self.batch_size != "full":
            check_number("batch_size", self.batch_size, least=1)
        if self.epochs is not None and self.steps is not None:
            raise UsageError("`epochs=` and `steps=` contradict each other", "`steps=`", "give one of them")

    def base_of(self, optimizer: str) -> str:
        """The base optimizer under a method (a plain optimizer is its own base)."""
        return optimizer if optimizer in BASES else self.base or "sgd"


@dataclass(frozen=True, kw_only=True)
class RunOptions(Spec):
    """What is left out, kept, averaged and chosen, and where it is computed."""

    holdout: tuple[str, ...] = ()
    """Domains left out of training and reported as unseen."""
    save_every: str | None = None
    """A checkpoint every N[steps|epochs] (default: only at the end)."""
    init: str | None = None
    """Checkpoint with the initial weights."""
    device: str = "auto"
    """auto, cpu, or an accelerator by torch's name: cuda, cuda:i, mps, xpu, ..."""
    dtype: str = "float32"
    """float32 or float64."""
    workers: int = 0
    """Processes that read the examples of a Dataset (tensors need none)."""
    clip: float | None = None
    """Largest norm of the update gradient."""
    accumulate: int | None = None
    """Read each batch in this many pieces and accumulate their gradients (the same step, less memory)."""
    amp: Literal["bfloat16", "float16"] | None = None
    """Automatic mixed precision of the passes; float16 with a gradient scaler."""
    average: str = "none"
    """Average the weights: swa (the last quarter, every epoch) or swad (chosen by the validation loss)."""
    sampler: str = "mixed"
    """mixed: shuffled over all domains; balanced: the same number of every domain in each batch."""
    leave_one_out: bool = False
    """Train once for every domain held out, each into a folder unseen-DOMAIN."""
    validation: float | None = None
    """Share of the training examples of each domain that is set aside as the split val, where the data has none
    (default: 0.2 where swad or --select training-domain chooses by one, else none)."""
    select: str = "last"
    """Checkpoint that RUN@selected means: last, training-domain (validation on seen domains), leave-one-domain-out
    or oracle (looks at the unseen domain)."""
    equal_cost: bool = False
    """Also train sgd, adam and adamw with twice the epochs: what a step of the SAM family costs."""
    stop_at: float | None = None
    """Stop once the training loss (all examples, eval mode, no augmentation) is at most this."""
    train_only: str | None = None
    """Regular expression: train only parameters whose name it matches; frozen layers keep their statistics."""
    augment: tuple[str, ...] = ()
    """flip-crop, cutout (images) and mixup of the training batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dtype", self.dtype, DTYPES)
        check_device(self.device)
        check_number("stop_at", self.stop_at, least=0)
        check_number("clip", self.clip, above=0)
        check_number("validation", self.validation, above=0, most=0.9)
        check_number("accumulate", self.accumulate, least=1)
        check_number("workers", self.workers, least=0)
        check_choice("average", self.average, AVERAGES)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("select", self.select, SELECTIONS)
        for name in self.augment:
            check_choice("augment", name, AUGMENTATIONS)
        interval(self.save_every)
        try:
            re.compile(self.train_only or "")
        except re.error as error:
            what = f"{self.train_only!r} is no regular expression: {error}"
            raise UsageError(what, "`train_only=`", "mend it") from None


@dataclass(frozen=True, kw_only=True)
class Recording(Spec):
    """What is recorded during training."""

    tensorboard: bool = False
    """Also write event files into RUN/tensorboard: all logged numbers, and figures at the end (extra tensorboard)."""
    probe: tuple[str, ...] = ()
    """NAME or NAME@every=K: quantities recorded during training, every K steps (default 10);
    see `landscape list probes`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.probe:
            probe(text)


def interval(text: str | None, where: str = "`save_every=`") -> tuple[int, str] | None:
    """Read ``N``, ``Nsteps`` or ``Nepochs`` (plain N means steps); ``where`` it stands is for messages.

    Raises:
        UsageError: If it is something else or N is 0.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(steps?|epochs?)?", text)
    if not match or int(match[1]) < 1:
        raise UsageError(f"{text!r} is no interval", where, "write 100steps or 5epochs")
    return int(match[1]), "epochs" if (match[2] or "").startswith("epoch") else "steps"


def probe(text: str, where: str = "`probe=`") -> tuple[str, int]:
    """Read ``NAME`` or ``NAME@every=K``; ``where`` it stands is for messages.

    Raises:
        UsageError: If it is something else.
    """
    name, at, rest = text.partition("@")
    check_choice("probe", name, PROBES)
    match = re.fullmatch(r"every=([1-9]\d*)", rest) if at else None
    if at and not match:
        raise UsageError(f"{text!r} is no probe", where, f"write {name}@every=50")
    return name, int(match[1]) if match else 10

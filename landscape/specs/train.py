"""What ``landscape train`` is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..base.errors import UsageError
from ..registry import OPTIMIZERS, PROBES
from .base import Spec, check_choice, check_distinct, check_number, flag, key_values
from .changes import check_changes
from .problem import DTYPES, KeyValues, check_device

BASES = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "linear")
AVERAGES = ("none", "swa", "swad")
SAMPLERS = ("mixed", "balanced")
SELECTIONS = ("last", "training-domain", "leave-one-domain-out", "oracle")
AUGMENTATIONS = ("flip-crop", "cutout", "mixup")
# Flags of single methods; their default means "not given". A given one must be used by a chosen optimizer.
METHOD_FLAGS = (
    "rho",
    "rho_min",
    "alpha",
    "lam",
    "eta",
    "sigma",
    "gamma",
    "sam_every",
    "adaptive",
    "p",
    "m",
    "ascent_steps",
    "order",
    "bn_second_pass",
    "weight_decay_in_perturbation",
    "disam_variance",
    "langevin_steps",
    "langevin_lr",
    "langevin_noise",
)


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """One or several optimizers over one or several seeds, each pair one run."""

    # What may differ between a run and its continuation.
    _not_in_key: ClassVar[Mapping[str, str]] = {
        "save_every": "how often something is kept, not what",
        "workers": "who reads the examples; each draws by its seed and place",
        "tensorboard": "a copy of the log",
    }

    _later: ClassVar[frozenset[str]] = frozenset({"validation"})

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
    holdout: tuple[str, ...] = ()
    """Domains left out of training and reported as unseen."""
    save_every: str | None = None
    """A checkpoint every N[steps|epochs] (default: only at the end)."""
    init: str | None = None
    """Checkpoint with the initial weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i."""
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
    label_noise: str | None = None
    """Share of the training labels that are replaced: 0.4 (symmetric) or pair:0.4 (by the next class)."""
    label_shift: float | None = None
    """Dirichlet concentration of the class proportions that each training domain draws (small: few classes each);
    surplus examples are left out."""
    domain_ratio: str | None = None
    """Relative sizes of the training domains in their order, like 8:1:1; surplus examples are left out."""
    domain_label_noise: tuple[str, ...] = ()
    """Share of the training examples whose domain is wrong (0.3) or unknown (missing:0.5)."""
    tensorboard: bool = False
    """Also write event files into RUN/tensorboard: all logged numbers, and figures at the end (extra tensorboard)."""
    probe: tuple[str, ...] = ()
    """NAME or NAME@every=K: quantities recorded during training, every K steps (default 10);
    see `landscape list probes`."""
    rho: float | None = None
    """Radius of the perturbation (default: 0.05; asam 0.5, looksam 0.1)."""
    rho_min: float | None = None
    """GSAM's radius at the smallest learning rate (default: rho, so that it is constant)."""
    alpha: float | None = None
    """Weight of sagm's gradient matching (0.001), gsam's gap (0.4), looksam's kept part (0.7), entropy-sgd's mean
    (0.75)."""
    lam: float | None = None
    """Weight of the domain-loss variance (disam 0.1, vrex 1); F-SAM's decay of the mean gradient (0.9)."""
    eta: float | None = None
    """ASAM's addend to |w| (default: 0.01)."""
    sigma: float | None = None
    """Share of the mean gradient that F-SAM takes out of its climb (default: 1)."""
    gamma: float | None = None
    """WSAM's weight of the sharpness (0.9); Entropy-SGD's coupling (0.5)."""
    sam_every: int | None = None
    """LookSAM climbs every so many steps (default: 10)."""
    adaptive: bool = False
    """Measure the ball in units of |w|, elementwise."""
    p: Literal["1", "2", "inf"] | None = None
    """Norm of SAM's ball (default: 2)."""
    m: int | None = None
    """Give every micro-batch of m examples its own perturbation (default: the whole batch has one)."""
    ascent_steps: int | None = None
    """Ascent steps of length rho / n (default: 1)."""
    order: Literal[1, 2] | None = None
    """2 keeps the derivative of SAM's perturbation (default: 1)."""
    bn_second_pass: Literal["freeze", "update"] | None = None
    """Running statistics in the passes after the first (default: freeze)."""
    weight_decay_in_perturbation: bool = False
    """Differentiate the weight decay in every pass, as the official SAM code does."""
    disam_variance: Literal["domain", "sample"] | None = None
    """Variance over domains (paper) or weighted by their examples (released code) (default: domain)."""
    langevin_steps: int | None = None
    """Langevin steps of entropy-sgd (default: 20)."""
    langevin_lr: float | None = None
    """Their step length (default: 0.1)."""
    langevin_noise: float | None = None
    """Their thermal noise (default: 0.0001)."""

    def __post_init__(self) -> None:
        check_distinct("optimizer", self.optimizer)
        for name in self.optimizer:
            check_choice("optimizer", name, OPTIMIZERS)
        check_distinct("seed", self.seed)
        check_choice("base", self.base, BASES)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("dtype", self.dtype, DTYPES)
        check_device(self.device)
        for name in ("lr", "momentum", "weight_decay", "stop_at"):
            check_number(name, getattr(self, name), least=0)
        check_number("clip", self.clip, above=0)
        check_number("validation", self.validation, above=0, most=0.9)
        check_number("label_shift", self.label_shift, above=0)
        for name in ("rho", "rho_min", "alpha", "lam", "eta", "sigma", "langevin_lr", "langevin_noise"):
            check_number(name, getattr(self, name), least=0)
        for name in ("m", "ascent_steps", "sam_every", "langevin_steps", "accumulate"):
            check_number(name, getattr(self, name), least=1)
        check_number("gamma", self.gamma, least=0)
        if self.gamma is not None and "wsam" in self.optimizer and self.gamma >= 1:
            raise UsageError(f"gamma={self.gamma!r}", "--gamma", "WSAM's gamma lies in [0, 1)")
        check_choice("average", self.average, AVERAGES)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("select", self.select, SELECTIONS)
        for name in self.augment:
            check_choice("augment", name, AUGMENTATIONS)
        for text in self.probe:
            probe(text)
        check_changes(self.label_noise, self.domain_ratio, self.domain_label_noise)
        self._check_regex()
        check_number("momentum", self.momentum, least=0, most=1)
        for name in ("epochs", "steps"):
            check_number(name, getattr(self, name), least=1)
        check_number("workers", self.workers, least=0)
        for seed in self.seed:
            check_number("seed", seed, least=0)
        check_number("order_seed", self.order_seed, least=0)
        if self.batch_size != "full":
            check_number("batch_size", self.batch_size, least=1)
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps contradict each other", "--steps", "give one of them")
        interval(self.save_every)
        key_values(self.model_arg, "model_arg")
        key_values(self.data_arg, "data_arg")
        self._check_method_flags()
        self._check_combinations()

    def _check_regex(self) -> None:
        try:
            re.compile(self.train_only or "")
        except re.error as error:
            raise UsageError(
                f"{self.train_only!r} is no regular expression: {error}", "--train-only", "mend it"
            ) from None

    def _check_combinations(self) -> None:
        if self.accumulate is not None and self.m is not None:
            raise UsageError(
                "--accumulate and --m both cut the batch", "--m", "give one of them: --m perturbs each piece alone"
            )
        if self.order == 2 and (self.adaptive or (self.p or "2") != "2" or (self.ascent_steps or 1) > 1):
            raise UsageError(
                "second-order SAM is defined for one plain step with p = 2", "--order 2", "drop the other options"
            )
        if self.equal_cost and not set(self.optimizer) & set(BASES):
            raise UsageError(
                "--equal-cost is an arm of sgd, adam or adamw",
                "--optimizer",
                "name one of them, or drop --equal-cost",
            )
        if self.leave_one_out and self.holdout:
            raise UsageError("--leave-one-out chooses the held-out domains", "--holdout", "drop one of the flags")
        if self.select == "leave-one-domain-out" and not self.leave_one_out:
            raise UsageError("it compares runs with other domains held out", "--select", "add --leave-one-out")
        if self.select not in ("last", "leave-one-domain-out") and self.save_every is None:
            raise UsageError("there is only the last checkpoint to select", "--select", "add --save-every 1epochs")

    def _check_method_flags(self) -> None:
        for name in METHOD_FLAGS:
            users = [o for o in OPTIMIZERS if name in OPTIMIZERS[o].options]
            if self.given(name) and not set(users) & set(self.optimizer):
                raise UsageError(
                    f"{flag(name)} is used by none of the chosen optimizers",
                    f"--optimizer {' '.join(self.optimizer)}",
                    f"it belongs to {', '.join(users)}; drop it or choose one of them",
                )
        if self.base is not None and set(self.optimizer) <= set(BASES):
            raise UsageError(
                "--base is for methods that wrap a base optimizer", "--base", f"use --optimizer {self.base}"
            )
        if self.momentum is not None and "sgd" not in {self.base_of(o) for o in self.optimizer}:
            raise UsageError("--momentum belongs to sgd", "--momentum", "drop it, or use sgd as the base")

    def given(self, name: str) -> bool:
        """Whether a method flag was given."""
        value = getattr(self, name)
        return value is not None and value is not False

    def base_of(self, optimizer: str) -> str:
        """The base optimizer under a method (a plain optimizer is its own base)."""
        return optimizer if optimizer in BASES else self.base or "sgd"

    def runs(self) -> Iterator[TrainSpec]:
        """One spec per run: a single optimizer, a single seed, only the method flags it uses, no open defaults."""
        for name in self.optimizer:
            for seed in self.seed:
                base = self.base_of(name)
                unused = [f for f in METHOD_FLAGS if f not in OPTIMIZERS[name].options]
                changes: dict[str, Any] = {f: False if isinstance(getattr(self, f), bool) else None for f in unused}
                one = self.with_(
                    optimizer=(name,),
                    seed=(seed,),
                    base=None if name in BASES else base,
                    lr=self.lr if self.lr is not None else (0.05 if base == "sgd" else 1e-3),
                    momentum=(0.9 if self.momentum is None else self.momentum) if base == "sgd" else None,
                    epochs=self.epochs if self.steps is not None else self.epochs or 30,
                    equal_cost=False,
                    **changes,
                )
                yield one
                if self.equal_cost and name in BASES:
                    longer = {"steps": 2 * one.steps} if one.steps else {"epochs": 2 * (one.epochs or 1)}
                    yield one.with_(**longer, equal_cost=True)

    @property
    def name(self) -> str:
        """The folder name of a single run: ``OPTIMIZER-seedN``, ``OPTIMIZER-2x-seedN`` for the equal-cost arm."""
        return f"{self.optimizer[0]}{'-2x' if self.equal_cost else ''}-seed{self.seed[0]}"


def interval(text: str | None, where: str = "--save-every") -> tuple[int, str] | None:
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


def probe(text: str, where: str = "--probe") -> tuple[str, int]:
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

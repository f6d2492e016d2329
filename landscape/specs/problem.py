"""Which model, data and loss an analysis looks at: the flags that every analysis shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from ..base.errors import UsageError, argument
from .base import Spec, check_choice, check_number, key_values

DTYPES = ("float32", "float64")
PRODUCTS = ("auto", "exact", "difference")
KeyValues = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class ProblemSpec(Spec):
    """The point (model, weights) and the function (loss over fixed examples) that is analysed.

    ``model``, ``data`` and ``loss`` are needed only when the target does not say them itself.
    """

    _not_in_key: ClassVar[Mapping[str, str]] = {
        "batch_size": "a mean over examples is the same however they are divided (where not, it counts)",
        "logit_chunk": "the same sum over positions, by parts",
        "shard": "the numbers are those of one process",
    }
    _later: ClassVar[frozenset[str]] = frozenset(
        {"key", "objective", "weight_decay", "logit_chunk", "shard", "product"}
    )

    model: str | None = None
    """Registered name, {torchvision,timm,hf}:NAME, pkg.module:callable or path/to/file.py:callable."""
    data: str | None = None
    """Registered name, {domains,images,hf}:FOLDER, pkg.module:callable or path/to/file.py:callable."""
    loss: str | None = None
    """Registered name or a callable (output, target) -> per-example losses or their mean."""
    model_arg: KeyValues = ()
    """k=v argument of the model callable (TOML value, else text)."""
    data_arg: KeyValues = ()
    """k=v argument of the data callable (TOML value, else text)."""
    key: str | None = None
    """Which network inside a checkpoint that holds several: its name, a part of it (ema), or a prefix of its keys."""
    split: str = "train"
    """Which split of the data."""
    domain: tuple[str, ...] = ()
    """Only these domains (default: those the run was trained on, or all)."""
    per_domain: bool = False
    """Repeat the analysis for each domain alone."""
    examples: int | None = None
    """Size of a seeded subset, stratified by class and domain (default: all examples)."""
    loss_over: Literal["example", "batch"] = "example"
    """The mean loss is over examples, or over fixed batches of --batch-size (for losses that couple a batch)."""
    batch_size: int | None = None
    """Micro-batch; changes memory and rounding only (default: 512; halves itself when memory runs out)."""
    logit_chunk: int | None = None
    """Language models: positions whose logits are there at once in products (default: what memory asks for)."""
    objective: str | None = None
    """path/to/file.py:callable (model, batch) -> (sum of losses, count) or losses (n,), over ready-made batches."""
    weight_decay: float = 0.0
    """X: the analysed loss is L + X/2 |w|^2, over all trainable parameters."""
    product: Literal["auto", "exact", "difference"] = "auto"
    """Products with a Hessian (or relative): exact, by double backward; differences of gradients, whose error is
    measured; auto: exact, and differences where an operation has no second derivative."""
    params: str | None = None
    """Regular expression: only parameters whose name it matches."""
    mode: Literal["eval", "train"] = "eval"
    """In train mode BatchNorm normalises by the statistics of each micro-batch, and nothing may be random."""
    replay_seed: int | None = None
    """With --mode train: let dropout and the like draw the same random numbers in every pass."""
    device: str = "auto"
    """auto, cpu, or an accelerator by torch's name: cuda, cuda:i, mps, xpu, ..."""
    dtype: str = "float32"
    """float32 or float64."""
    shard: Literal["fsdp"] | None = None
    """fsdp: under torchrun each process holds a piece of every parameter and of every vector."""
    seed: int = 0
    """Seed of the subset, of probes, of partitions and of random directions."""

    def not_in_key(self) -> frozenset[str]:
        """As for every spec; but the batches count where the loss depends on them."""
        free = super().not_in_key()
        return free - {"batch_size"} if self.mode == "train" or self.loss_over == "batch" else free

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_number("examples", self.examples, least=1)
        check_number("batch_size", self.batch_size, least=1)
        check_number("logit_chunk", self.logit_chunk, least=1)
        check_number("seed", self.seed, least=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_choice("product", self.product, PRODUCTS)
        if self.objective is not None:
            _refuse_beside_objective(self)
        check_number("replay_seed", self.replay_seed, least=0)
        if self.replay_seed is not None and self.mode != "train":
            raise UsageError("nothing is random in eval mode", "`replay_seed=`", "add `mode='train'`, or drop it")
        check_device(self.device)
        if self.shard is not None and self.objective is not None:
            raise UsageError("an objective calls parts of a network", "`shard=` `objective=`", "drop one of the two")
        if self.key is not None and not self.key.strip():
            raise UsageError("it is empty", "`key=`", "name a network; landscape info FILE lists them")
        key_values(self.model_arg, "model_arg")
        key_values(self.data_arg, "data_arg")


def _refuse_beside_objective(spec: ProblemSpec) -> None:
    for name, what, fix in (
        ("loss", "a loss and an objective", "the objective is the loss: drop `loss=`"),
        ("batch_size", "an objective's batches have their sizes", "drop it: a ready-made batch is the unit"),
    ):
        if getattr(spec, name) is not None:
            raise UsageError(what, f"{argument('objective')} {argument(name)}", fix)
    if spec.loss_over == "batch":
        fix = "drop it; an objective that returns (mean, 1) gives every batch the same weight"
        raise UsageError("an objective's loss is over what it counts", "`objective=` `loss_over='batch'`", fix)


def check_device(device: str) -> None:
    """Refuse what cannot be a device's name; whether there is such a device, torch says later."""
    kind = device.partition(":")[0]
    # Two words that people use and torch does not; any other may be the name of a backend that is installed.
    if kind in ("gpu", "tpu") or not re.fullmatch(r"auto|cpu|(?!auto|cpu)[a-z][a-z0-9_]*(:\d+)?", device):
        raise UsageError(f"unknown device {device!r}", "`device=`", "use auto, cpu, cuda or cuda:i, mps, xpu")

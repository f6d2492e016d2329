"""`Problem`: one point (a network at fixed weights) and one function (its mean loss over fixed examples).

Everything the toolkit measures is asked of a Problem: loss, gradient, curvature products, losses per domain.
All are exact means over the examples, whatever the micro-batches, and none of them touches the caller's model:
a Problem works on its own copy.
"""

from __future__ import annotations

import copy as shallow
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .._deprecated import renamed_member
from ..autograd.late_logits import NAME as CHUNKED
from ..autograd.late_logits import deferred
from ..autograd.second_derivatives import custom_functions, missing_derivative, refuse_batch_statistics
from ..autograd.substitutes import apply_embedding_max_norm, twice_differentiable
from ..base.errors import NumericalError, ResourceError, UsageError, is_out_of_memory
from ..base.threads import waiting
from ..data.examples import Batch, Examples, Indices
from ..data.loss_values import NoTarget, batch_weight, mean_loss, no_target
from ..data.losses import LossFunction, as_loss
from ..data.objectives import Objective, name_of
from ..numerics.norms import right_for_one_example
from ..numerics.tensors import as_real
from ..runtime.caller_context import computing
from ..runtime.devices import check_precision, floating_type, moved, pick_device, wide
from ..runtime.distributed import is_distributed, rank_and_world_size, require_equal
from ..runtime.memory import free_memory
from ..runtime.random_state import preserved_random_state
from ..sharding.assembly import is_sharded, pieces_of, spread_state
from ..sharding.parts import WholeTensors
from ..specs.base import check_choice, check_number
from ..specs.problem import PRODUCTS
from ..weights.weights import stored_tensors, tensors_hash, weights_hash
from .by_differences.differences import Precisions
from .by_differences.either_product import EitherProducts
from .checks.cautions import misuse
from .checks.consistency import require_sound
from .evaluation import Evaluation, check_fit, evaluation_from_sums, pass_sums
from .faithful import faithful_copy, require_same_outputs
from .fingerprint import fingerprint
from .joining import counts_of, joined, ready_made, refuse_beside_objective, require_usable, trainable_names
from .modes import require_fixed, set_mode
from .parameters import ParameterSpace
from .passes import out_of_memory_at_last, refuse_autocast
from .per_example import PerExample
from .products import require_finite
from .stale_caches import forget_kept_values
from .weighted_losses import weighted
from .with_loss import WithLoss, WithObjective, plain_network
from .wrappers import unwrapped

DEFAULT_BATCH = 512
_COPIES = 10  # of a head's outputs that double backward of a cross-entropy keeps
_LOGITS = 0.125  # of the free memory that these may take before they are computed by parts
_MEMORY_BYTES = 4 * 2**30  # of examples kept in host memory; more is read from the data set in every pass


class Problem(PerExample):
    """A network at fixed weights and its mean loss over fixed examples.

    Args:
        model: The network. It is copied, and the copy is compared with it; the caller's object stays as it is.
        data: A pair of tensors ``(inputs, targets)``, a ``torch.utils.data.Dataset``, a mapping from domain
            names to either, or `Examples`. Read once, so random augmentation is frozen. With an objective: ready-made
            batches of any kind, a loader or a sequence of them, or a mapping from domain names to such.
        loss: Registered name, or a callable ``(output, target)`` giving per-example losses ``(n,)`` or their mean.
            Parameters of a module are part of the point, under ``loss.NAME``. A mapping from the names of several
            outputs to a loss, a weight and a loss, or a weight (of an output that is a loss itself): their sum, as
            ``{"kind": "cross_entropy", "size": (0.3, "mse")}``. None: ``cross_entropy``.
        params: Regular expression; only matching parameters move, the others are constants.
        loss_over: ``example``: the mean loss is over examples, and a loss that is no such mean is refused. ``batch``:
            it is over fixed batches of ``batch_size`` examples of one domain each, in the recorded order, so that
            losses that couple a batch (contrastive ones, Dice, sums) are exact functions of the weights, too.
        batch_size: Micro-batch; changes memory and rounding only, unless the loss is over batches. Halves itself when
            memory runs out.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:i`` or a ``torch.device``.
        dtype: Floating type of weights, inputs and losses; None keeps the model's (float32 for half types).
        unseen: Names of domains that the network was not trained on, to be told apart in reports.
        mode: ``eval``, or ``train`` (see `landscape.problem.modes`), where the loss depends on the micro-batches.
        replay_seed: Random numbers that every pass in train mode draws; without it nothing may draw any.
        objective: In place of a loss: called as ``objective(model, batch)`` it gives ``(sum of losses, count)`` or
            losses ``(n,)``; the mean is over all that is counted. The ready-made batch is the unit of everything:
            the examples of this problem are batches, and none is ever divided.
        weight_decay: X adds X/2 ‖w‖² over all trainable parameters to the loss, as torch's optimizers do to the
            gradient (X·w) and so to the Hessian (X·I).
        logit_chunk: In products, take the last linear map and the cross-entropy over so many positions (tokens of a
            text) at once; the same numbers to rounding, in less memory. None: where the outputs would take too much.
        product: Of a Hessian (or relative) with a vector: ``exact``, by double backward, refused where an operation
            has no second derivative; ``difference``, of gradients, with its measured error; ``auto``: exact where
            there are, else differences, which `describe` says with the reason.
        copy: False takes the object itself, whose precision, device and modes change: for a network that nobody else
            uses, or one that cannot be copied.

    Raises:
        UsageError: If nothing can move, the device does not exist, the forward is random in train mode, a copy of the
            network does not compute with its own weights, or the loss is no mean over examples.
        DataError: If the data cannot be understood, or does not fit the model.
        NumericalError: If two passes over the same examples differ.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> problem.n_parameters, problem.n_examples
        (15, 20)
        >>> gradient = problem.gradient()
        >>> problem.hvp(gradient).shape
        torch.Size([15])
    """

    loss_function: LossFunction
    space: ParameterSpace

    @computing()
    def __init__(
        self,
        model: nn.Module,
        data: object,
        loss: str | LossFunction | Mapping[str, Any] | None = None,
        *,
        params: str | None = None,
        batch_size: int | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | str | None = None,
        unseen: Sequence[str] = (),
        mode: str = "eval",
        replay_seed: int | None = None,
        loss_over: str = "example",
        objective: Objective | None = None,
        weight_decay: float = 0.0,
        logit_chunk: int | None = None,
        product: str = "auto",
        copy: bool = True,
        _sound: bool = False,  # known of the problem that this one is made from
        _decayed: frozenset[str] | None = None,  # likewise: names of the parameters that the penalty is of
    ) -> None:
        if loss_over not in ("example", "batch"):
            raise UsageError(f"loss_over={loss_over!r}", "`loss_over=`", "use example or batch")
        check_choice("product", product, PRODUCTS)
        check_number("weight_decay", weight_decay, least=0)
        check_number("logit_chunk", logit_chunk, least=1)
        refuse_beside_objective(objective, loss=loss, batch_size=batch_size, loss_over=loss_over)
        network, made_by = unwrapped(model), weighted(loss)
        whole = joined(network, made_by, objective)
        require_usable(whole)
        self._identify(whole, "cross_entropy" if loss is None else made_by)
        self.loss_over, self.weight_decay, self.logit_chunk = loss_over, float(weight_decay), logit_chunk
        where, kind = pick_device(device), floating_type(whole, dtype)
        check_precision(where, kind)
        refuse_autocast(where)
        examples = self._examples_of(data)
        super().__init__(
            moved(self._own(whole, network, model, examples, mode, copy), where, kind),
            examples,
            device=where,
            dtype=kind,
            batch_size=1 if self.by_objective else batch_size or DEFAULT_BATCH,
            mode=mode,
            fixed_batches=mode == "train" or loss_over == "batch",
        )
        if isinstance(self.model, WithLoss):
            self.loss_function = self.model.loss_function  # the copy's, on its device
        self.replay_seed = replay_seed
        set_mode(self.model, mode, replay_seed)
        if mode == "eval" and not self.by_objective:  # whose batches are what they are
            refuse_batch_statistics(self.model)
        self.settled = apply_embedding_max_norm(self.model)
        right_for_one_example(self.model)
        self.decayed = trainable_names(self.model) if _decayed is None else _decayed
        self.space = self._moving(params)
        self.forgotten = forget_kept_values(self.model, lambda: self.output(self.head(1 if mode == "eval" else 2)))
        self.params, self.unseen = params, tuple(unseen)
        self.cautions: list[str] = []  # what whoever made the problem found odd
        self.misused: list[str] = []
        self.start: Path | None = None  # the checkpoint that training started from, where it is known
        self.origins: dict[str, Any] | None = None  # where code, weights and data lay, where they were opened by name
        with self._one_example_fits():
            check_fit(self.model, self.examples, self.loss_function, device=self.device, dtype=self.dtype)
            self._count_terms()
        self._centre = self.space.current()
        self.replaced: set[str] = set()
        self.product, self.precisions = product, Precisions()
        self._differing: EitherProducts | None = None
        self.custom_functions: tuple[str, ...] | None = None
        if mode == "train" and replay_seed is None:
            first = self.head(2)
            require_fixed(self.model, lambda: self.output(first))
        if not _sound:
            with self._one_example_fits():
                require_sound(self)
        if is_distributed():
            self._require_whole_batches()
            fix = "give every process all examples, in one order (no DistributedSampler), and one checkpoint"
            require_equal("weights and examples", [self.weights_hash, self.data_hash], fix)

    def _own(
        self, whole: nn.Module, network: nn.Module, given: nn.Module, examples: Examples, mode: str, copy: bool
    ) -> nn.Module:
        """A copy that computes with its own weights; of a sharded network what was made of it, compared with it."""
        if not copy and not is_sharded(given):
            return whole
        if network is not given and is_sharded(given):
            require_same_outputs(given, network, examples)
            return whole
        return faithful_copy(whole, examples, self.loss_function, mode)

    def _moving(self, params: str | None) -> ParameterSpace:
        """The parameters that move; the others are constants from here on."""
        space = ParameterSpace(self.model, params)
        moving = set(space.names)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in moving)
            parameter.grad = None
        return space

    def _identify(self, whole: nn.Module, loss: str | LossFunction) -> None:
        """What the network and its loss are, by hashes and by name."""
        made_by = whole.made_by if isinstance(whole, WithLoss) else loss
        self.by_objective = isinstance(whole, WithObjective)
        state = spread_state(whole) if pieces_of(whole) else None
        self.weights_hash = (
            weights_hash(whole)
            if state is None
            else tensors_hash(WholeTensors({k: state[k] for k in stored_tensors(whole)}))
        )
        self.network_hash = fingerprint(plain_network(whole))
        self.loss_hash = fingerprint(made_by, weights_of=whole)
        self.loss_name = made_by if isinstance(made_by, str) else name_of(made_by)
        self.loss_function = whole.loss_function if isinstance(whole, WithLoss) else as_loss(made_by)

    def __repr__(self) -> str:
        kind = "batches" if self.by_objective else "examples"
        domains = f" in {len(self.present_domains())} domains" if self.examples.domains else ""
        return (
            f"<Problem {type(self.network).__name__}: {self.n_parameters:,} parameters, {self.loss_name} over "
            f"{self.n_examples:,} {kind}{domains}, {str(self.dtype).removeprefix('torch.')} on {self.device}>"
        )

    def _examples_of(self, data: object) -> Examples:
        if self.by_objective:
            return ready_made(data)
        examples = Examples.of(data)
        if examples.ready_made:
            raise UsageError("these are ready-made batches", "the data", "give the objective that takes them")
        return self._in_order(examples.in_memory(_MEMORY_BYTES))

    def _count_terms(self) -> None:
        """Let the objective tell once how many terms it counts in each of its batches.

        Raises:
            DataError: If it raises something, or counts nothing at all.
        """
        if not self.by_objective:
            return
        if not self.examples.all_counted:
            with torch.no_grad():
                counts = self.per_example(lambda batch: counts_of(self, batch)).cpu().numpy()
            self.examples, self._batches = self.examples.counted(counts), None
        if not any(float(batch.targets.sum()) for batch in self.examples.batches(1)):
            raise NoTarget("its count is 0 in every batch", f"objective {self.loss_name}", "count what it sums")

    @contextmanager
    def _one_example_fits(self) -> Iterator[None]:
        """Say it in words where a pass over one example runs out of memory."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            what, fix = out_of_memory_at_last(self)
            raise ResourceError(what, str(self.device), fix) from error

    def _in_order(self, examples: Examples) -> Examples:
        """The examples, where the loss is over batches domain by domain: no batch mixes two."""
        if self.loss_over == "example" or bool((np.diff(examples.domain) >= 0).all()):
            return examples
        return examples.select(np.argsort(examples.domain, kind="stable"))

    @property
    def _within_domains(self) -> bool:
        return self.loss_over == "batch"

    def _require_whole_batches(self) -> None:
        """Refuse to share batches of several domains out over processes, which takes batches of one size."""
        if self.loss_over == "batch" and len(np.unique(self.examples.domain)) > 1:
            raise UsageError(
                "batches end where a domain does", "`loss_over='batch'`", "use one process, or one domain"
            )

    # -- what it is ---------------------------------------------------------------------------------------

    @property
    def network(self) -> nn.Module:
        """The network itself; `model` where no loss with parameters and no objective stands beside it."""
        return plain_network(self.model)

    @property
    def penalty(self) -> Tensor | float:
        """Weight decay's X/2 ‖w‖² at the current weights, float64, shape ``()``, with its graph; 0 without."""
        return self.penalty_at({}) if self.weight_decay else 0.0

    def penalty_at(self, moved: Mapping[str, Tensor]) -> Tensor:
        """The same with some parameters, by name, at other values."""
        own = [moved.get(k, p) for k, p in self.model.named_parameters() if k in self.decayed]
        if self.in_pieces:
            raise UsageError(
                "a penalty on weights is not known for a sharded model", "`weight_decay=`", "leave it out"
            )
        squares = [wide(as_real(p)).square().sum() for p in own]
        return self.weight_decay / 2 * torch.stack(squares).sum()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return renamed_member(self, name)

    @property
    def n_parameters(self) -> int:
        """Number of parameters that move, as real numbers: a complex one counts as two."""
        return self.space.size

    @property
    def weights(self) -> Tensor:
        """The weights at the centre as one vector ``(n_parameters,)``; do not write to it."""
        return self._centre

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of the exact examples, in order, with their domains."""
        return self.examples.fingerprint()

    @cached_property
    def total_weight(self) -> float:
        """What the mean loss divides by: examples, or the predictions in them that count, or batches."""
        if self.loss_over == "batch":
            return float(sum(1 for _ in self.examples.cuts(self.batch_size, within_domains=True)))
        if not self.weighted:
            return float(self.n_examples)

        def contribution(batch: Batch) -> list[Tensor]:
            return [torch.as_tensor(batch_weight(self.loss_function, batch.targets), dtype=torch.float64)]

        total = float(self._sum(contribution)[0])
        if not total:
            raise no_target()
        return total

    def describe(self) -> dict[str, Any]:
        """Provenance: what was analysed, on what, with which versions."""
        counts = np.bincount(self.examples.domain, minlength=len(self.examples.domain_names))
        return {
            "n_examples": self.n_examples,
            "n_counted": self.total_weight if self.by_objective else None,
            "objective": self.loss_name if self.by_objective else None,
            "weight_decay": self.weight_decay,
            "data_hash": self.data_hash,
            "data_facts": dict(self.examples.facts) or None,
            "weights_hash": self.weights_hash,
            "n_parameters": self.n_parameters,
            "model": type(self.network).__name__,
            "loss_function": self.loss_name,
            "loss_over": self.loss_over,
            "network_hash": self.network_hash,
            "loss_hash": self.loss_hash,
            "params": self.params,
            "parameter_names": list(self.space.names),
            "replaced": sorted(self.replaced),
            "settled_embeddings": self.settled,
            "forgotten_values": self.forgotten,
            "cautions": [*self.cautions, *self.misused, *self.precisions.sentences()],
            "product": self.product,
            "domain_counts": {n: int(c) for n, c in zip(self.examples.domain_names, counts, strict=True) if c},
            "mode": self.mode,
            "replay_seed": self.replay_seed,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "micro_batch": self.batch_size,
            "processes": rank_and_world_size()[1],
            "threads": torch.get_num_threads(),
            "threads_wait": waiting(),
            "torch": str(torch.__version__),
        }

    def restrict_to_domain(self, name: str) -> Problem:
        """The same network with the loss of one domain alone.

        Raises:
            UsageError: If there is no such domain, or it has no example here.
        """
        members = np.flatnonzero(self.examples.domain == self.examples.domain_index(name))
        if not len(members):
            raise UsageError(
                f"domain {name!r} has no example in this selection", "`per_domain=`", "raise `examples=`"
            )
        return self.restrict_to_examples(members)

    def restrict_to_examples(self, positions: Indices) -> Problem:
        """The same network (shared, not copied) with the loss over the examples at ``positions``."""
        return self.with_examples(self.examples.select(positions))

    @computing()
    def with_examples(self, examples: Examples, where: str = "the data set") -> Problem:
        """The same network (shared, not copied) with the loss over other examples, called ``where`` in messages.

        Raises:
            DataError: If they do not fit the network.
        """
        other = shallow.copy(self)
        for name in ("data_hash", "total_weight"):
            other.__dict__.pop(name, None)
        # A part of what did not fit is not read either: all parts together would not fit.
        part = examples.store is self.examples.store
        read = examples if part else examples.in_memory(_MEMORY_BYTES)
        other.examples, other._batches = self._in_order(read), None
        if not part:
            loss, kind = self.loss_function, self.dtype
            check_fit(self.model, other.examples, loss, device=self.device, dtype=kind, where=where)
            other._count_terms()
        return other

    @computing()
    def with_model(self, model: nn.Module) -> Problem:
        """Another network of the same kind (copied) over the same examples, with the same loss and choices."""
        other = self._alike(model, self.examples, dtype=self.dtype, params=self.params, unseen=self.unseen)
        other.loss_name, other.loss_hash = self.loss_name, self.loss_hash
        other.start, other.cautions = self.start, self.cautions
        other._batches = self._batches
        return other

    @computing()
    def restrict_to_parameters(self, names: Sequence[str]) -> Problem:
        """The same network (shared, not copied) in which only the named parameters move.

        Raises:
            UsageError: If none of them moves here.
        """
        other = shallow.copy(self)
        other.params = "^(?:" + "|".join(re.escape(name) for name in names) + ")$"
        other.space = ParameterSpace(self.model, other.params)
        other._centre = other.space.current()
        return other

    @computing()
    def twin(self) -> nn.Module:
        """A copy of the network, proved to compute with its own weights.

        Raises:
            UsageError: If there is none.
        """
        return faithful_copy(self.model, self.examples, self.loss_function, self.mode)

    @computing()
    def to_float64(self, count: int) -> Problem:
        """A float64 copy of the network with the loss over the first ``count`` examples."""
        return self._alike(self.model, self.examples.select(np.arange(count)), dtype=torch.float64)

    def _alike(self, model: nn.Module, examples: Examples, **options: Any) -> Problem:
        """A problem with the same loss, device and modes, which was looked at when this one was made."""
        return Problem(
            model,
            examples,
            self.loss_function,
            batch_size=self.batch_size,
            device=self.device,
            mode=self.mode,
            replay_seed=self.replay_seed,
            loss_over=self.loss_over,
            weight_decay=self.weight_decay,
            logit_chunk=self.logit_chunk,
            product=self.product,
            _sound=True,
            _decayed=self.decayed,
            **options,
        )

    def present_domains(self) -> list[str]:
        """Names of the domains that have examples, or [] where the data has no domains."""
        return (
            [self.examples.domain_names[i] for i in np.unique(self.examples.domain)] if self.examples.domains else []
        )

    # -- what it answers ------------------------------------------------------------------------------------

    @computing()
    def sums(self) -> Tensor:
        """The pass's `batch_sums` at the current weights, ``(5, domains)``, without waiting for the device."""
        with torch.no_grad():
            return self.with_penalty(self._sum(lambda batch: [self._evaluate_batch(batch)])[0])

    def with_penalty(self, sums: Tensor) -> Tensor:
        """`batch_sums` ``(..., 5, domains)`` of passes at the current weights, with weight decay's part in them."""
        if self.weight_decay:
            sums[..., 0, :] += self.penalty * sums[..., 2, :]
        return sums

    @computing()
    def evaluate(self) -> Evaluation:
        """Loss and accuracy over the examples and per domain, at the current weights, from one pass.

        Non-finite losses are returned as they are.
        """
        return evaluation_from_sums(self.sums(), self.examples.domain_names)

    def _evaluate_batch(self, batch: Batch) -> Tensor:
        sums = pass_sums(self.output, self.loss_function, batch, len(self.examples.domain_names))
        if self.loss_over == "batch":  # of one domain: it counts as one
            here = int(batch.domain[0])
            sums[0, here] = wide(mean_loss(self.loss_function, self.output(batch), batch.targets))
            sums[2, here] = 1
        return sums

    @computing()
    def loss(self) -> float:
        """Mean loss over the examples at the current weights."""
        return self.evaluate().loss

    @computing()
    def gradient(self) -> Tensor:
        """Gradient of the mean loss, shape ``(n_parameters,)``."""
        return self.loss_and_gradient()[1]

    @computing()
    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Mean loss, shape ``()``, float64, and its gradient, shape ``(n_parameters,)``, from one pass.

        Raises:
            NumericalError: If an operation of the model has no derivative.
        """

        def contribution(batch: Batch) -> list[Tensor]:
            loss = self.batch_sum(batch)
            return [wide(loss.detach()), self._flat_gradient(loss)]

        try:
            with torch.enable_grad():  # also inside `temporary_weights`
                loss, gradient = self._sum(contribution)
        except RuntimeError as error:
            raise missing_derivative(error, "gradient") from error
        return loss / self.total_weight, gradient / self.total_weight

    @computing()
    def hvp(self, vector: Tensor) -> Tensor:
        """Hessian of the mean loss times ``vector`` ``(n_parameters,)``, as ``product`` says.

        Exact products are by double backward (reverse over reverse). By differences each one is measured; `describe`
        says how wrong they were. For many products take `landscape.curvature.operators.operator_of`, which keeps the
        graphs between them, and the step.

        Raises:
            NumericalError: If there is no such product, or it is not finite.
        """
        made = self._differing
        if made is None or made.problem is not self:  # a copy's is that of what it was made from
            made = EitherProducts(self, memory=0)
        product = made(vector)
        if made.differences is not None:
            self._differing = made  # its step
        require_finite([float(torch.linalg.vector_norm(product))], self)
        return product

    @computing()
    def loss_tensor(self) -> Tensor:
        """Mean loss at the current weights, shape ``()``, float64, on the device and without waiting for it."""
        with torch.no_grad():
            return self._sum(lambda batch: [wide(self.batch_sum(batch))])[0] / self.total_weight

    @computing()
    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean loss of one batch at the current weights, shape ``()``, with its graph."""
        return mean_loss(self.loss_function, self.output(batch), batch.targets) + self.penalty

    @computing()
    def batch_sum(self, batch: Batch) -> Tensor:
        """Weighted sum of a batch's losses, shape ``()``, with its graph; all add up to mean × `total_weight`."""
        loss = self.batch_loss(batch)
        if batch.idle:
            return loss * 0
        return loss if self.loss_over == "batch" else loss * batch_weight(self.loss_function, batch.targets)

    @computing()
    def unused_parameters(self) -> list[str]:
        """Names of parameters that the loss of the first micro-batch does not reach."""

        def of_first_batch() -> list[str]:
            with torch.enable_grad():
                loss = self.batch_loss(self.head(self.batch_size))
                if not loss.requires_grad:
                    return list(self.space.names)
                gradient = torch.autograd.grad(loss, self.space.tensors, allow_unused=True)
            return [n for n, g in zip(self.space.names, gradient, strict=True) if g is None]

        return self.retry_on_oom(of_first_batch)

    # -- going somewhere and coming back ---------------------------------------------------------------------

    @contextmanager
    def temporary_weights(self) -> Iterator[list[Tensor]]:
        """Let the weights move inside the block; afterwards they are the centre's again, bit for bit.

        Yields:
            The parameter tensors, complex ones as their real parts, to be written in place.
        """
        with computing():
            tensors = self.space.views
            try:
                with torch.no_grad():
                    yield tensors
            finally:
                self.space.write(self._centre)

    @computing()
    def require_finite(self) -> Evaluation:
        """Evaluate, and refuse a point where the loss is not a number.

        Raises:
            NumericalError: If the loss is NaN or infinite.
        """
        with preserved_random_state():
            evaluation = self.evaluate()
        if not np.isfinite(evaluation.loss):
            where = f"{self.n_examples} examples"
            if self.by_objective and (each := self.example_losses()) is not None:
                where = f"first in {self.examples.name_of(int(wide(~each.isfinite()).argmax()))}"
            raise NumericalError(f"the loss at the weights is {evaluation.loss}", where, "check weights and data")
        self.misused = misuse(self.loss_function, lambda: self.head(64).targets, evaluation)
        return evaluation

    # -- passes over the examples ------------------------------------------------------------------------------

    @contextmanager
    def twice_differentiable(
        self, used: set[str] | None = None, only: Collection[str] | None = None
    ) -> Iterator[None]:
        """Forward passes inside have second derivatives that exist and are right.

        Args:
            used: Receives the names of what was replaced; None: the problem's own record.
            only: Names of what may be replaced; None: all.
        """
        used = self.replaced if used is None else used
        chunked = only is None or CHUNKED in only
        with twice_differentiable(used, only), deferred(self._positions, used) if chunked else nullcontext():
            yield

    def _positions(self, positions: int, bytes_each: int) -> int | None:
        """How many positions of a head's outputs are there at once, of so many bytes each; None: all."""
        if self.logit_chunk is not None:
            return self.logit_chunk
        free = free_memory(self.device)
        if positions * bytes_each * _COPIES < free * _LOGITS:
            return None
        return max(1, int(free * _LOGITS / 4 / (bytes_each * _COPIES)))

    def check_custom_autograd_functions(self, loss: Tensor) -> None:
        """Look once through the graph of a loss for custom functions, whose second derivative may be wrong.

        Raises:
            NumericalError: If one has none.
        """
        if self.custom_functions is None:
            self.custom_functions = custom_functions(loss)

    def _flat_gradient(self, scalar: Tensor) -> Tensor:
        if not scalar.requires_grad:
            return self.space.flatten([None] * len(self.space.names))
        return self.space.flatten(torch.autograd.grad(scalar, self.space.tensors, allow_unused=True))

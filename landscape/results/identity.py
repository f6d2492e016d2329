"""The identity of a computation: everything that its numbers depend on, in one place, for every store.

Single and joint results, paths, planes, stored products, rows of a surface and the records of a study are found again
by it and by nothing else. What is not in it does not change a number, and says why where it is declared: in the
``_not_in_key`` of each spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.files import stable_hash
from ..specs import ProblemSpec, Spec

if TYPE_CHECKING:  # the versions are looked at where torch is not loaded
    from ..problem.problem import Problem

# The versions of what computes a kind of result. Raise one when the same request gives other numbers than before;
# stored results of the version before are then computed anew.
ALGORITHMS: Mapping[str, int] = {
    "hessian": 4,  # two start vectors
    "sharpness": 4,  # random blocks
    "surface": 3,
    "domains": 4,
    "path": 2,
    "plane": 2,
    "training": 2,  # its probes of curvature
}

# Fields of ProblemSpec and the ingredient that each of them decides.
DECIDES: Mapping[str, str] = {
    "model": "network",
    "model_arg": "network",
    "key": "weights",
    "data": "examples",
    "data_arg": "examples",
    "split": "examples",
    "domain": "examples",
    "examples": "examples",
    "loss": "loss",
    "loss_over": "loss_over",
    "objective": "loss",
    "weight_decay": "weight_decay",
    "params": "parameters",
    "product": "product",
    "mode": "mode",
    "replay_seed": "replay_seed",
    "device": "device",
    "dtype": "precision",
    "seed": "seed",
    "per_domain": "per_domain",
}


def ingredients(problem: Problem) -> dict[str, Any]:
    """What a number about a problem depends on, by name."""
    import torch

    # What came later stands here only where it is asked for: stored results of before are still found.
    later: dict[str, Any] = {"weight_decay": problem.weight_decay} if problem.weight_decay else {}
    if problem.product != "auto":
        later["product"] = problem.product
    if problem.by_objective:
        later["objective"] = True  # its loss is over what it counts
    return {
        **later,
        "weights": problem.weights_hash,
        "network": problem.network_hash,
        "loss": problem.loss_hash,
        "loss_over": problem.loss_over,
        "examples": problem.data_hash,
        "unseen": sorted(problem.unseen),
        "parameters": stable_hash(list(problem.space.names)),
        "mode": problem.mode,
        "replay_seed": problem.replay_seed,
        "micro_batch": problem.batch_size if problem.fixed_batches else None,
        "precision": str(problem.dtype).removeprefix("torch."),
        "device": problem.device.type,
        "torch": str(torch.__version__),
    }


def bits(problem: Problem) -> dict[str, Any]:
    """What the very bits of a pass depend on: parts of a computation that was stopped are never mixed with others."""
    import torch

    from ..runtime.distributed import rank_and_world_size

    # Sums over pieces round as the number of processes has it.
    spread = {"processes": rank_and_world_size()[1]} if problem.in_pieces else {}
    return {
        **ingredients(problem),
        **spread,
        "micro_batch": problem.batch_size,
        "device": str(problem.device),
        "threads": torch.get_num_threads(),
    }


def identity(
    kind: str, problem: Problem, spec: Spec, problem_spec: ProblemSpec, others: Sequence[object] = ()
) -> dict[str, object]:
    """What a result depends on, by name; `key` makes the name of its file of it.

    Args:
        kind: Of the result.
        problem: Network, loss and examples.
        spec: What is computed.
        problem_spec: Its seed, and whether every domain is looked at alone.
        others: What else decides the numbers: other examples, contents of files, weights of other checkpoints.
    """
    return {
        "algorithm": ALGORITHMS[kind],
        **ingredients(problem),
        "seed": problem_spec.seed,
        "per_domain": problem_spec.per_domain,
        "options": spec.in_key(),
        "others": list(others),
    }


def key(kind: str, found: Mapping[str, object]) -> str:
    """The short hash under which a result of this identity is stored."""
    return stable_hash([kind, dict(found)])[:16]

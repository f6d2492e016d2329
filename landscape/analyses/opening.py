"""From a target to its problem: the network it names at its weights, its data, its loss."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..base.errors import UsageError, argument
from ..base.names import Registry
from ..base.plugins import Plugin, resolve
from ..data.changes import changed
from ..data.examples import Examples
from ..data.images import NORMALIZATIONS
from ..data.objectives import as_objective
from ..data.splits import Splits, open_data
from ..models.adapters import base_model, is_adapter, names_of_state, said_model, with_adapter
from ..models.build import FACTS, build_model, facts_of, wants
from ..models.repeatable import require_repeatable
from ..problem.checks.cautions import image_scale
from ..problem.joining import joined
from ..problem.problem import Problem
from ..registry import DATA, LOSSES, MODELS, OBJECTIVES
from ..results.provenance import origins
from ..results.run import Run
from ..results.target import Target
from ..runtime.random_state import preserved_random_state, seed_everything
from ..sharding.wrap import fully_sharded
from ..specs import ProblemSpec, key_values
from ..weights.checkpoint import Weights, read_weights
from ..weights.load_state_dict import load_into


def open_problem(
    target: Target | str, spec: ProblemSpec | None = None, *, all_domains: bool = False, trust: bool = False
) -> Problem:
    """Build the problem a target stands for: its network at its weights, its data, its loss.

    Args:
        target: What to open.
        spec: Overrides and choices; a run says model, data and loss itself, a bare file needs them.
        all_domains: Take the domains the run held out, too.
        trust: Import plug-ins that only the run names.

    Raises:
        UsageError: If the target does not say enough, or a plug-in is not trusted.
        DataError: If weights or data do not fit.
        NumericalError: If the weights are not finite.
    """
    target = Target.find(target) if isinstance(target, str) else target
    return opened(target, spec or ProblemSpec(), all_domains=all_domains, trust=trust)[0]


@dataclass(frozen=True)
class Selection:
    """The examples that a target and a spec stand for.

    Attributes:
        splits: All that the data have, as the run was trained on them.
        examples: Those of the spec's split, of the wanted domains, and as many as it asks for.
        others: Those of the same domains in the other splits, as many as in the problem at most.
        data: Where they come from.
        wanted: Domains.
        holdout: Domains that the run held out.
    """

    splits: Splits
    examples: Examples
    others: dict[str, Examples]
    data: Plugin
    wanted: tuple[str, ...]
    holdout: tuple[str, ...]


def selected(
    target: Target, spec: ProblemSpec, *, all_domains: bool, trust: bool, first: int | None = None
) -> Selection:
    """The examples of a target; of data that is a stream the ``first``, or as many as ``spec`` asks for."""
    recorded = target.run.spec if target.run else {}
    data = _named("data", spec.data, recorded, DATA, trust)
    data_arg = spec.data_arg or (() if spec.data else recorded.get("data_arg", ()))
    if spec.objective and not spec.data:
        fix = "name a callable that returns ready-made batches with `data=`"
        raise UsageError("an objective wants its own batches, not those of a run", "`objective=`", fix)
    ready = spec.objective is not None
    splits = open_data(data, key_values(data_arg, "data_arg"), first or spec.examples, ready_made=ready)
    if target.run and not spec.data:  # the examples as the run was trained on them
        splits = changed(splits, recorded, recorded.get("holdout", ()), recorded["seed"][0]).splits
    splits.check_domains(spec.domain, "`domain=`")
    splits.split(spec.split)
    holdout = tuple(recorded.get("holdout", ())) if not spec.data else ()
    wanted = spec.domain or tuple(d for d in splits.domains or () if all_domains or d not in holdout)
    found = {k: e.of_domains(wanted) if wanted and e.domains else e for k, e in splits.items()}
    examples = found.pop(spec.split)
    if not len(examples):
        raise UsageError("no example is left", f"`split={spec.split!r}` `domain={tuple(wanted)!r}`", "choose others")
    if spec.examples is not None:
        examples = examples.subset(spec.examples, spec.seed)
        found = {k: e.subset(min(spec.examples, len(e)), spec.seed) for k, e in found.items()}
    return Selection(splits, examples, found, data, wanted, holdout)


def opened(
    target: Target, spec: ProblemSpec, *, all_domains: bool, trust: bool
) -> tuple[Problem, dict[str, Examples]]:
    """The problem, and the examples of the same domains in the other splits (as many as in the problem at most)."""
    recorded = target.run.spec if target.run else {}
    weights = read_weights(target.checkpoint, spec.key)  # a wrong file is told before minutes of loading data
    _require_said("data", spec.data, recorded, DATA)
    loss = _loss_of(spec, recorded, trust)
    objective = as_objective(loss.call) if spec.objective else None
    beside = functools.partial(_beside, loss.call, objective)
    network = functools.partial(_network, target, spec, weights, trust, beside)
    facts = target.run.record.get("ingredients", {}).get("facts", {}) if target.run else {}
    made = None
    if spec.data or recorded.get("data"):
        with preserved_random_state():
            seed_everything(0, "open")
            made = network(facts)
    with preserved_random_state():
        seed_everything(0, "open")
        chosen = selected(target, spec, all_domains=all_domains, trust=trust)
        examples, data = chosen.examples, chosen.data
        made = made or network(facts_of(chosen.splits["train"]))
        assert made is not None
        model, plugin = made.model, made.plugin
        require_repeatable(model, made.build, made.kept, examples, plugin.name)
        if spec.shard:
            model = fully_sharded(model, spec.device)
        problem = Problem(
            model,
            examples,
            None if spec.objective else loss.call,
            params=spec.params,
            batch_size=spec.batch_size,
            device=spec.device,
            dtype=spec.dtype,
            unseen=[d for d in chosen.splits.unseen(chosen.holdout) if d in chosen.wanted],
            mode=spec.mode,
            replay_seed=spec.replay_seed,
            loss_over=spec.loss_over,
            objective=objective,
            weight_decay=spec.weight_decay,
            logit_chunk=spec.logit_chunk,
            product=spec.product,
            copy=False,  # built here, for nobody else
        )
    problem.loss_name = loss.name
    named = {"data": data, "model": plugin, "objective" if spec.objective else "loss": loss}
    problem.origins = origins(named, [target.checkpoint])
    problem.start = _start(target.run)
    if not (target.run and target.run.spec.get("init") is None and not spec.data):  # else it was trained as it is
        given = NORMALIZATIONS.get(str(examples.facts.get("normalize")))
        problem.cautions += image_scale(problem.network, examples.facts, given, plugin.name)
    return problem, {k: e for k, e in chosen.others.items() if len(e)}


def _loss_of(spec: ProblemSpec, recorded: Mapping[str, object], trust: bool) -> Plugin:
    """What makes the loss: the objective, or the loss that is named or that the run was trained with."""
    if spec.objective:
        return _named("objective", spec.objective, {}, OBJECTIVES, trust)
    return _named("loss", spec.loss, recorded or {"loss": "cross_entropy"}, LOSSES, trust)


def _beside(loss: object, objective: object, network: nn.Module) -> nn.Module:
    """The network with its loss or objective beside it; one with parameters is copied, for each problem its own."""
    made_by = loss if objective is None else objective
    own = copy.deepcopy(made_by) if isinstance(made_by, nn.Module) else made_by
    return joined(network, own, None if objective is None else own)


@dataclass(frozen=True)
class _Network:
    model: nn.Module
    plugin: Plugin
    build: Callable[[], nn.Module]
    kept: list[str]


def _network(
    target: Target,
    spec: ProblemSpec,
    weights: Weights,
    trust: bool,
    beside: Callable[[nn.Module], nn.Module],
    facts: Mapping[str, Any],
) -> _Network | None:
    """The network with the weights in it; None if its builder wants to know facts of the data, and there are none."""
    recorded = target.run.spec if target.run else {}
    adapter = target.checkpoint if is_adapter(target.checkpoint) else None
    plugin_of = base_model if adapter else said_model  # of a folder that says itself what it is
    said = None if spec.model or recorded.get("model") else plugin_of(target.checkpoint)
    own = {"model": said} if said else recorded
    plugin = _named("model", spec.model, own, MODELS, trust)
    arguments = key_values(spec.model_arg or (() if spec.model else recorded.get("model_arg", ())), "model_arg")
    if not facts and wants(plugin, arguments, FACTS):
        return None

    def build() -> nn.Module:
        model = build_model(plugin, arguments, facts)
        return beside(with_adapter(model, adapter, weights.tensors) if adapter else model)

    model = build()
    kept = load_into(model, weights, target.checkpoint, subset=names_of_state(adapter) if adapter else spec.params)
    return _Network(model, plugin, build, kept)


def _start(run: Run | None) -> Path | None:
    """The checkpoint that a run's training started from, if it has kept one."""
    if run is None:
        return None
    return run.checkpoints().get(0) or (Path(run.spec["init"]) if run.spec.get("init") else None)


def _named(what: str, given: str | None, recorded: Mapping[str, object], registry: Registry, trust: bool) -> Plugin:
    name = _require_said(what, given, recorded, registry)
    return resolve(name, registry, from_record=given is None, trust=trust)


def _require_said(what: str, given: str | None, recorded: Mapping[str, Any], registry: Registry) -> str:
    name: str | None = given or recorded.get(what)
    if name is None:
        whose = "the record of this loop" if recorded else "a bare checkpoint"
        raise UsageError(
            f"{whose} does not say its {what}",
            argument(what),
            f"name one: {', '.join(registry)}, or file.py:callable",
        )
    return name


def splits_of(
    target: Target, problem_spec: ProblemSpec, problem: Problem, *, trust: bool = False
) -> Callable[[str], Examples]:
    """From the name of a split to its examples: of the same domains, and at most as many as the problem asks for."""

    def of(name: str) -> Examples:
        if name == problem_spec.split:
            return problem.examples
        asked = problem_spec.with_(split=name, examples=None)
        with preserved_random_state():
            seed_everything(0, "open")
            found = selected(target, asked, all_domains=False, trust=trust, first=problem_spec.examples).examples
        few = problem_spec.examples is not None and problem_spec.examples < len(found)
        return found.subset(problem_spec.examples or 0, problem_spec.seed) if few else found

    return of

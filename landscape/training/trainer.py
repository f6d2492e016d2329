"""The trainer: which runs there are, in which folders, and how each begins, goes on or is left alone."""

from __future__ import annotations

import datetime
import itertools
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from ..base.files import jsonable, stable_hash
from ..base.labels import file_names
from ..base.progress import report
from ..problem.fingerprint import fingerprint
from ..registry import OPTIMIZERS
from ..results.run import Run
from ..runtime.caller_context import computing
from ..runtime.distributed import barrier, is_main_process, rank_and_world_size, require_equal, run_on_main
from ..runtime.random_state import preserved_random_state
from ..specs import TrainSpec
from .loop import Training
from .selection import select_across_runs, select_checkpoint
from .setup import TrainingInputs, check_examples, open_inputs, resolved_spec, with_validation
from .signals import StopFlag, stop_on_signals

log = logging.getLogger(__name__)


@computing()
def train(spec: TrainSpec, out: Path | str = "runs", *, resume: bool = False, force: bool = False) -> list[Run]:
    """Train every (optimizer, seed) of ``spec`` into ``out/OPTIMIZER-seedN``.

    With ``leave_one_out`` every domain is held out in turn, into ``out/unseen-DOMAIN/OPTIMIZER-seedN``; selection
    by leave-one-domain-out also trains with every pair held out, into ``out/unseen-DOMAIN+DOMAIN/...``.

    Args:
        spec: What to train.
        out: Folder of the run folders; created if missing.
        resume: Continue unfinished runs.
        force: Start anew where a run exists.

    Returns:
        The finished runs, pairs last. A run that is finished already, with the same spec, is returned as it is.

    Raises:
        Interrupted: On SIGINT, SIGTERM, SIGUSR1 or SIGHUP, after saving.
        NumericalError: If a loss is not finite; the last saved state is kept.
        UsageError: If a folder holds another run, or an unfinished one without ``resume`` or ``force``.
    """
    ingredients = open_inputs(spec)
    planned = list(_planned(spec, ingredients, Path(out)))
    for one, _ in planned:
        check_examples(one, ingredients.splits)
    runs = []
    with preserved_random_state(), stop_on_signals() as stop:
        for i, (one, folder) in enumerate(planned):
            report("runs", i, len(planned), one.name)
            runs.append(train_one(one, ingredients, folder, stop, resume=resume, force=force))
        report("runs", len(planned), len(planned))
    if spec.select == "leave-one-domain-out":
        if is_main_process():
            select_across_runs(runs)
        barrier()
    return runs


def _planned(spec: TrainSpec, ingredients: TrainingInputs, out: Path) -> Iterator[tuple[TrainSpec, Path]]:
    """Every single run with its folder."""
    if not spec.leave_one_out:
        yield from ((one, out / one.name) for one in spec.runs())
        return
    domains = ingredients.splits.domains
    if ingredients.splits.untrained:
        raise UsageError(
            f"train has no example of {', '.join(ingredients.splits.untrained)}: unseen beside every domain left out",
            "`leave_one_out=`",
            "drop the flag, or let the data give them to train, too",
        )
    if not domains or len(domains) < 2:
        raise UsageError("there are no domains to leave out", "`leave_one_out=`", "use data with two or more domains")
    pairs = spec.select == "leave-one-domain-out"
    if pairs and len(domains) < 3:
        raise UsageError("two held-out domains leave none to train on", "`select=`", "it needs three domains or more")
    held = [(d,) for d in domains] + (list(itertools.combinations(domains, 2)) if pairs else [])
    folders = file_names("+".join(names) for names in held)
    for names in held:
        for one in spec.with_(leave_one_out=False, select="last" if pairs else spec.select, holdout=names).runs():
            yield one, out / f"unseen-{folders['+'.join(names)]}" / one.name


def train_one(
    spec: TrainSpec,
    ingredients: TrainingInputs,
    folder: Path,
    stop: StopFlag,
    *,
    resume: bool = False,
    force: bool = False,
) -> Run:
    """Train a single (optimizer, seed) into ``folder``; arguments as in `train`."""
    run = Run(folder)
    asked, spec = spec.validation, with_validation(spec, ingredients.splits)
    if spec.validation != asked:
        log.info("the data has no split val: %g of the training examples are set aside to choose by", spec.validation)
    training = Training(spec, ingredients, run, stop)  # everything that can be refused is refused before writing
    resolved = resolved_spec(spec, ingredients)
    record = ingredients.record()
    config = config_hash(spec, ingredients)
    require_equal("data and settings", config, "give every process the same files and command")
    with run.writing():
        earlier = _hash_of(spec, ingredients, _without_code(record))
        wanted = {k: v for k, v in resolved.items() if k not in spec.not_in_key()}
        if not run_on_main(lambda: _goes_on(run, (config, earlier), wanted, resume=resume, force=force)):
            run.start(
                {
                    "version": 1,
                    "status": "running",
                    "spec": resolved,
                    "config_hash": config,
                    "ingredients": record,
                    "origins": ingredients.origins(),
                    "processes": rank_and_world_size()[1],
                    "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "versions": versions(),
                }
            )
        if run_on_main(lambda: run.record["status"] == "finished"):
            log.info("%s is finished already", run.path)
        else:
            training.fit()
        if spec.select not in ("last", "leave-one-domain-out") and run_on_main(
            lambda: not run.record.get("selected")
        ):
            run.update(selected=run_on_main(lambda: select_checkpoint(run, spec.select)))
    barrier()
    return run


def config_hash(spec: TrainSpec, ingredients: TrainingInputs) -> str:
    """What a run folder's ``config_hash`` is for this training: its settings, code and examples."""
    return _hash_of(with_validation(spec, ingredients.splits), ingredients, ingredients.record())


def _hash_of(spec: TrainSpec, ingredients: TrainingInputs, record: Mapping[str, Any]) -> str:
    resolved = resolved_spec(spec, ingredients)
    known = set(resolved) - spec.not_in_key() - {k for k in spec.to_dict() if k not in spec.in_key()}
    method = spec.optimizer[0]
    others = {} if OPTIMIZERS.is_own(method) else {"optimizer_code": fingerprint(OPTIMIZERS.load(method))}
    return stable_hash({**{k: v for k, v in resolved.items() if k in known}, **record, **others})


def _without_code(record: Mapping[str, Any]) -> dict[str, Any]:
    """The ingredients as runs kept them before they said which files a plug-in imports."""
    return {k: {n: x for n, x in v.items() if n != "code"} if isinstance(v, dict) else v for k, v in record.items()}


def _differences(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What a run was asked for that is asked otherwise now."""
    kept = record.get("spec")
    there = jsonable(kept) if isinstance(kept, Mapping) else {}
    named = [
        f"{k} = {there[k]!r} there, {v!r} now" for k, v in jsonable(wanted).items() if k in there and there[k] != v
    ]
    more = f", and {len(named) - 3} more" if len(named) > 3 else ""
    return "; ".join(named[:3]) + more if named else "other code or other examples"


def _goes_on(run: Run, configs: Sequence[str], wanted: Mapping[str, Any], *, resume: bool, force: bool) -> bool:
    """Whether an existing run is continued (True) or a new one started (False)."""
    if force or not Run.is_run(run.path):
        if not force:
            run.require_free("choose another `out=`, or pass `force=True`")
        return False
    record = run.record
    if record.get("config_hash") not in configs:
        raise UsageError(
            f"the folder holds a run of another configuration ({_differences(record, wanted)})",
            str(run.path),
            "choose another `out=`, or pass `force=True`",
        )
    if record.get("status") != "finished" and not resume:
        raise UsageError(
            "the folder holds an unfinished run",
            str(run.path),
            "pass `resume=True` to go on, or `force=True` to start anew",
        )
    return True


def versions() -> dict[str, str]:
    """What a run was made with, as its ``run.json`` says."""
    return {"landscape": _own_version(), "torch": _torch_version(), "python": platform.python_version()}


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flatminima")
    except PackageNotFoundError:
        return "unknown"


def training_json(run: Run) -> dict[str, Any]:
    """The object that ``landscape train --json`` prints for one run."""
    record = run.record
    spec = record["spec"]
    return {
        "path": str(run.path),
        "optimizer": spec["optimizer"][0],
        "seed": spec["seed"][0],
        "status": record["status"],
        "steps": record.get("steps"),
        "final": record.get("final"),
        "gradient_evaluations": record.get("gradient_evaluations"),
        "weights_hash": record.get("weights_hash"),
        "seconds": record.get("seconds"),
        "stopped": record.get("stopped"),
        "selected": record.get("selected"),
        "average": record.get("average"),
    }

"""Five strangers' scripts with the libraries as they are: trained, killed, started again, and put into one report.

Each is a process of its own that imports nothing of the tests; it dies of SIGKILL in the middle of its training, and
the same call goes on. `STOP` is when: after so many steps of the base optimizer.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from landscape_cli.app import main
from torch.optim.optimizer import register_optimizer_step_post_hook

import landscape

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("libraries"),
    pytest.mark.filterwarnings("ignore"),
]
ODD = Path(__file__).parent / "strangers" / "odd"
SCRIPTS = sorted((Path(__file__).parent / "strangers").glob("*.py"))
METHODS = ("sam", "disam")
STEPS = 12
STOP = 8
USED = {
    "lightning.pytorch": "Trainer",
    "transformers": "Trainer TrainingArguments BertForSequenceClassification LlamaForSequenceClassification",
    "accelerate": "Accelerator",
    "timm": "create_model",
    "peft": "get_peft_model",
}


@pytest.fixture(scope="module")
def home(libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to be in; what the scripts import is imported before they are forked."""
    for module, names in USED.items():
        for name in names.split():
            getattr(importlib.import_module(module), name)
    folder = tmp_path_factory.mktemp("strangers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.chdir(folder)
        yield folder


def call(script: Path, folder: Path, method: str, stop: int | None = None) -> int:
    """Run a script in a process of its own; the signal that ended it, or 0."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, Path(f"{folder}.log").read_text()
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    try:
        out = os.open(f"{folder}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout, sys.stderr = (os.fdopen(k, "w", closefd=False) for k in (1, 2))
        made: list[int] = []

        def kill(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            made.extend([1] if not isinstance(optimizer, landscape.ERM) else [])
            if len(made) == stop:
                os.kill(os.getpid(), signal.SIGKILL)

        register_optimizer_step_post_hook(kill)
        sys.argv = [str(script), str(folder), method]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[tuple[str, str], Path]:
    """All runs, each killed once and gone on with."""
    found = {}
    for script in SCRIPTS:
        for method in METHODS:
            folder = home / "runs" / f"{script.stem}-{method}"
            folder.parent.mkdir(exist_ok=True)
            assert call(script, folder, method, STOP) == signal.SIGKILL
            run = landscape.Run(folder)
            assert run.record["status"] == "running"
            assert max(line["step"] for line in run.metrics()) in (STOP - 1, STOP)
            assert call(script, folder, method) == 0
            found[script.stem, method] = folder
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_killed_training_ends_where_a_whole_one_ends(script: Path, home: Path, runs: dict[tuple[str, str], Path]):
    ends = []
    for method in METHODS:
        whole, killed = landscape.Run(home / f"{script.stem}-{method}"), landscape.Run(runs[script.stem, method])
        assert call(script, whole.path, method) == 0
        assert killed.record["weights_hash"] == whole.record["weights_hash"]
        courses = [[(r["step"], r["loss"]) for r in run.metrics() if r.get("loss")] for run in (killed, whole)]
        assert courses[0] == courses[1]
        assert [step for step, _ in courses[0]] == list(range(1, STEPS + 1))
        assert courses[0][-1][1] < courses[0][0][1]
        assert whole.spec["optimizer"] == [method]
        ends.append(whole.record["weights_hash"])
    assert len(set(ends)) == len(METHODS)


def test_one_report_compares_them(home: Path, runs: dict[tuple[str, str], Path], capsys: pytest.CaptureFixture[str]):
    """By the commands, which find network, data and loss of each run; none of the ten is averaged with another."""
    folders = [str(folder.relative_to(home)) for folder in runs.values()]

    def command(*words: str) -> dict[str, Any]:
        code, told = main([*words, "--json"]), capsys.readouterr()
        assert code == 0, told.err[-2000:]
        found: dict[str, Any] = json.loads(told.out)
        return found

    command("hessian", *folders, "--top", "2", "--examples", "12")
    command("surface", *folders, "--points", "3", "--examples", "12")
    for folder in folders:
        stored = {r.kind: r for r in map(landscape.Result.load, Path(folder, "results").glob("*.nc"))}
        assert float(stored["hessian"].data["residuals"].max()) < 1e-2
        assert torch.isfinite(torch.as_tensor(stored["surface"].data["loss"].values)).all()
        assert stored["hessian"].record["run"]["step"] == STEPS
    command("plot", *folders, "--kind", "eigenvalues", "training", "contour", "--format", "png", "--out", "figures")
    eigenvalues = Path("figures/eigenvalues.csv").read_text()
    command("report", *(f"{folder}/results" for folder in folders), "--page", "all.html")
    page = Path("all.html").read_text()
    whose = {"in_lightning", "in_trainer", "with_accelerate", "of_peft", "timm:test_resnet num_classes=3"}
    for method in METHODS:
        for network in whose:
            assert f"{method} (network={network})" in eigenvalues
            assert f"{method.upper()} (network={network})" in page
    for folder in folders:
        assert folder in page


@pytest.mark.parametrize(
    ("script", "how", "stop"),
    [
        ("in_lightning", "batch=4,k=4", 7),  # ten batches: the last step of an epoch has two
        ("in_lightning", "batch=4,k=4,plateau=1", 7),  # told by Lightning after the checkpoint is written
        ("in_trainer", "batch=4,k=4", 5),
    ],
)
def test_what_does_not_divide_and_is_told_once_per_epoch(home: Path, script: str, how: str, stop: int):
    whole, killed = (landscape.Run(home / f"{script}-{how}-{name}") for name in ("whole", "killed"))
    assert call(ODD / f"{script}.py", killed.path, how, stop) == signal.SIGKILL
    for run in (whole, killed):
        assert call(ODD / f"{script}.py", run.path, how) == 0
    courses = [[(r["step"], r["loss"], r["lr"]) for r in run.metrics() if r.get("loss")] for run in (whole, killed)]
    assert courses[0] == courses[1]
    assert len(courses[0]) == STEPS
    assert len({rate for _, _, rate in courses[0]}) >= 3
    assert killed.record["weights_hash"] == whole.record["weights_hash"]


@pytest.mark.parametrize(
    ("script", "then", "refused"),
    [
        ("in_trainer", "batch=8,k=1", None),  # as many examples in a step, on a larger device
        ("in_trainer", "batch=4,k=4", "another steps_per_epoch (5, here 3), another batch_size (8, here 16)"),
        ("in_lightning", "batch=2,k=2,devices=2", None),  # and on two
        ("in_lightning", "batch=4,k=2,devices=2", "another steps_per_epoch (5, here 3), another batch_size (8, here"),
    ],
)
def test_gone_on_with_on_another_machine(home: Path, script: str, then: str, refused: str | None):
    run = landscape.Run(home / f"{script}-{then}-other")
    assert call(ODD / f"{script}.py", run.path, "batch=4,k=2", 7) == signal.SIGKILL
    before = run.metrics()
    if refused is None:
        assert call(ODD / f"{script}.py", run.path, then) == 0
        assert (run.record["status"], run.record["steps"]) == ("finished", 20)
        assert [r["step"] for r in run.metrics() if r.get("loss")] == list(range(1, 21))
    else:
        with pytest.raises(AssertionError, match=re.escape(refused)):
            call(ODD / f"{script}.py", run.path, then)
        assert run.metrics() == before

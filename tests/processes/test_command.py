"""``torchrun --no-python ... landscape``: the results of one process, said and written once; failures end the job."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from landscape_cli.app import main

from landscape.results.result import Result
from landscape.results.run import Run

from .launch import ENTRANCE, HERE, LIMIT, environment, job, landscape

pytestmark = pytest.mark.slow
MINE = HERE / "mine.py"
PLUGINS = ("--model", f"{MINE}:network", "--data", f"{MINE}:data", "--dtype", "float64", "--device", "cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from cases import small_mlp

    torch.save(small_mlp().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What went wrong; not that torchrun then stopped the others, whom its signal may reach while they compute."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return [line for line in lines if not line.startswith("error: stopped by SIGTERM")]


def test_the_standard_set(weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    folder = weights.parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    words = ("analyze", weights, *PLUGINS, "--json")
    assert main([*map(str, words), "--out", "one"]) == 0
    alone = json.loads(capfd.readouterr().out)
    done = landscape(*words, "--out", "two", folder=folder)
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)  # one object, from one process
    names = [Path(p).name for p in alone["outputs"]]
    assert [Path(p).name for p in together["outputs"]] == names
    assert sorted(p.name for p in (folder / "two").iterdir()) == sorted(p.name for p in (folder / "one").iterdir())
    for name in names:
        one, two = Result.load(folder / "one" / name), Result.load(folder / "two" / name)
        assert two["processes"] == 2
        for array in one.data.data_vars:
            a, b = one.data[array].values, two.data[array].values
            if one.kind == "surface":
                assert a.tobytes() == b.tobytes(), (name, array)
            elif a.dtype.kind == "f":
                np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-9, err_msg=f"{name} {array}")
        assert two.record["data_hash"] == one.record["data_hash"]
    # The same again finds what is stored; nobody computes.
    again = landscape(*words, "--out", "two", folder=folder)
    assert again.stderr.count("stored result") == len(names), "the first process says it, and no other"


def test_sharded_by_the_command(weights: Path):
    """The numbers, and the name, of one process's result; vectors in shards; a process that dies ends the job."""
    folder = weights.parent
    words = ("hessian", weights, *PLUGINS, "--top", 2, "--trace", "--tol", 1e-6, "--json")
    alone = json.loads(landscape(*words, "--out", "one", processes=1, folder=folder).stdout)
    done = landscape(*words, "--out", "two", "--shard", "fsdp", folder=folder)
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert Path(together["result"]).name == Path(alone["result"]).name
    assert together["vectors"].endswith(".safetensors.index.json")
    np.testing.assert_allclose(together["eigenvalues"], alone["eigenvalues"], rtol=1e-9)
    np.testing.assert_allclose(together["trace"]["estimate"], alone["trace"]["estimate"], rtol=1e-9)
    killed = landscape(
        "surface", weights, *PLUGINS, "--loss", f"{MINE}:one_is_killed_late", "--dim", 1, "--points", 3,
        "--repeats", 4, "--range", 0.5, "--shard", "fsdp", "--out", "three", folder=folder,
    )  # fmt: skip
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    assert len(errors(killed)) <= 1, killed.stderr
    assert not list((folder / "three").glob("*.nc"))


def test_products_of_a_killed_job_are_taken_up(weights: Path):
    """One of two is killed: one error, and the same command makes only the other products, to the same bits."""
    folder = weights.parent
    words = ("hessian", weights, *PLUGINS, "--shard", "fsdp", "--loss", f"{MINE}:counted", "--top", 2, "--trace",
             "--tol", 1e-6, "--json")  # fmt: skip

    def passes() -> int:
        counts = [(folder / f"passes-{rank}").stat().st_size for rank in (0, 1)]
        for rank in (0, 1):
            (folder / f"passes-{rank}").unlink()
        return counts[1]

    done = landscape(*words, "--out", "whole", folder=folder)
    assert done.returncode == 0, done.stderr
    needed = passes()
    (folder / "killed-at").write_text(str(needed // 2))
    killed = landscape(*words, "--out", "stopped", folder=folder)
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    said = [line for line in killed.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, killed.stderr
    assert "lost each other" in said[0] or "stopped by SIGTERM" in said[0]
    assert killed.stdout.count("\n") <= 1  # the error as an object
    (store,) = (folder / "stopped").glob("*.products")
    assert not list((folder / "stopped").glob("*.nc"))
    passes()
    (folder / "killed-at").unlink()
    again = landscape(*words, "--out", "stopped", folder=folder)
    assert again.returncode == 0, again.stderr
    assert passes() < 0.7 * needed
    assert not store.exists()
    first, second = json.loads(done.stdout), json.loads(again.stdout)
    for name in ("eigenvalues", "residuals", "trace", "hvp_count", "loss"):
        assert second[name] == first[name], name


def test_a_sharded_job_needs_processes(weights: Path):
    done = landscape("hessian", weights, *PLUGINS, "--shard", "fsdp", processes=1, folder=weights.parent)
    (line,) = errors(done)
    assert line.startswith("error: one process would hold all pieces (--shard fsdp)")


def test_more_processes_than_examples(weights: Path):
    folder = weights.parent
    words = ("hessian", weights, *PLUGINS, "--data-arg", "few=2", "--top", 1, "--json")
    found = [landscape(*words, "--out", str(n), processes=n, folder=folder) for n in (1, 3)]
    alone, together = (json.loads(done.stdout) for done in found)
    assert (alone["processes"], together["processes"], together["n_examples"]) == (1, 3, 2)
    for name in ("eigenvalues", "loss", "gradient_norm"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-9)


@pytest.mark.parametrize(
    ("loss", "says"),
    [("one_fails", "error: ArithmeticError: this one alone cannot"), ("one_is_killed", "SIGKILL")],
)
def test_a_process_that_dies_ends_the_job(weights: Path, loss: str, says: str):
    """With its error, said once; the others leave too, and nothing that looks like a result is left."""
    folder = weights.parent
    done = landscape("hessian", weights, *PLUGINS, "--loss", f"{MINE}:{loss}", "--out", "out", folder=folder)
    assert done.returncode != 0
    assert says in done.stderr
    assert len(errors(done)) <= 1, done.stderr
    assert done.stdout == ""
    assert not list((folder / "out").glob("*.nc"))


def test_an_error_of_all_is_said_once(weights: Path):
    done = landscape("hessian", weights, *PLUGINS, "--top", 99, folder=weights.parent)
    (line,) = errors(done)
    assert line.startswith("error: top=99 (--top): expected fewer than the 57 parameters")
    assert "exitcode  : 2" in done.stderr


@pytest.mark.parametrize("loss", ["one_is_killed", "one_is_stopped"])
def test_nobody_waits_for_ever(weights: Path, loss: str):
    """Without an agent that looks after them, too: a process that is gone or stands still ends the others."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    named = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LANDSCAPE_PROCESS_TIMEOUT": "30"}
    command = [*ENTRANCE, "hessian", str(weights), *PLUGINS, "--loss", f"{MINE}:{loss}"]
    started = [
        subprocess.Popen(
            command, cwd=weights.parent, env=environment(weights.parent, RANK=str(rank), **named),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        _, err = started[0].communicate(timeout=LIMIT)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert started[0].returncode == 5, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "lost each other" in line


TRAINING = ("--optimizer", "disam", "--epochs", 12, "--batch-size", 8, "--save-every", "5steps", "--dtype", "float64",
            "--device", "cpu", "--data", f"{MINE}:data", "--model", f"{MINE}:noisy", "--json")  # fmt: skip


def test_training_is_interrupted_and_goes_on(tmp_path: Path):
    """With dropout and BatchNorm, whose state has to be the same everywhere and afterwards."""
    words = ("train", *TRAINING, "--loss", f"{MINE}:slow")
    done = landscape(*words, "--out", "undisturbed", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (expected,) = json.loads(done.stdout)["runs"]
    assert expected["steps"] == 60
    process = job(*words, "--out", "stopped", folder=tmp_path, SAY=str(tmp_path / "said"))
    end = time.monotonic() + LIMIT
    while not (tmp_path / "said").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)
    run = Run(tmp_path / "stopped" / "disam-seed0")
    assert run.record["status"] == "interrupted", err
    assert err.count("continue with --resume") == 1
    assert run.state_path.exists()
    done = landscape(*words, "--out", "stopped", "--resume", folder=tmp_path)
    (resumed,) = json.loads(done.stdout)["runs"]
    assert resumed["steps"] == expected["steps"]
    assert resumed["weights_hash"] == expected["weights_hash"]

    def log(name: str) -> list[Any]:
        lines = Run(tmp_path / name / "disam-seed0").metrics()
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert log("stopped") == log("undisturbed")


def test_one_process_takes_up_what_two_began(tmp_path: Path):
    """The state of a training knows of no processes."""
    words = [str(w) if w != f"{MINE}:noisy" else f"{MINE}:network" for w in TRAINING]
    said = tmp_path / "said"
    begun = job("train", *words, "--loss", f"{MINE}:slow", "--out", "runs", folder=tmp_path, SAY=str(said))
    while not said.exists() and begun.poll() is None:
        time.sleep(0.02)
    time.sleep(0.1)
    begun.send_signal(signal.SIGTERM)
    begun.communicate(timeout=LIMIT)
    call = [*ENTRANCE, "train", *words, "--loss", f"{MINE}:slow"]
    for out, more in (("runs", ["--resume"]), ("whole", [])):
        done = subprocess.run(
            [*call, "--out", out, *more], cwd=tmp_path, env=environment(tmp_path), timeout=LIMIT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    ends = [Run(tmp_path / out / "disam-seed0").record["final"] for out in ("runs", "whole")]
    assert ends[0]["train_loss"] == pytest.approx(ends[1]["train_loss"], rel=1e-9)

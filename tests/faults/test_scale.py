"""Much of everything: no command does quadratic work, and none prints for ever.

Work is counted, not timed: calls of functions, at one size and at four times that size. What is linear makes at most
four times as many, what is quadratic sixteen times.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from landscape_cli.app import main

from landscape.results.result import Result

pytestmark = pytest.mark.slow

LINES = 250  # a few screens


def calls(function: Callable[[], Any]) -> int:
    """How many functions were called, those of C included."""
    count = [0]

    def note(frame: Any, event: str, argument: Any) -> None:
        count[0] += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count[0]


def command(*words: object) -> str:
    """What a command prints; it must succeed and not print for ever."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(w) for w in words])
    assert code == 0, err.getvalue()
    for text in (out.getvalue(), err.getvalue()):
        assert text.count("\n") < LINES, text[:2000]
    return out.getvalue()


def assert_linear(work: Callable[[int], Callable[[], Any]], small: int) -> None:
    """What does four times as much makes at most five times as many calls."""
    work(2)()  # what is done once: imports, caches
    few, many = (calls(work(n)) for n in (small, 4 * small))
    assert many < 5 * few, f"{small}: {few:,} calls, {4 * small}: {many:,}, {many / few:.1f} times as many"


def results(folder: Path, count: int) -> Path:
    """Stored results of runs that nobody has any more."""
    folder = folder / f"results-{count}"
    if not folder.exists():
        folder.mkdir()
        for i in range(count):
            data = xr.Dataset(
                {"eigenvalues": ("rank", [3.0 + i, 1.0]), "residuals": ("rank", [0.0, 0.0]),
                 "converged": ("rank", [True, True])}, {"rank": [1, 2]},
            )  # fmt: skip
            run = {"optimizer": ("sgd", "sam")[i % 2], "seed": i // 2, "step": 3, "path": str(folder / f"run{i}")}
            Result(
                "hessian", data,
                {"target": f"run{i}", "run": run, "label": run["optimizer"], "split": "train", "operator": "hessian",
                 "density": None, "lambda_ratio": None},
            ).save(folder / f"hessian-{i:05d}.nc")  # fmt: skip
    return folder


@pytest.mark.case(127)
@pytest.mark.parametrize(
    "words", [("plot", "--kind", "eigenvalues", "--format", "svg"), ("export",)], ids=lambda w: w[0]
)
def test_many_results(words: tuple[str, ...], tmp_path: Path) -> None:
    def work(count: int) -> Callable[[], Any]:
        folder = results(tmp_path, count)
        return lambda: command(words[0], folder, *words[1:], "--out", tmp_path / f"out-{words[0]}-{count}")

    assert_linear(work, 60)


@pytest.mark.case(127)
def test_thousands_of_results_are_exported_and_listed_in_short(tmp_path: Path) -> None:
    """One file, as many times: a folder of ten thousand takes as much longer as the counts above say."""
    folder = results(tmp_path, 1)
    (one,) = folder.glob("*.nc")
    content = one.read_bytes()
    for i in range(1, 2_500):
        (folder / f"hessian-{i:05d}.nc").write_bytes(content)
    said = command("export", folder, "--out", tmp_path / "out")
    assert "2,440 more" in said
    assert len(list((tmp_path / "out").iterdir())) == 2_500


MANY = """
import torch
def domains(n):
    x = torch.sin(torch.arange(8.0 * int(n))).reshape(-1, 4)
    parts = {f"d{i:04d}": (x[2 * i : 2 * i + 2], torch.tensor([0, 1])) for i in range(int(n))}
    return {"train": parts, "test": parts}
def classes(n):
    x = torch.sin(torch.arange(4.0 * int(n))).reshape(-1, 4)
    parts = {"a": (x, torch.arange(int(n))), "b": (x.flip(0), torch.arange(int(n)))}
    return {"train": parts, "test": parts}
def linear(n=3):
    return torch.nn.Linear(4, int(n))
def deep(n):
    layers = [m for _ in range(int(n)) for m in (torch.nn.Linear(4, 4), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4, 3))
"""


def made(folder: Path, *words: str) -> Path:
    """A run of one step."""
    (folder / "many.py").write_text(MANY)
    out = folder / "-".join(w.replace("=", "") for w in words if w[0] != "-" and ":" not in w)
    if not out.exists():
        command("train", *words, "--steps", "1", "--batch-size", "4", "--out", out)
    return out / "sgd-seed0"


def logged_run(folder: Path, steps: int) -> Path:
    """A run whose log was made longer."""
    run = made(folder, "--data", "many.py:domains", "--data-arg", "n=2", "--model", "many.py:linear")
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    plain = next(line for line in lines if line.get("loss") is not None) | {"evaluation": None}
    more = [json.dumps({**plain, "step": 10 + i}) for i in range(steps)]
    log.write_text("\n".join([*map(json.dumps, lines), *more]) + "\n")
    return run


@pytest.mark.case(128)
@pytest.mark.parametrize(
    "words", [("info",), ("plot", "--kind", "training", "--format", "svg"), ("export",)], ids=lambda w: w[0]
)
def test_a_long_log(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(count: int) -> Callable[[], Any]:
        (tmp_path / f"n{count}").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / f"n{count}")
        run = logged_run(tmp_path / f"n{count}", count)
        more = () if words == ("info",) else ("--out", tmp_path / f"out-{count}")
        return lambda: command(words[0], run, *words[1:], *more)

    assert_linear(work, 4000)


@pytest.mark.case(128)
def test_a_hundred_thousand_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = logged_run(tmp_path, 100_000)
    command("info", run)
    command("plot", run, "--kind", "training", "--format", "svg", "--out", tmp_path / "out")
    assert (tmp_path / "out/training.svg").stat().st_size < 5_000_000


@pytest.mark.case(129)
@pytest.mark.parametrize("name", ["domains", "sharpness"])
def test_many_domains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def work(count: int) -> Callable[[], Any]:
        run = made(tmp_path, "--data", "many.py:domains", "--data-arg", f"n={count}", "--model", "many.py:linear")
        return lambda: command(name, run)

    assert_linear(work, 60)
    run = made(tmp_path, "--data", "many.py:domains", "--data-arg", "n=500", "--model", "many.py:linear")
    assert "more" in command("domains", run)


@pytest.mark.case(130)
def test_many_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rows of the last layer are no thousand passes."""
    monkeypatch.chdir(tmp_path)

    def work(count: int) -> Callable[[], Any]:
        words = ("--data", "many.py:classes", "--data-arg", f"n={count}", "--model", "many.py:linear")
        run = made(tmp_path, *words, "--model-arg", f"n={count}")
        return lambda: command("hessian", run, "--operator", "ggn", "--top", "2", "--examples", "4", "--tol", "0.1")

    assert_linear(work, 250)


@pytest.mark.case(131)
def test_many_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def work(count: int) -> Callable[[], Any]:
        words = ("--data", "many.py:domains", "--data-arg", "n=2", "--model", "many.py:deep")
        run = made(tmp_path, *words, "--model-arg", f"n={count}")
        return lambda: command("surface", run, "--dim", "1", "--points", "3")

    assert_linear(work, 100)
    command("info", made(tmp_path, "--data", "many.py:domains", "--data-arg", "n=2", "--model", "many.py:deep",
                         "--model-arg", "n=3000"))  # fmt: skip


STUDY = """
name = "large"
[train]
data = "gaussian-domains"
model = "mlp"
steps = 1
[grid]
optimizer = ["sgd", "sam"]
lr = [{lrs}]
[seeds]
init = [{seeds}]
[[analyses]]
kind = "sharpness"
measure = ["m-sharpness"]
m = [8]
rho = [0.1]
"""


@pytest.mark.case(132)
@pytest.mark.parametrize("what", ["plan", "status"])
def test_many_cells_of_a_study(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def work(count: int) -> Callable[[], Any]:
        lrs = ", ".join(str(round(0.001 * (i + 1), 6)) for i in range(count // 20 + 1))
        file = tmp_path / f"study{count}.toml"
        file.write_text(STUDY.format(lrs=lrs, seeds=", ".join(map(str, range(10)))))
        folder = tmp_path / f"out{count}"
        return lambda: command("study", what, file, "--out", folder)

    assert_linear(work, 300)
    if what == "plan":
        work(5000)()

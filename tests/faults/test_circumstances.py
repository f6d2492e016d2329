"""Odd places to be started in: the numbers are those of any other place, and what is written can be read."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape.results.result import Result

from .conftest import COMMAND, Landscape, assert_same_run

pytestmark = pytest.mark.slow  # every case starts processes of its own

# A domain whose name an ASCII terminal cannot say.
PLUGIN = """
import torch
def data():
    x = torch.sin(torch.arange(240.0)).reshape(60, 4)
    parts = {"größe": (x[:35], torch.arange(35) % 3), "b": (x[35:], torch.arange(25) % 3)}
    return {"train": parts, "test": parts}
def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
"""
TRAIN = (
    "train", "--data", "plug.py:data", "--model", "plug.py:network", "--optimizer", "sam", "--steps", "6",
    "--batch-size", "16", "--probe", "domain-variance@every=2",
)  # fmt: skip
RUN = "runs/sam-seed0"
LOOK = ("domains", RUN)
SHOW = ("export", f"{RUN}/results", "--out", "out", "--json")
PLAIN_PYTHON = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

ENVIRONMENTS: dict[str, tuple[int, dict[str, str | None]]] = {
    "no home": (105, {"HOME": None}),
    "a home that is a file, and no place for temporary files": (
        105, {"HOME": "/etc/passwd", "TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"},
    ),
    "an empty environment": (105, dict.fromkeys(os.environ)),
    "ASCII": (106, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", **PLAIN_PYTHON}),
    "a locale that is not installed": (106, {"LC_ALL": "xx_YY.ISO-8859-1", "LANG": "xx_YY", **PLAIN_PYTHON}),
    "one column": (107, {"COLUMNS": "1", "TERM": "dumb"}),
    "columns that are no number": (107, {"COLUMNS": "wide", "LINES": "0", "TERM": "nobody", "FORCE_COLOR": "1"}),
}  # fmt: skip


def limits(**values: int) -> Any:
    """What sets these limits in a child: ``NOFILE``, ``AS``, ``FSIZE``."""
    return lambda: [resource.setrlimit(getattr(resource, f"RLIMIT_{k}"), (v, v)) for k, v in values.items()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same work where nothing is odd."""
    folder = tmp_path_factory.mktemp("plain")
    usual = Landscape(folder)
    usual.file("plug.py", PLUGIN)
    for words in (TRAIN, LOOK, SHOW):
        outcome = usual(*words)
        assert outcome.code == 0, outcome.err
    return folder


def assert_same_work(folder: Path, plain: Path) -> None:
    """The run, its stored result, and a table that says the same."""
    assert_same_run(plain / RUN, folder / RUN)
    ours, theirs = (sorted(p.name for p in (f / RUN / "results").glob("*.nc")) for f in (folder, plain))
    assert ours == theirs
    assert len(ours) == 1
    for name in ours:
        one, other = (Result.load(f / RUN / "results" / name).data for f in (folder, plain))
        for variable in other.variables:
            assert np.array_equal(one[variable].values, other[variable].values), (name, variable)
    if not (folder / "out").exists():
        return
    tables = [{p.name: p.read_bytes() for p in (f / "out").iterdir()} for f in (folder, plain)]
    assert tables[0] == tables[1]
    assert any("größe" in table.decode() for table in tables[0].values())


@pytest.mark.parametrize(
    "environment", [pytest.param(name, marks=pytest.mark.case(case)) for name, (case, _) in ENVIRONMENTS.items()]
)
def test_an_odd_environment_changes_nothing(environment: str, landscape: Landscape, plain: Path) -> None:
    landscape.file("plug.py", PLUGIN)
    changes = {k: v for k, v in ENVIRONMENTS[environment][1].items() if k != "PATH"}
    landscape.env = {k: v for k, v in {**landscape.env, **changes}.items() if v is not None}
    train, look = (landscape(*words) for words in (TRAIN, (*LOOK, "--trust-run")))
    for outcome in (train, look):
        assert outcome.code == 0, outcome.err
        assert "Traceback" not in outcome.err
    if ENVIRONMENTS[environment][0] == 106:  # what is written as text
        show = landscape(*SHOW)
        assert sorted(show.json["outputs"]) == sorted(str(p) for p in (landscape.folder / "out").iterdir())
    assert_same_work(landscape.folder, plain)
    said = "".join(look.out.split())
    assert "größe" in said or "gr\\xf6\\xdfe" in said or environment == "one column"


@pytest.mark.case(107)
def test_nobody_else_may_read_what_was_written_under_a_narrow_mask(landscape: Landscape, plain: Path) -> None:
    landscape.file("plug.py", PLUGIN)
    for words in (TRAIN, LOOK, SHOW):
        assert landscape(*words, preexec=lambda: os.umask(0o077)).code == 0
    assert_same_work(landscape.folder, plain)
    for path in (landscape.folder / "runs", landscape.folder / "out", *(landscape.folder / "runs").rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.case(108)
@pytest.mark.parametrize("given", [{"NOFILE": 32}, {"AS": 6 * 2**30}], ids=["32 files", "6 GB of addresses"])
def test_little_of_what_a_process_may_have(given: dict[str, int], landscape: Landscape, plain: Path) -> None:
    landscape.file("plug.py", PLUGIN)
    for words in (TRAIN, LOOK):
        outcome = landscape(*words, preexec=limits(**given))
        assert outcome.code == 0, outcome.err
    assert_same_work(landscape.folder, plain)


@pytest.mark.case(108)
@pytest.mark.parametrize("gigabytes", [0.5, 1.5])
def test_too_few_addresses_are_said_to_be(gigabytes: float, landscape: Landscape, plain: Path) -> None:
    """Whatever fails first, the loading of libraries included: one line, our exit code, nothing half written."""
    landscape.file("plug.py", PLUGIN)
    outcome = landscape(*TRAIN, preexec=limits(AS=int(gigabytes * 2**30)))
    if outcome.code == 0:
        assert_same_run(plain / RUN, landscape.folder / RUN)
        return
    assert outcome.code == 5, outcome.err
    assert "memory" in outcome.error
    assert not list(landscape.folder.rglob("*.tmp"))


@pytest.mark.case(109)
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nobodys_business(closed: str, landscape: Landscape, plain: Path) -> None:
    """A file that is opened instead gets none of what is printed."""
    landscape.file("plug.py", PLUGIN)
    for words in (TRAIN, LOOK, SHOW, ("nothing",)):
        line = f'exec "$@" {closed}'
        process = subprocess.run(
            ["bash", "-c", line, "bash", COMMAND, *words],
            cwd=landscape.folder, env=landscape.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == (2 if words == ("nothing",) else 0), process.stderr
    assert_same_work(landscape.folder, plain)

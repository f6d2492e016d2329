"""Killed, stopped or short of budget: the same run goes on from its stored products, to the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import domain_data, problem_of, small_mlp

from landscape.base.errors import Interrupted
from landscape.curvature.hessian import NotConverged, hessian
from landscape.curvature.lanczos import journal
from landscape.curvature.lanczos.journal import Journal, journal_name
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem
from landscape.problem.products import Products
from landscape.results.result import Result

EVERYTHING = {"top": 3, "bottom": 1, "tol": 1e-5, "trace": True, "trace_rtol": 0.3, "density": True}


class Counted:
    """Counts true products; at the ``last`` one it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int | None = None, error: type = RuntimeError) -> None:
        self.made = 0
        plain = Products.__call__

        def call(products: Products, v: torch.Tensor) -> torch.Tensor:
            if self.made == last:
                raise error("killed")
            self.made += 1
            return plain(products, v)

        monkeypatch.setattr(Products, "__call__", call)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every product at once."""
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(journal, "_LARGEST_SHARE", 0)


def net_problem() -> Problem:
    return problem_of(small_mlp(), domain_data((9, 20)), batch_size=16)


def numbers(result) -> dict:
    return {k: v for k, v in result.record.items() if k not in ("seconds", "products")}


@pytest.fixture(scope="module")
def whole() -> Result:
    """What a run gives that nobody stops."""
    return hessian(net_problem(), per_domain=True, **EVERYTHING)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("stop", [2, 40])  # in the symmetry check, and well after it
def test_a_killed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Result, stop: int
):
    with monkeypatch.context() as patch:
        Counted(patch, last=stop)
        with pytest.raises(RuntimeError, match="killed"):
            hessian(net_problem(), per_domain=True, store=tmp_path / "j", **EVERYTHING)
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        again = hessian(net_problem(), per_domain=True, store=tmp_path / "j", **EVERYTHING)
    assert counted.made == sum(p["hvp_count"] for p in (again.record, *again["domains"].values())) - stop
    assert numbers(again) == numbers(whole)
    for name, vector in whole.vectors.items():
        assert torch.equal(vector, again.vectors[name])


@pytest.mark.usefixtures("eager")
def test_a_larger_budget_or_a_smaller_tolerance_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(NotConverged):
        hessian(net_problem(), top=2, tol=1e-9, max_products=6, store=tmp_path / "j")
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        found = hessian(net_problem(), top=2, tol=1e-9, store=tmp_path / "j")
    assert all(found["converged"])
    assert counted.made == found["hvp_count"] - 6
    assert numbers(found) == numbers(hessian(net_problem(), top=2, tol=1e-9))


def test_ctrl_c_writes_first_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        Counted(patch, last=7, error=KeyboardInterrupt)
        with pytest.raises(
            Interrupted, match=r"stopped with 7 products stored.*run the same command again"
        ) as caught:
            hessian(net_problem(), top=2, store=tmp_path / "j")
    assert caught.value.exit_code == 75
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        found = hessian(net_problem(), top=2, store=tmp_path / "j")
    assert counted.made == found["hvp_count"] - 7


@pytest.mark.usefixtures("eager")
def test_damage_and_other_vectors_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    problem, v = net_problem(), torch.ones(57, dtype=torch.float64)
    with Journal(tmp_path).of(operator_of(problem), "whole") as first:
        product = first(v)
    assert torch.equal(Journal(tmp_path).take("whole 1", v), product)
    assert Journal(tmp_path).take("whole 1", 2 * v) is None
    assert Journal(tmp_path).take("domain a 1", v) is None
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-40])
    assert Journal(tmp_path).take("whole 1", v) is None
    assert "damaged" in caplog.text


def test_quick_products_are_not_worth_a_file(tmp_path: Path):
    hessian(net_problem(), top=2, store=tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_the_folder_is_named_after_all_that_decides_the_bits():
    problem = net_problem()
    names = {
        journal_name(problem, "hessian", 1, 0),
        journal_name(problem, "ggn", 1, 0),
        journal_name(problem, "hessian", 1, 1),
        journal_name(problem.restrict_to_domain("art"), "hessian", 1, 0),
        journal_name(problem_of(small_mlp(), domain_data(), batch_size=9), "hessian", 1, 0),
        journal_name(problem_of(small_mlp(), domain_data(), batch_size=8, dtype="float32"), "hessian", 1, 0),
    }
    assert len(names) == 6
    assert journal_name(net_problem(), "hessian", 1, 0) in names


_KILLED = """
import os, sys
from landscape.curvature.lanczos import journal
from landscape.problem.products import Products
from landscape_cli.app import main

journal._SECONDS_BETWEEN_WRITES = 0.0
journal._LARGEST_SHARE = 0
plain, made = Products.__call__, []
def product(self, v):
    if len(made) == int(sys.argv[1]):
        os.kill(os.getpid(), 9)
    made.append(1)
    return plain(self, v)
Products.__call__ = product
code = main(sys.argv[2:])
print("made", len(made))
sys.exit(code)
"""


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_and_leaves_nothing_behind(tmp_path: Path):
    import json

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef network():\n    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), "
        "torch.nn.Linear(8, 3))\n\n\ndef data():\n    torch.manual_seed(1)\n    x = torch.randn(50, 2)\n"
        "    return {'train': (x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())}\n"
    )
    words = [
        "hessian",
        "w.pt",
        "--model",
        "mine.py:network",
        "--data",
        "mine.py:data",
        "--trace",
        "--density",
        "--json",
    ]

    def call(kill_at: int, out: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _KILLED, str(kill_at), *words, "--out", out]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)

    assert call(23, "a").returncode == -9
    assert list((tmp_path / "a").glob("hessian-*.products/products-*.safetensors"))
    again, whole = call(-1, "a"), call(-1, "b")
    assert (again.returncode, whole.returncode) == (0, 0), again.stderr

    def read(text: str) -> tuple[dict, int]:
        said, _, made = text.rpartition("made ")
        record = {k: v for k, v in json.loads(said).items() if k not in ("seconds", "result", "vectors", "products")}
        return record, int(made)

    (a, made), (b, all_made) = read(again.stdout), read(whole.stdout)
    assert a == b
    assert made == all_made - 23
    assert not list((tmp_path / "a").glob("*.products"))

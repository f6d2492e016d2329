"""``landscape study`` and ``landscape list studies``, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.conftest import TINY

from landscape.study.shipped import shipped


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(TINY.replace("[0, 1, 2]", "[0]"))
    return path


@pytest.mark.slow  # it draws every figure in every format
def test_from_plan_to_report(landscape, file: Path, tmp_path: Path):
    said = landscape("study", "plan", file, "--json")
    assert said.code == 0, said.err
    assert said.json["status"]["to do"] == 4
    assert said.json["cost"]["training_seconds"] > 0
    assert said.json["models"][0]["axes"] == {"optimizer": "sgd", "lr": 0.05}
    assert not (tmp_path / "studies").exists()

    said = landscape("study", "run", file)
    assert said.code == 0, said.err
    assert str(tmp_path / "studies" / "tiny") in said.out

    said = landscape("study", "status", file, "--json")
    assert {k: said.json["status"][k] for k in ("done", "failed", "to do")} == {"done": 4, "failed": 0, "to do": 0}

    said = landscape("study", "correlate", file)
    assert said.code == 0, said.err
    assert "4 models are too few" in said.out or "cannot tell" in said.out

    said = landscape("study", "report", file, "--json")
    assert said.code == 0, said.err
    outputs = [Path(p) for p in said.json["outputs"]]
    assert all(p.is_file() for p in outputs)
    assert outputs[0] == tmp_path / "studies" / "tiny" / "report" / "report.html"
    assert {p.suffix for p in outputs} == {".html", ".csv", ".tex", ".pdf", ".png"}

    said = landscape("plot", tmp_path / "studies" / "tiny" / "study.nc", "--kind", "study-forest", "--format", "png")
    assert said.code == 0, said.err


def test_a_plan_whose_probes_all_fail_promises_no_time(landscape, file: Path):
    said = landscape("study", "plan", file, "--set", 'train.data_arg=["nosuch=1"]')
    assert said.code == 0, said.err
    assert "how much is not known" in said.out
    assert said.out.count("a probe failed") == 1  # once for all kinds of training
    assert "0 s" not in said.out


def test_correlate_json_is_the_whole_record(landscape, file: Path):
    assert landscape("study", "run", file, "--set", "grid.lr=[0.1]").code == 0
    said = landscape("study", "correlate", file, "--set", "grid.lr=[0.1]", "--json")
    assert said.code == 0, said.err
    assert said.json["command"] == "study"
    assert {"correlations", "comparison", "models", "dropped", "result"} <= set(said.json)
    assert len(said.json["models"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "none.toml"), "no such experiment file (none.toml)"),
        (("rum", "x.toml"), "did you mean 'run'"),
        (("run", "my.toml", "--size", "tiny"), "the experiment has no tiny size (my.toml)"),
        (("run", "my.toml", "--set", "train.epoch=3"), "unknown key 'epoch' (my.toml)"),
        (("run", "my.toml", "--workers", "0"), "workers=0 (--workers)"),
        (("run", "my.toml", "--workers", "2", "--scheduler", "tcp://x:1"), "contradict each other"),
        (("correlate", "my.toml"), "no model is finished"),
    ],
)
def test_errors_are_one_line(landscape, file: Path, words: tuple[str, ...], message: str):
    said = landscape("study", *words)
    assert said.code == 2
    assert message in said.error


def test_when_nothing_came_through_the_exit_code_says_so(landscape, file: Path):
    said = landscape("study", "run", file, "--set", "grid.lr=[1e30]", "--json")
    assert said.code == 4
    assert "no model came through" in said.error
    assert said.json["status"]["failed"] == 2


def test_list_studies(landscape):
    said = landscape("list", "studies", "--json")
    assert said.code == 0
    assert {s["name"] for s in said.json["studies"]} == set(shipped())
    assert "flatness-vs-generalization" in landscape("list", "studies").out

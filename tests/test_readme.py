"""The README's own lines: its Python runs, its tour runs, its two commands stand in CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_second_command_is_what_ci_runs() -> None:
    line = next(b.strip() for b in blocks("sh") if "pytest" in b)
    assert line in (ROOT / ".ci" / "run").read_text()


LOOPS = re.compile("integrations")  # of libraries that not every environment has, and that warn of many things


@pytest.mark.parametrize("place", [i for i, b in enumerate(blocks("python")) if i and not LOOPS.search(b)])
def test_python_blocks_run(place: int, tmp_path: Path) -> None:
    code = blocks("python")[place]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("place", [i for i, b in enumerate(blocks("python")) if i and LOOPS.search(b)])
def test_the_loops_of_others_run(place: int, tmp_path: Path) -> None:
    code = blocks("python")[place]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", f"import declared_operators\n{code}"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_tour_runs_outside_the_repository(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    study = blocks("toml")[0].replace("epochs = 100", "epochs = 1").replace("[0, 1, 2, 3]", "[0]")
    assert "stop_at = 0.1 " in study
    (tmp_path / "mine.toml").write_text(study.replace("stop_at = 0.1 ", "stop_at = 9.0 "))
    names = ["weights", "sgd", "sam", "mine"]
    make = f"import torch, mine; [torch.save(mine.network().state_dict(), n + '.pt') for n in {names}]"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    def run(*words: str) -> None:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stderr}"

    run(sys.executable, "-c", make)
    tour = [b for b in blocks("sh") if "pip install" not in b]
    for line in "\n".join(tour).splitlines():
        run("bash", "-c", line.replace("--epochs 40", "--epochs 2"))
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "landscape-figures" / "contour.pdf").is_file()
    assert (tmp_path / "studies" / "mine" / "report" / "report.html").is_file()

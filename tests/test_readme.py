"""What readers copy: Python of README, tour and how-tos runs, the tour runs as written, CI has the test line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TOUR = ROOT / "docs" / "tour.md"
PAGES = (README, TOUR, *sorted((ROOT / "docs" / "how-to").glob("*.md")))
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")  # the first line of a block that is to be a file
# Of libraries that not every environment has, and that warn of many things.
LOOPS = re.compile(r"integrations|\b(?:accelerate|lightning|peft|timm|transformers)\b")


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Language and text of the page's blocks, in order."""
    return re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


PYTHON = [
    pytest.param(text, id=f"{page.stem}-{place}")
    for page in PAGES
    for place, (_, text) in enumerate(blocks(page, "python"))
    if not FILE.match(text) and not re.search(r"^import .*\bmine\b", text, re.M)  # which only the tour has
]


def test_the_second_command_is_what_ci_runs() -> None:
    line = next(text.strip() for _, text in blocks(README, "sh") if "pytest" in text)
    assert line in (ROOT / ".ci" / "run").read_text()


def test_the_readme_is_short() -> None:
    """What a reader sees of it: what is folded away opens on a click."""
    seen = re.sub(r"<details>.*?</details>", "", README.read_text("utf-8"), flags=re.S)
    assert len(seen.splitlines()) <= 90


def test_the_readme_shows_each_loop_of_others() -> None:
    (folded,) = re.findall(r"<details>.*?</details>", README.read_text("utf-8"), flags=re.S)
    shown = [text for _, text in blocks(README, "python") if text in folded]
    libraries = ("lightning.pytorch", "transformers.Trainer", "accelerate.Accelerator", "timm.", "peft.")
    assert [sum(name in text for text in shown) for name in libraries] == [1] * 5
    assert all("landscape.record(" in text or "recorder = " in text or "recorder]" in text for text in shown)


@pytest.mark.parametrize("code", [p for p in PYTHON if not LOOPS.search(str(p.values[0]))])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("code", [p for p in PYTHON if LOOPS.search(str(p.values[0]))])
def test_the_loops_of_others_run(code: str, tmp_path: Path) -> None:
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
def test_the_tour_runs_as_it_is_written(tmp_path: Path) -> None:
    """Every block in order, in one folder that is empty at first: files are written, Python and commands are run."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    work = tmp_path / "tour"
    work.mkdir()
    for language, text in blocks(TOUR, "sh", "python", "toml"):
        if file := FILE.match(text):
            (work / file[1]).write_text(text, "utf-8")
            continue
        lines = [text] if language == "python" else [line for line in text.splitlines() if line]
        for line in lines:
            words = [sys.executable, "-c", line] if language == "python" else ["bash", "-c", line]
            done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (work / "report.html").is_file()
    assert (work / "landscape-figures" / "contour.pdf").is_file()
    assert (work / "studies" / "mine-tiny" / "report" / "report.html").is_file()

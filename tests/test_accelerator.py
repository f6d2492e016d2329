"""The tests of the pretend accelerator, in processes of their own, a few files in each; see its conftest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "accelerator"
# Files that take about as long together; importing torch takes longer than most of their tests.
GROUPS = (
    ("test_families", "test_pretend"),
    ("test_commands", "test_devices", "test_processes", "test_ready"),
    ("test_options", "test_public_names", "test_traps", "test_waiting"),
)


def test_every_file_is_in_a_group():
    assert sorted(name for group in GROUPS for name in group) == sorted(p.stem for p in FOLDER.glob("test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_on_the_pretend_device(group: tuple[str, ...]) -> None:
    from accelerator.pretend import reason_against

    if (reason := reason_against()) is not None:
        pytest.skip(reason)
    files = [str(FOLDER / f"{name}.py") for name in group]
    words = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--color", "no", *files]
    done = subprocess.run(
        words, env={**os.environ, "PRETEND_DEVICE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    outcomes = {what: int(n) for n, what in re.findall(r"(\d+) ([a-z]+)", done.stdout.splitlines()[-1])}
    assert outcomes.get("passed", 0) >= len(group), done.stdout[-2000:]
    # Where the device can be had there is nothing to skip, and what is not collected has not passed.
    assert set(outcomes) <= {"passed"}, done.stdout[-2000:]

"""Threads that sleep while they wait, unless somebody said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os
from landscape.base.threads import wait_asleep, waiting
wait_asleep()
print(waiting(), os.environ.get("OMP_WAIT_POLICY"), os.environ.get("KMP_BLOCKTIME"))
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "asleep PASSIVE 0"),
        ({"OMP_WAIT_POLICY": "active"}, "spinning active None"),
        ({"GOMP_SPINCOUNT": "0"}, "asleep None None"),
        ({"KMP_BLOCKTIME": "200"}, "spinning None 200"),
    ],
)
def test_what_the_user_said_stays(given: dict[str, str], said: str):
    names = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
    own = {k: v for k, v in os.environ.items() if k not in names}
    words = [sys.executable, "-c", CODE]
    found = subprocess.run(words, env={**own, **given}, capture_output=True, text=True, check=True)
    assert found.stdout.split() == said.split()

"""Two processes on the device, which torch has no collectives for: sums go over the host, and they may share it."""

from __future__ import annotations

import json
from pathlib import Path

from processes.launch import finished, start

from .comparison import require_same
from .pretend import Device


def test_two_processes_share_a_device(device: Device, tmp_path: Path):
    done = finished(start(Path(__file__).parent / "together.py", tmp_path, folder=tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    require_same(found["cpu"], found["pretend"], least=100)

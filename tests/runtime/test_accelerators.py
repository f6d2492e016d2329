"""The one place that asks torch about accelerators."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from landscape.base.errors import UsageError
from landscape.runtime import accelerators, devices

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "landscape" / "runtime" / "accelerators.py"
# A backend by its name, or the general interface. `torch.backends.cuda` are settings of operations: precision.py.
DIRECT = re.compile(
    r"torch\.(cuda|xpu|mps|accelerator|get_device_module)\b|^\s*(from|import) torch.*\b(cuda|xpu|mps|accelerator)\b"
)


def test_no_other_file_asks_torch_directly():
    files = [f for room in ("landscape", "cli") for f in sorted((ROOT / room).rglob("*.py")) if f != ROOM]
    asking = [
        f"{f.relative_to(ROOT)}:{i}: {line.strip()}"
        for f in files
        for i, line in enumerate(f.read_text(encoding="utf-8").splitlines(), 1)
        if DIRECT.search(line)
    ]
    assert not asking
    assert DIRECT.search(ROOM.read_text(encoding="utf-8"))


def test_without_an_accelerator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert accelerators.accelerator() is None
    assert accelerators.device_count() == accelerators.device_count("cuda") == 0
    assert accelerators.generators() == []
    accelerators.synchronize(torch.device("cpu"))


def test_devices_that_are_hidden_are_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "device_count", lambda kind: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match=r"CUDA is not available, and CUDA_VISIBLE_DEVICES is set to nothing \("):
        devices.pick_device("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(UsageError, match=r"CUDA is not available \("):
        devices.pick_device("cuda")


@pytest.mark.parametrize(("shown", "found"), [("", []), ("0,3", ["0", "3"]), (None, [])])
def test_workers_are_given_the_gpus_that_are_seen(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, found: list[str]
):
    from landscape.study.schedule import _gpus

    monkeypatch.setattr(accelerators, "device_count", lambda kind: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert _gpus() == found


class Backend:
    """What a backend says of its memory."""

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 100, 1000

    def memory_reserved(self, device: torch.device) -> int:
        return 70

    def memory_allocated(self, device: torch.device) -> int:
        return 30


def test_memory_that_torch_keeps_is_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accelerators, "_module", lambda kind: Backend())
    assert accelerators.free_bytes(torch.device("xpu")) == 140
    monkeypatch.delattr(Backend, "memory_reserved")
    assert accelerators.free_bytes(torch.device("xpu")) == 100
    monkeypatch.delattr(Backend, "mem_get_info")
    assert accelerators.free_bytes(torch.device("xpu")) is None


def test_copies_that_are_not_waited_for_are_made_in_one_place():
    """A copy to the host that is read before it has arrived is wrong, and on a CPU nothing shows it."""
    files = [
        f for f in sorted((ROOT / "landscape").rglob("*.py")) if "non_blocking=" in f.read_text(encoding="utf-8")
    ]
    assert [f.name for f in files] == ["devices.py"]
    assert "pin_memory" not in "".join(f.read_text(encoding="utf-8") for f in (ROOT / "landscape").rglob("*.py"))

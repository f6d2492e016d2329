"""What has changed since a stored result was made is said wherever it is shown, without running anybody's code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from landscape_cli.app import main

import landscape
from landscape.analyses.analyze import analyze
from landscape.results.result import Result
from landscape.specs import HessianSpec, ProblemSpec

PLUGIN = """
import parts, torch
from torch import nn
def net(): return nn.Sequential(nn.Linear(4, parts.WIDTH), nn.Tanh(), nn.Linear(parts.WIDTH, 3))
"""
DATA = """
import torch
def data():
    x = torch.sin(torch.arange(160.0)).reshape(40, 4)
    return {"train": (x, torch.arange(40) % 3)}
"""


def _forget() -> None:
    for name in ("m", "d", "parts"):
        sys.modules.pop(name, None)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stored spectrum of a network of the user's."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("m.py", PLUGIN), ("d.py", DATA), ("parts.py", "WIDTH = 5\n")):
        (tmp_path / name).write_text(text)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    torch.save(model.state_dict(), tmp_path / "c.pt")
    spec = ProblemSpec(model="m.py:net", data="d.py:data")
    path = analyze("hessian", "c.pt", spec, HessianSpec(top=1)).path
    _forget()
    assert path is not None
    yield path
    _forget()


def looked_at(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["info", str(path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def replace_weights() -> None:
    torch.save({k: v + 1 for k, v in torch.load("c.pt", weights_only=True).items()}, "c.pt")


CHANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "code": (lambda: Path("m.py").write_text("raise SystemExit"), "another version of the network's code: m.py"),
    "what it imports": (lambda: Path("parts.py").write_text("WIDTH = 5  # as before\n"), "network's code: parts.py"),
    "data's code": (lambda: Path("d.py").write_text("raise SystemExit"), "another version of the data's code: d.py"),
    "code gone": (lambda: Path("m.py").unlink(), "the network's code that is no longer there: m.py"),
    "weights": (replace_weights, "of other weights than are now in"),
    "weights gone": (lambda: Path("c.pt").unlink(), "of weights that are no longer there"),
}


@pytest.mark.case(124)
@pytest.mark.parametrize("what", CHANGES)
def test_info_plot_and_report_say_what_changed(
    what: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert looked_at(stored, capsys)["stale"] == []
    change, words = CHANGES[what]
    change()
    (said,) = looked_at(stored, capsys)["stale"]
    assert words in said
    assert not {"m", "d", "parts"} & set(sys.modules)  # nothing was imported
    assert main(["plot", str(stored), "--kind", "eigenvalues", "--format", "svg", "--out", "f"]) == 0
    assert words in " ".join(capsys.readouterr().err.split())
    landscape.write_report([Result.load(stored)], tmp_path / "r.html", title="t")
    page = (tmp_path / "r.html").read_text()
    assert words.replace("'", "&#39;") in page or words in page
    assert stored.exists()


@pytest.mark.case(125)
def test_versions_and_results_of_before(
    stored: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from landscape.results import identity

    now = identity.ALGORITHMS["hessian"]
    monkeypatch.setitem(identity.ALGORITHMS, "hessian", now + 1)  # type: ignore[index]
    assert looked_at(stored, capsys)["stale"] == [f"made by algorithm version {now}, now {now + 1}"]
    result = Result.load(stored)
    del result.record["identity"], result.record["origins"]
    old = looked_at(result.save("old.nc"), capsys)
    assert (old["stale"], old["unknown"]) == ([], ["made before identities were recorded: cannot tell"])


@pytest.mark.case(126)
def test_places_that_a_strangers_record_names_are_not_waited_for(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe that nobody writes to, a device without end, the root of all files, a name with NUL."""
    os.mkfifo(tmp_path / "pipe")
    result = Result.load(stored)
    for place in (str(tmp_path / "pipe"), "/dev/zero", "a\0b", "\ud800"):
        result.record["origins"]["code"] = {"model": [[place, "0" * 64]]}
        result.record["origins"]["weights"] = [[place, "bytes " + "0" * 64]]
        assert len(looked_at(result.save(tmp_path / "a.nc"), capsys)["stale"]) == 2
    result.record["origins"]["data"] = {"name": "x", "folder": str(tmp_path), "listing": "0" * 64, "newest": 1}
    assert any("other files" in s for s in looked_at(result.save(tmp_path / "a.nc"), capsys)["stale"])


@pytest.mark.case(126)
def test_a_folder_too_large_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landscape.results import provenance as origins

    for i in range(30):
        (tmp_path / f"{i}").touch()
    assert origins.listing(tmp_path) is not None
    monkeypatch.setattr(origins, "_MOST_FILES", 20)
    assert origins.listing(tmp_path) is None

"""Disks that are full, folders nobody may write to, no home, no network, nobody listening."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import COMMAND, Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

TRAIN = ("train", "--data", "gaussian-domains", "--model", "mlp", "--model-arg", "hidden=[8]", "--steps", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    outcome = Landscape(folder)(*TRAIN, "--save-every", "2steps")
    assert outcome.code == 0, outcome.err
    return folder / "runs/sgd-seed0"


def files_up_to(size: int):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.case(70)
@pytest.mark.parametrize("command", ["surface", "hessian", "plot", "export"])
def test_no_space_for_a_result(command: str, landscape: Landscape, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    more = {"surface": ("--points", "5"), "plot": ("--kind", "training", "--out", "out")}.get(
        command, ("--out", "out")
    )
    words = (command, "run", *more)
    before = contents(run)
    outcome = landscape(*words, preexec=files_up_to(100 if command == "export" else 2000))
    assert outcome.code == 5, outcome.err
    assert "no space left" in outcome.error
    after = contents(tmp_path)
    assert not [name for name in after if name.endswith(".tmp")]
    assert {k: v for k, v in contents(run).items() if k in before} == before
    assert landscape(*words).code == 0


@pytest.mark.case(70)
def test_a_device_that_is_always_full(landscape: Landscape, trained: Path, tmp_path: Path) -> None:
    """Standard output on /dev/full: the command says so, and what it stored is whole."""
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [COMMAND, "list", "measures"], stdout=full, stderr=subprocess.PIPE, text=True, env=landscape.env
        )
        _, err = process.communicate()
    assert process.returncode == 5
    assert err.startswith("error: no space left to write")
    assert "Traceback" not in err


@pytest.mark.case(71)
@pytest.mark.parametrize("out", ["/proc/nobody", "/sys/nobody"])
def test_folders_that_nobody_may_write_to(out: str, landscape: Landscape, trained: Path) -> None:
    """Also not the administrator, for whom permissions mean nothing."""
    readers = [(command, trained, "--out", out) for command in ("domains", "plot", "export")]
    for words in ((*TRAIN, "--out", out), *readers):
        outcome = landscape(*words)
        assert outcome.code == 2, outcome.err
        assert out in outcome.error


@pytest.mark.case(72)
def test_without_a_home(landscape: Landscape, trained: Path, tmp_path: Path) -> None:
    """No home, and caches that cannot be written: figures are drawn all the same."""
    nowhere = {"HOME": "/proc/nobody", "XDG_CACHE_HOME": "/proc/nobody", "XDG_CONFIG_HOME": "/proc/nobody"}
    nowhere |= {"XDG_STATE_HOME": "/proc/nobody", "MPLCONFIGDIR": "/proc/nobody", "TORCH_HOME": "/proc/nobody"}
    outcome = landscape("plot", trained, "--kind", "training", "--out", "drawn", **nowhere)
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "drawn").glob("*.pdf"))
    trains = landscape(*TRAIN, "--out", "here", **nowhere)
    assert trains.code == 0, trains.err


@pytest.mark.case(73)
@pytest.mark.parametrize("words", ["list measures", "hessian --help", "info RUN --json"])
def test_nobody_listens(words: str, landscape: Landscape, trained: Path) -> None:
    line = f"{COMMAND} {words.replace('RUN', str(trained))} | head -c 1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=landscape.env, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


@pytest.mark.case(74)
def test_without_a_network(landscape: Landscape, trained: Path, tmp_path: Path) -> None:
    """In a network name space of its own where that is allowed, with proxies that lead nowhere in any case."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    words = [COMMAND, "report", str(trained), "--examples", "60", "--page", "report.html"]
    alone = ["unshare", "--net", "--map-root-user"]
    allowed = (
        shutil.which("unshare") and not subprocess.run([*alone, "true"], capture_output=True, check=False).returncode
    )
    process = subprocess.run(
        [*(alone if allowed else ()), *words],
        cwd=tmp_path, env={**landscape.env, **nowhere}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    page = (tmp_path / "report.html").read_text()
    outside = re.findall(r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)\s*=\s*[\"']?(https?:|//)", page)
    assert outside == []
    assert "@import" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert os.path.getsize(tmp_path / "report.html") > 10_000

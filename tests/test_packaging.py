"""The wheel holds what it should, and works in an environment that knows nothing of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_package_folder_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "landscape").rglob("__init__.py")}
    assert listed == found | {"landscape_cli"}


@pytest.mark.slow
def test_the_wheel_runs_in_a_fresh_environment(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "build", "--wheel", "-o", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("flatminima-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"landscape", "landscape_cli"}
    assert "landscape/py.typed" in names
    assert any(n.startswith("landscape/report/") and n.endswith(".html") for n in names)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, env=environment, cwd=tmp_path)
    command = tmp_path / "venv/bin/landscape"

    def run(*words: str) -> str:
        return subprocess.run([command, *words], check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    assert "usage: landscape COMMAND" in run("--help")
    assert "--top" in run("hessian", "--help")
    assert '"finished"' in run("train", "--data", "gaussian-domains", "--steps", "3", "--json")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "train",
        "hessian",
        "sharpness",
        "surface",
        "domains",
        "analyze",
        "plot",
        "report",
        "study",
        "list",
        "info",
    ],
)
def test_help_never_imports_torch(command: str) -> None:
    code = (
        "import sys; from landscape_cli.app import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'plotly', 'xarray', 'pandas'} & set(sys.modules);"
        "sys.exit(code or (f'imports {heavy}' if heavy else 0))"
    )
    words = [command, "--help"] if command else ["--help"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: landscape" in done.stdout


def test_importing_the_library_is_light() -> None:
    code = "import sys, landscape; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

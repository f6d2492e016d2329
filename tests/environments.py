"""Environments of their own, for tests with libraries that this one does not have."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPERATORS = Path(__file__).with_name("declared_operators.py")


def environment(folder: Path, packages: list[str], unconstrained: list[str] | None = None) -> Path:
    """A fresh environment that sees the packages of this one, torch among them, and installs the others.

    Args:
        folder: Where it is made.
        packages: Installed beside those of this one, in the versions that were tested together.
        unconstrained: Likewise, with whatever these ask for.

    Returns:
        Its python.
    """
    venv.create(folder, with_pip=bool(packages or unconstrained))
    places = {sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("site-packages"))}
    lines = [f"import site; site.addsitedir({place!r})" for place in sorted(places)]
    site = site_packages(folder)
    (site / OPERATORS.name).write_text(OPERATORS.read_text())
    (site / "these.pth").write_text("\n".join([*lines, f"import {OPERATORS.stem}"]))
    python = folder / "bin/python"
    if packages:
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages]
        subprocess.run(install, check=True, capture_output=True, timeout=600)
    if unconstrained:
        install = [python, "-m", "pip", "install", "-q", *unconstrained]
        subprocess.run(install, check=True, capture_output=True, timeout=600)
    return python


def site_packages(folder: Path) -> Path:
    """Where an environment keeps what it installed."""
    return next((folder / "lib").glob("python*/site-packages"))

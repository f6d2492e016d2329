"""Completion of commands, flags and their values for bash and zsh, as tyro writes it for all commands together."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import operator
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from landscape.base.errors import UsageError
from landscape.base.files import write_bytes
from landscape.base.names import unknown_name

SHELLS = ("bash", "zsh")


def install(commands: dict[str, str], shell: str | None) -> tuple[Path, str]:
    """Write the script where the shell looks for it.

    Args:
        commands: Module of each command.
        shell: ``bash`` or ``zsh``; None: that of ``$SHELL``.

    Returns:
        The file, and what is left to do, in a line.

    Raises:
        UsageError: If the shell is another one, or there is no home.
    """
    named = shell or Path(os.environ.get("SHELL", "")).name
    if named not in SHELLS:
        if shell is None:
            raise UsageError(
                f"$SHELL names no shell of {', '.join(SHELLS)}", "--install-completion", "name one behind it"
            )
        raise unknown_name("shell", named, SHELLS, "--install-completion")
    try:
        home = Path.home()
    except RuntimeError:
        raise UsageError("there is no home folder", "--install-completion", "set HOME") from None
    if named == "bash":
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
        path, rest = data / "bash-completion/completions/landscape", "open a new shell (it needs bash-completion)"
    else:
        path = home / ".zfunc/_landscape"
        rest = "put `fpath+=~/.zfunc; autoload -Uz compinit; compinit` into ~/.zshrc and open a new shell"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, script(commands, named).encode())
    return path, rest


def script(commands: dict[str, str], shell: str) -> str:
    """The completion script of all commands."""
    kinds = [
        Annotated[
            importlib.import_module(f".{module}", __package__).Arguments,
            tyro.conf.subcommand(name, prefix_name=False),
        ]
        for name, module in commands.items()
    ]
    every: Any = functools.reduce(operator.or_, kinds)
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        tyro.cli(
            every,
            prog="landscape",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
        )
    return written.getvalue()

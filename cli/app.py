"""The command's entrance: find the subcommand, parse, run, and turn every outcome into an exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from types import ModuleType
from typing import Any

from landscape.base.errors import LandscapeError
from landscape.base.files import is_out_of_space, jsonable
from landscape.base.labels import shown
from landscape.base.names import unknown_name
from landscape.base.threads import wait_asleep

from .flags import everywhere, in_flags
from .stopping import stopped_by_signals
from .streams import provide_streams, say_anything, tell
from .watchdog import watched

COMMANDS = {
    "demo": "the whole story on embedded data in a few minutes: train, analyse, draw, report",
    "train": "train one or several optimizers over seeds into run folders",
    "hessian": "eigenvalues of the Hessian, with true residuals",
    "sharpness": "m-sharpness",
    "surface": "1-D and 2-D slices of the loss surface",
    "path": "the loss between two checkpoints: line, barrier, curves",
    "domains": "loss, accuracy and gradients per domain",
    "analyze": "the standard set of all analyses",
    "plot": "figures from stored results",
    "export": "stored results as .npz, .csv or VTK images",
    "report": "one self-contained HTML page",
    "study": "grids of trainings and measures, and whether flatness predicts generalization",
    "list": "what there is: optimizers, models, data, ...",
    "info": "what a run, checkpoint or result contains",
}
EXAMPLES = {
    "demo": "landscape demo",
    "train": "landscape train --optimizer sgd sam --seed 0 1 --holdout 0 75",
    "hessian": "landscape hessian runs/sam-seed0 --top 5 --density",
    "sharpness": "landscape sharpness runs/sam-seed0 --m 1 16 --rho 0.05",
    "surface": "landscape surface runs/sgd-seed0 runs/sam-seed0 --figure contour",
    "path": "landscape path runs/sgd-seed0 runs/sam-seed0 --kind bezier",
    "domains": "landscape domains runs/sam-seed0 --curves",
    "analyze": "landscape analyze runs/*",
    "plot": "landscape plot runs/* --kind contour --venue icml --columns 2",
    "export": "landscape export runs/sam-seed0 --format csv",
    "report": "landscape report runs/*",
    "study": "landscape study plan flatness-vs-generalization",
    "list": "landscape list optimizers",
    "info": "landscape info runs/sam-seed0",
}
_MODULES = {"list": "list_names"}
# What several processes do together under torchrun; the first process alone does the rest.
_TOGETHER = {"demo", "train", "hessian", "sharpness", "surface", "path", "domains", "analyze", "report"}
# What torch and the loader of its libraries say.
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "failed to map segment")


def command_module(name: str) -> ModuleType:
    """The file of a command, with its ``Arguments`` and ``run``."""
    return importlib.import_module(f".{_MODULES.get(name, name)}", __package__)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the return value is the process's exit code."""
    provide_streams()
    if argv is None:  # who calls from Python owns the process
        wait_asleep()
    with watched() if argv is None else contextlib.nullcontext():  # who calls from Python watches himself
        code = _outcome(list(sys.argv[1:] if argv is None else argv))
    if code == 0 and _several():
        _leave()
    return code


def _leave() -> None:
    """End this process of several at once, its work being done.

    The threads that torch and gloo leave behind are not always taken down in time at a regular exit, which then
    aborts ("terminate called without an active exception") and makes a finished job a failed one.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _outcome(argv: list[str]) -> int:
    """Run one command and turn what happens into an exit code."""
    say_anything()
    try:
        with stopped_by_signals(last_words=_several()) as signals:
            code = _run(argv)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # somebody piped into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        what = f"stopped by {signals[0]}" if signals else "stopped"
        return _say(f"error: {what}: run the same command again, it computes only the rest", stop, 75)
    except SystemExit as stop:  # from --help
        return int(stop.code or 0)
    except _Shown as failure:
        if "--debug" in argv:
            raise failure.error from None
        return _fail(failure.error)
    except Exception as error:
        if "--json" in argv and _first():
            code = _in_words(error)[1]
            with contextlib.suppress(OSError):
                print(_as_json(_error_object(error, code)), flush=True)
        if "--debug" in argv:
            raise
        return _fail(error)


def _fail(error: Exception) -> int:
    """Print the one line that says what happened, and return its exit code."""
    line, code = _in_words(error)
    return _say(line, error, code)


def _say(line: str, error: BaseException, code: int) -> int:
    """Print a line, by one of several processes, and return the exit code."""
    if _several():
        from landscape.runtime.distributed import last_words

        says, code = last_words(line, error, code)
        line = f"{line} [process {os.environ['RANK']}]" if says and not _first() else line if says else ""
    if line:
        tell(shown(line))
    return code


class _Shown(Exception):
    """An error that the command's object on stdout has told already."""

    def __init__(self, error: LandscapeError) -> None:
        self.error = error


def _error_object(error: Exception, code: int) -> dict[str, object]:
    """What ``--json`` says of an error."""
    if isinstance(error, LandscapeError):
        told = {name: in_flags(text) for name, text in vars(error).items() if name in ("what", "where", "fix")}
    else:
        line = _in_words(error)[0].removeprefix("error: ")
        told = dict(zip(("what", "where", "fix"), _three_parts(line), strict=True))
    return {"error": {**told, "exit": code}}


def _three_parts(line: str) -> tuple[str, str, str]:
    what, _, fix = line.rpartition(": ")
    what, bracket, where = what.rpartition(" (")
    return (what, where.removesuffix(")"), fix) if bracket else (where, "", fix)


def _in_words(error: Exception) -> tuple[str, int]:
    """The line, and the exit code."""
    if isinstance(error, LandscapeError):
        return f"error: {in_flags(str(error))}", error.exit_code
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        return "error: out of memory: use a smaller --batch-size, --examples or model", 5
    if is_out_of_space(error):
        return f"error: no space left to write ({text[:200]}): free some space and run it again", 5
    kind = type(error).__name__
    return f"error: {kind}: {text[:300]} (unexpected): please report it, with the output of --debug", 1


def _several() -> bool:
    """Whether a launcher has started several processes with this command."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1") and bool(os.environ.get("MASTER_ADDR"))


def _first() -> bool:
    return not _several() or os.environ.get("RANK", "0") == "0"


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"landscape {version('flatminima')}")
        return 0
    if argv[0] == "--install-completion":
        from .completion import install

        path, left = install({name: _MODULES.get(name, name) for name in COMMANDS}, next(iter(argv[1:]), None))
        print(f"completion: {shown(path)}\n{left}")
        return 0
    if argv[0] not in COMMANDS:
        raise unknown_name("command", argv[0], COMMANDS)
    name, rest = argv[0], argv[1:]
    module = command_module(name)
    from .parsing import parse

    description, example = module.__doc__ or "", EXAMPLES.get(name, "")
    arguments = parse(module.Arguments, rest, command=name, description=description, example=example)
    if not _first() and name not in _TOGETHER:
        return 0
    from landscape.base.allocator import keep_freed_memory

    from .screen import Screen

    keep_freed_memory()
    with _processes(name), Screen(json=arguments.common.json, silent=not _first()) as screen:
        result = module.run(arguments, screen)
        screen.finish()
        if arguments.common.json and _first():
            failed = {} if screen.failure is None else _error_object(screen.failure, screen.failure.exit_code)
            print(_as_json(everywhere(jsonable({**result, **failed}))))
        if screen.failure is not None:
            raise _Shown(screen.failure)
    return 0


def _as_json(value: object) -> str:
    """Strict JSON with names as they are; escaped where the stream cannot say or a terminal would obey them."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text if text.isprintable() else json.dumps(value, allow_nan=False)


def _processes(name: str) -> Any:
    """The context in which several processes do the work of a command together."""
    if not _several() or name not in _TOGETHER:
        return contextlib.nullcontext()
    from landscape.runtime.distributed import processes

    return processes()


def _overview() -> str:
    lines = [
        "landscape: train under sharpness-aware optimizers, measure the loss landscape of any checkpoint,",
        "and test whether flatness predicts generalization.",
        "",
        "usage: landscape COMMAND [flags]       landscape COMMAND --help       landscape --version",
        "",
        *(f"  {name:<10} {summary}" for name, summary in COMMANDS.items()),
        "",
        "`landscape --install-completion` lets bash or zsh complete all of this.",
        "Start with `landscape demo`. A TARGET is a run folder, RUN@best, RUN@step=N or a checkpoint file.",
    ]
    return "\n".join(lines)

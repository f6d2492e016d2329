"""What reads the files and words of strangers, as functions of bytes: any answer will do, but only a clean one.

As a program it lets atheris search one of them, guided by coverage, for some seconds:

    python tests/faults/fuzz_targets.py checkpoint 20 FOLDER
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Modules whose branches guide the search; torch itself is left as it is.
INSTRUMENTED = ("landscape", "landscape_cli", "zipfile", "pickletools", "tomllib", "json")


@contextlib.contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    path = folder / name
    path.write_bytes(data)
    try:
        yield path
    finally:
        path.unlink()
        folder.rmdir()


def require_clean(error: Any, where: str = "") -> None:
    """One line that says where, with the exit code of a bad input."""
    if error.exit_code not in (2, 3, 4) or "\n" in str(error) or where not in str(error):
        raise AssertionError(f"not clean: {error!r}")


def checkpoint(data: bytes) -> str:
    """Read a checkpoint; the first byte says what its file is called."""
    from landscape.base.errors import LandscapeError
    from landscape.weights.checkpoint import read_weights

    names = ("c.pt", "c.safetensors", "c.pkl", "c")
    with _file(data[1:], names[data[0] % 4] if data else "c.pt") as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            weights = read_weights(path)
        except LandscapeError as error:
            require_clean(error, where=str(path))
            return "refused"
        claimed = sum(t.untyped_storage().nbytes() for t in {id(t): t for t in weights.tensors.values()}.values())
        assert claimed <= (len(weights.tensors) + 1) * len(data), "more memory than the file has"
        return "read"


def configuration(data: bytes) -> str:
    """Read a TOML file with the flags of a command; the first byte says which."""
    import importlib

    from landscape_cli.parsing import parse

    from landscape.base.errors import UsageError

    names = ("train", "hessian", "sharpness", "surface", "domains", "path", "analyze")
    name = names[data[0] % len(names)] if data else "train"
    arguments = importlib.import_module(f"landscape_cli.{name}").Arguments
    with _file(data[1:], "c.toml") as path:
        try:
            parse(arguments, ["--config", str(path)], command=name, description="")
        except UsageError as error:
            require_clean(error)
            return "refused"
    return "read"


def experiment(data: bytes) -> str:
    """Read the file of a study."""
    from landscape.base.errors import UsageError
    from landscape.specs.study import Experiment

    with _file(data[1:], "study.toml") as path:
        try:
            Experiment.read(path, size="tiny" if data[:1] == b"\1" else "full")
        except UsageError as error:
            require_clean(error)
            return "refused"
    return "read"


def words(data: bytes) -> str:
    """Read a command line, a word a line."""
    import importlib

    from landscape_cli.parsing import parse

    from landscape.base.errors import LandscapeError

    said = data.decode("utf-8", errors="replace").split("\n")
    arguments = importlib.import_module("landscape_cli.train").Arguments
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            parse(arguments, said, command="train", description="")
        except LandscapeError as error:
            require_clean(error)
            return "refused"
        except SystemExit:
            return "helped"
    return "read"


def plugin(data: bytes) -> str:
    """Resolve a name that stands in a file and that nobody typed: nothing may be imported."""
    from landscape.base.errors import UsageError
    from landscape.base.plugins import resolve
    from landscape.registry import DATA, LOSSES, MODELS

    name = data[1:].decode("utf-8", errors="surrogateescape")
    before = set(sys.modules)
    try:
        resolve(name, (MODELS, DATA, LOSSES)[data[0] % 3] if data else MODELS, from_record=True)
    except UsageError as error:
        require_clean(error)
        found = "refused"
    else:
        found = "resolved"
    new = {
        m for m in set(sys.modules) - before if not m.startswith(("landscape", "torch", "sklearn", "scipy", "PIL"))
    }
    assert name.partition(":")[0] not in new, f"{name!r} was imported"
    return found


def record(data: bytes) -> str:
    """Read a run folder whose run.json and log are a stranger's."""
    from landscape.base.errors import LandscapeError
    from landscape.results.run import Run

    text, _, log = data.partition(b"\0")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        (folder / "run.json").write_bytes(text)
        (folder / "metrics.jsonl").write_bytes(log)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step-00000001.safetensors").touch()
        run = Run(folder)
        try:
            json.dumps(run.record, allow_nan=True)
            run.metrics()
            for which in ("", "best", "selected", "step=1"):
                with contextlib.suppress(LandscapeError):
                    run.checkpoint(which)
        except LandscapeError as error:
            require_clean(error)
            return "refused"
        return "read"
    finally:
        import shutil

        shutil.rmtree(folder)


def result(data: bytes) -> str:
    """Read a stored result."""
    from landscape.base.errors import LandscapeError
    from landscape.results.result import Result

    with _file(data, "r.nc") as path:
        try:
            found = Result.load(path)
        except LandscapeError as error:
            require_clean(error, where=str(path))
            return "refused"
        assert sum(v.nbytes for v in found.data.variables.values()) <= 8 * len(data), "more memory than the file has"
        return "read"


TARGETS: dict[str, Callable[[bytes], str]] = {
    "checkpoint": checkpoint,
    "configuration": configuration,
    "experiment": experiment,
    "words": words,
    "plugin": plugin,
    "record": record,
    "result": result,
}


def main(argv: list[str]) -> None:
    """Search one target for some seconds, starting from the files in a folder."""
    import atheris

    name, seconds, corpus = argv[1], argv[2], argv[3]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        import landscape_cli.parsing  # noqa: F401

    def one(data: bytes) -> None:
        TARGETS[name](data)

    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=60", "-rss_limit_mb=4096", "-seed=1"]
    atheris.Setup([argv[0], *options, f"-artifact_prefix={corpus}/found-", corpus], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

"""The user's own models, data and losses: named as a file or a module, imported only on the user's word.

Importing a plug-in runs it. A name on the command line (or in a Python call) is the user's word, and it is
remembered: path and SHA-256 go into a small file in the user's state folder. A name that only a ``run.json``
contains is imported if exactly that file was named before, or with ``trust``; a stranger's run folder
therefore never makes code run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import inspect
import json
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .code_files import files_behind, names_imported, without_folders
from .errors import LandscapeError, UsageError, argument
from .files import read_json, stable_hash, write_json
from .names import Registry, unknown_name
from .process_state import one_at_a_time
from .terms import Term, terms, text_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """A callable and where it came from.

    Attributes:
        call: The callable.
        name: The name under which it can be found again (absolute path for files).
        record: What ``run.json`` keeps: ``{"name"}``, and for plug-ins ``path`` and ``sha256`` of the file, and a
            hash of all ``code`` that importing it runs.
        files: Path and SHA-256 of every file of the user's that importing it runs.
        libraries: Versions of the libraries that these files import.
    """

    call: Callable[..., Any]
    name: str
    record: dict[str, str]
    files: tuple[tuple[str, str], ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)


def resolve(name: str, registry: Registry, *, from_record: bool = False, trust: bool = False) -> Plugin:
    """Find the callable behind a registered name or family, ``file.py:callable`` or ``pkg.module:callable``.

    Args:
        name: What the user, or a ``run.json``, named.
        registry: Registered names of this kind; they come first.
        from_record: The name stands only in a file, nobody typed it now.
        trust: Import it all the same.

    Raises:
        UsageError: If the name is unknown, cannot be imported, or is not trusted.
    """
    if name in registry:
        return Plugin(registry.load(name), name, {"name": name})
    if registry.sums is not None and (parts := terms(name)) is not None:
        return _sum(registry, parts, from_record=from_record, trust=trust)
    family = registry.family(name)
    if family is not None:
        prefix, _, rest = name.partition(":")
        if "FOLDER" in family and (folder := _existing(rest)) is not None:  # found again from any working folder
            rest = str(folder)
        full = f"{prefix}:{rest}"
        return Plugin(functools.partial(registry.load(family), rest), full, {"name": full})
    location, colon, attribute = name.rpartition(":")
    if not colon or not location or not attribute.isidentifier():
        raise unknown_name(registry.kind, name, [*registry, "path/to/file.py:callable", "pkg.module:callable"])
    file = _find_file(location, registry.kind)
    content = _read(file)
    sha256 = hashlib.sha256(content).hexdigest()
    if from_record and not trust and not _is_trusted(file, sha256):
        raise UsageError(
            f"the run names code of its own for the {registry.kind}, which you have not named before",
            f"{file}:{attribute}",
            f"if you trust this file, name it with {_argument(registry.kind)}, or pass `trust=True`",
        )
    is_file = location.endswith(".py")
    module = _import_file(file, content, sha256) if is_file else _import_module(location)
    files, libraries = files_behind(module, sha256)
    _reach_later(module, file.parent if is_file else Path.cwd())
    if not from_record:
        _remember(file, sha256)
    try:
        call = getattr(module, attribute)
    except AttributeError:
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise unknown_name("callable", attribute, known, str(file)) from None
    if not callable(call):
        raise UsageError(f"{attribute} is no callable", str(file), "name a function or a class")
    absolute = f"{file}:{attribute}" if is_file else name
    record = {
        "name": absolute,
        "path": str(file),
        "sha256": sha256,
        "code": stable_hash((without_folders(files), libraries)),
    }
    return Plugin(call, absolute, record, tuple(files), libraries)


def _sum(registry: Registry, parts: list[Term], *, from_record: bool, trust: bool) -> Plugin:
    """A weighted sum of what `resolve` finds."""
    assert registry.sums is not None

    def found(part: Term) -> Plugin | None:
        return None if part.name is None else resolve(part.name, registry, from_record=from_record, trust=trust)

    plugins = [found(p) for p in parts]
    name = text_of([p if q is None else p._replace(name=q.name) for p, q in zip(parts, plugins, strict=True)])
    call = registry.sums.load()(
        {p.of: p.weight if q is None else (p.weight, q.call) for p, q in zip(parts, plugins, strict=True)}
    )
    known = [q for q in plugins if q is not None]
    record = {"name": name}
    if any(q.files for q in known):
        record["code"] = stable_hash([q.record.get("code", q.name) for q in known])
    files = dict(f for q in known for f in q.files)
    libraries = {k: v for q in known for k, v in q.libraries.items()}
    return Plugin(call, name, record, tuple(files.items()), libraries)


def named(name: str, registry: Registry) -> dict[str, str]:
    """What a ``run.json`` keeps of a name that the user gives, found without importing anything.

    Code of the user's is remembered as named by them. Arguments and errors as of `resolve`; that a file has the
    callable shows when it is imported.
    """
    if name not in registry and registry.sums is not None and (parts := terms(name)) is not None:
        known = [p if p.name is None else p._replace(name=named(p.name, registry)["name"]) for p in parts]
        return {"name": text_of(known)}
    if name in registry or registry.family(name) is not None:
        family = registry.family(name)
        prefix, _, rest = name.partition(":")
        folder = _existing(rest) if name not in registry and family and "FOLDER" in family else None
        return {"name": f"{prefix}:{folder}" if folder else name}
    location, colon, attribute = name.rpartition(":")
    if not colon or not location or not attribute.isidentifier():
        raise unknown_name(registry.kind, name, [*registry, "path/to/file.py:callable", "pkg.module:callable"])
    file = _find_file(location, registry.kind)
    sha256 = hashlib.sha256(_read(file)).hexdigest()
    _remember(file, sha256)
    absolute = f"{file}:{attribute}" if location.endswith(".py") else name
    return {"name": absolute, "path": str(file), "sha256": sha256}


def call(plugin: Plugin, arguments: Mapping[str, object], filled: Mapping[str, object] | None = None) -> Any:
    """Call a plug-in with its ``k=v`` arguments.

    Args:
        plugin: What to call.
        arguments: The user's arguments.
        filled: Values for parameters that the user left out, where the callable has such parameters.

    Raises:
        UsageError: If an argument is unknown or missing.
    """
    accepted, anything = parameters(plugin.call)
    values = {k: v for k, v in (filled or {}).items() if k in accepted}
    values.update(arguments)
    if not anything:
        for key in values:
            if key not in accepted:
                raise unknown_name("argument", key, accepted, plugin.name)
    try:
        return plugin.call(**values)
    except LandscapeError:
        raise
    except Exception as error:
        raise UsageError(
            f"{plugin.name} raised {type(error).__name__}: {error}",
            "plug-in",
            "mend it, or see the traceback",
        ) from error


def parameters(function: Callable[..., object]) -> tuple[list[str], bool]:
    """Names the callable takes, and whether it takes others, too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [], True
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _argument(kind: str) -> str:
    return argument("data" if kind == "data set" else kind) if kind in ("model", "data set", "loss") else "a flag"


def library(name: str, extra: str) -> Any:
    """Import an optional library.

    Raises:
        UsageError: If it is missing, or does not fit the installed torch.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise UsageError(f"{name} needs {error.name}", name, f"pip install {error.name}") from error
        raise UsageError(f"{name} is not installed", name, f"pip install 'flatminima[{extra}]'") from None
    except Exception as error:  # a build for another torch fails in many ways
        raise UsageError(
            f"importing {name} raised {type(error).__name__}: {error}",
            name,
            "install the build that belongs to your torch (from the same index as torch itself)",
        ) from error


# -- finding and importing -------------------------------------------------------------------------------------


def _existing(name: str) -> Path | None:
    """The absolute path that a user means, if there is anything; no text is too odd to ask."""
    try:
        path = Path(name).expanduser().absolute()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null character, somebody unknown's home
        return None


def _find_file(location: str, kind: str) -> Path:
    """The file that importing ``location`` would run, found without importing anything."""
    if location.endswith(".py"):
        file = _existing(location)
        if file is None or not file.is_file():
            raise UsageError("there is no such file", location[:300], f"check {_argument(kind)}")
        return file.resolve()
    path: list[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    walked = ""
    for part in location.split("."):
        walked = f"{walked}.{part}" if walked else part
        spec = importlib.machinery.PathFinder.find_spec(walked, path) if part.isidentifier() else None
        if spec is None:
            break
        path = list(spec.submodule_search_locations or [])
    if spec is None or not spec.origin:
        raise UsageError(
            f"there is no module {location!r}", _argument(kind), "check the name, or use path/to/file.py:callable"
        )
    return Path(spec.origin).resolve()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read: {error.strerror}", str(file), "check its permissions") from None


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    with one_at_a_time():
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            with suppress(ValueError):
                sys.path.remove(str(folder))


class _Neighbours(importlib.abc.MetaPathFinder):
    """Finds the neighbours of a plug-in that it imports later, inside a function: those that it names, no others.

    It answers imports by files of the plug-in's folder alone. To the rest of the program the names do not exist.
    """

    names: ClassVar[dict[str, list[str]]] = {}  # first word of a module's name: folders where it may be

    @classmethod
    def invalidate_caches(cls) -> None:
        """It keeps none."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The neighbour of that name; the last place to look."""
        folders = cls.names.get(fullname) if path is None else None
        asking = _asking_folder() if folders else None
        near = [f for f in folders or () if asking is not None and Path(f) in (asking, *asking.parents)]
        return importlib.machinery.PathFinder.find_spec(fullname, near) if near else None


def _asking_folder() -> Path | None:
    """The folder of the file whose import is being answered."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_globals.get("__file__")
        importing = frame.f_globals.get("__name__", "").partition(".")[0] in ("importlib", "_frozen_importlib")
        if not importing and file != __file__:
            return Path(file).resolve().parent if file else None
        frame = frame.f_back
    return None


def _reach_later(module: types.ModuleType, folder: Path) -> None:
    for name in names_imported(module):
        folders = _Neighbours.names.setdefault(name, [])
        if str(folder) not in folders:
            folders.append(str(folder))
    if _Neighbours not in sys.meta_path:
        sys.meta_path.append(_Neighbours)


def _import_file(file: Path, content: bytes, sha256: str) -> types.ModuleType:
    """Run exactly the bytes that were hashed, once, as a module; its neighbours can be imported."""
    name = f"landscape_plugin_{hashlib.sha256(f'{file}{sha256}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        with _on_path(file.parent):
            exec(compile(content, str(file), "exec"), module.__dict__)  # the user named this file as code
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            f"importing it raised {type(error).__name__}: {error}", str(file), "mend the file"
        ) from error
    return module


def _import_module(location: str) -> types.ModuleType:
    try:
        with _on_path(Path.cwd()):
            return importlib.import_module(location)
    except Exception as error:
        raise UsageError(
            f"importing it raised {type(error).__name__}: {error}", location, "mend the module"
        ) from error


# -- trust ------------------------------------------------------------------------------------------------------


def _trust_file() -> Path:
    import platformdirs

    return platformdirs.user_state_path("landscape") / "trusted-plugins.json"


def _is_trusted(file: Path, sha256: str) -> bool:
    try:
        trusted = read_json(_trust_file())["plugins"]
        return any(t["path"] == str(file) and t["sha256"] == sha256 for t in trusted)
    except (LandscapeError, OSError, RuntimeError, KeyError, TypeError):
        return False


def _remember(file: Path, sha256: str) -> None:
    if _is_trusted(file, sha256):
        return
    import filelock

    try:
        store = _trust_file()
        store.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(store.with_suffix(".lock"), timeout=5):
            try:
                known = list(read_json(store)["plugins"])
            except (LandscapeError, KeyError, TypeError):
                known = []
            known = [t for t in known if t.get("path") != str(file)] + [{"path": str(file), "sha256": sha256}]
            write_json(store, {"version": 1, "plugins": known})
    except (LandscapeError, OSError, RuntimeError, json.JSONDecodeError, filelock.Timeout) as error:
        log.info("could not remember the plug-in %s: %s", file, error)

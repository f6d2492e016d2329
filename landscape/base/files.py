"""Files that are whole or absent: atomic writes, strict JSON, one writer per folder.

A file is written under a unique temporary name in the same folder, synced, and renamed over its final name.
A reader therefore sees the old file or the new one, never a part; a kill leaves at most a temporary, which
the next writer removes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DataError, LandscapeError, ResourceError, UsageError

log = logging.getLogger(__name__)

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch and safetensors lose errno on the way; their texts keep it.
_NO_SPACE_TEXT = re.compile(r"os error (27|28|122)|No space left|File too large|unexpected pos \d+ vs \d+", re.I)
_TEMPORARY = re.compile(r"^\..+\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{8}\.tmp$")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


def _process_is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    Raises:
        ResourceError: If the disk is full or a file-size limit was hit; the old file is intact.
        UsageError: If ``path`` cannot be written at all.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        make_folder(path.parent)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, Exception) and not isinstance(error, LandscapeError):
            if is_out_of_space(error):
                raise ResourceError(
                    "no space left to write", str(path), "free some space; the old file is intact"
                ) from error
            if isinstance(error, OSError):
                raise UsageError(
                    f"cannot write: {error.strerror or error}", str(path), "choose another `out=`"
                ) from error
        raise


def is_out_of_space(error: BaseException) -> bool:
    """Whether ``error`` (of the operating system, torch or safetensors) means a full disk or a size limit."""
    return getattr(error, "errno", None) in _NO_SPACE or bool(_NO_SPACE_TEXT.search(str(error)))


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> Path:
    """Create ``folder`` and its parents.

    Raises:
        UsageError: If something that is not a folder is in the way, or it may not be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError("the output path is a file", str(folder), "name a folder") from None
    except OSError as error:
        if is_out_of_space(error):
            raise ResourceError("no space left to create a folder", str(folder), "free some space") from error
        raise UsageError(
            f"cannot create the folder: {error.strerror}", str(folder), "choose another `out=`"
        ) from None
    return folder


def remove_stale_temporaries(folder: Path) -> int:
    """Delete temporaries in ``folder`` that dead processes of this machine left; return how many."""
    removed = 0
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == _host() and not _process_is_alive(int(match["pid"])):
            with suppress(OSError):
                path.unlink()
                removed += 1
    if removed:
        log.warning("removed %d unfinished file(s) of a dead process in %s", removed, folder)
    return removed


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path`` as strict JSON (no NaN token), atomically."""
    write_bytes(path, (json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: If the file does not exist.
        DataError: If it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("there is no such file", str(path), "check the path") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is no JSON: {error}", str(path), "restore the file or make it anew") from None


def jsonable(value: object) -> Any:
    """Turn ``value`` into what strict JSON can say: NaN and infinities become None, arrays become lists."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return jsonable(value.tolist())
    if isinstance(value, (Sequence, set, frozenset)):
        return [jsonable(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return str(value)


def content_hash(path: Path) -> str | None:
    """SHA-256 (hexadecimal) of a file's bytes; None where there is no such file, or what is there is no file."""
    try:
        if (
            not path.is_file()
        ):  # the name may come from a stranger: a pipe would be waited for, a device read for ever
            return None
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except (OSError, ValueError):  # a name with NUL
        return None


def stable_hash(value: object) -> str:
    """SHA-256 (hexadecimal) of ``value`` in canonical JSON: equal content, equal hash, on any machine."""
    return hashlib.sha256(json.dumps(jsonable(value), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parts_hash(*parts: str | bytes) -> bytes:
    """SHA-256 of texts and bytes one after the other, each with its length, so that no two divisions are alike."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.digest()


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only writer of ``folder``; the owner's pid and host stand in ``.lock-owner``.

    The operating system frees the lock when its owner dies, so a dead owner is taken over with a notice, and what it
    left unfinished is removed.

    Args:
        folder: Created if missing.
        wait: Wait for another owner instead of failing.

    Raises:
        UsageError: If another process holds the lock; the message names its pid and host.
    """
    import filelock

    make_folder(folder)
    owner = folder / ".lock-owner"
    lock = filelock.FileLock(folder / ".lock", blocking=wait)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(
            f"the folder is in use by {_owner_text(owner)}", str(folder), "wait, or use another `out=`"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write: {error.strerror or error}", str(folder), "choose another `out=`") from None
    try:
        if owner.exists():
            log.warning("taking over the lock that %s left in %s", _owner_text(owner), folder)
        remove_stale_temporaries(folder)
        write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process is inside with this lock file; the system frees it when its owner dies.

    Raises:
        UsageError: If the lock cannot be made.
    """
    import filelock

    make_folder(lock.parent)
    try:
        found = filelock.FileLock(lock)
        found.acquire()
    except OSError as error:
        where = str(lock.parent)
        raise UsageError(f"cannot write: {error.strerror or error}", where, "choose another `out=`") from None
    try:
        yield
    finally:
        found.release()


def _owner_text(owner: Path) -> str:
    try:
        facts = read_json(owner)
        return f"process {facts['pid']} on host {facts['host']}"
    except (LandscapeError, KeyError, TypeError, OSError):
        return "an unnamed process"

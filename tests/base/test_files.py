from __future__ import annotations

import errno
import json
import logging
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.base.errors import DataError, Interrupted, LandscapeError, NumericalError, ResourceError, UsageError
from landscape.base.files import (
    atomic_path,
    folder_lock,
    is_out_of_space,
    jsonable,
    make_folder,
    read_json,
    remove_stale_temporaries,
    stable_hash,
    write_bytes,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- errors: one line, one code -----------------------------------------------------------------------------------


def test_codes_and_builtin_relatives():
    codes = {UsageError: 2, DataError: 3, NumericalError: 4, ResourceError: 5, Interrupted: 75}
    assert {e: e.exit_code for e in codes} == codes
    assert all(issubclass(e, LandscapeError) for e in codes)
    assert issubclass(UsageError, ValueError)
    assert issubclass(NumericalError, ArithmeticError)


def test_an_error_is_one_line():
    assert str(UsageError("no such\n  file", "a/b.pt", "check\tthe path")) == "no such file (a/b.pt): check the path"
    assert str(DataError("empty")) == "empty"
    assert str(DataError("empty", "", "fill it")) == "empty: fill it"


# -- atomic writing -----------------------------------------------------------------------------------------------


def test_a_file_appears_whole(tmp_path: Path):
    target = tmp_path / "new" / "file.bin"
    write_bytes(target, b"one")
    write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "file.bin"
    write_bytes(target, b"old")
    with pytest.raises(error, match="half way"), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"ne")
        assert target.read_bytes() == b"old"
        raise error("half way")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_resource_error_that_names_the_file(tmp_path: Path, code: int):
    target = tmp_path / "file.bin"
    write_bytes(target, b"old")
    with (
        pytest.raises(ResourceError, match=r"no space left.*file.bin.*old file is intact") as caught,
        atomic_path(target),
    ):
        raise OSError(code, os.strerror(code))
    assert caught.value.exit_code == 5
    assert target.read_bytes() == b"old"


def test_texts_of_a_full_disk():
    assert is_out_of_space(RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"))
    assert is_out_of_space(
        Exception("Error while serializing: IoError(Os { code: 28, message: No space left on device })")
    )
    assert not is_out_of_space(OSError(errno.EACCES, "Permission denied"))


def test_a_path_that_cannot_be_is_a_usage_error(tmp_path: Path):
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(UsageError, match="file") as caught:
        write_bytes(tmp_path / "file" / "below", b"")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError):
        make_folder(tmp_path / "file")


def test_temporaries_of_the_dead_are_removed_and_only_those(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    dead, host = int(ended.stdout), "".join(c if c.isalnum() or c == "_" else "_" for c in socket.gethostname())
    kept = [
        f".a.nc.{host}-{os.getpid()}-0123abcd.tmp",
        f".a.nc.elsewhere-{dead}-0123abcd.tmp",
        ".hidden",
        "notes.tmp",
    ]
    for name in [*kept, f".a.nc.{host}-{dead}-0123abcd.tmp"]:
        (tmp_path / name).write_text("")
    remove_stale_temporaries(tmp_path)
    assert names(tmp_path) == sorted(kept)


# -- JSON ---------------------------------------------------------------------------------------------------------


def test_json_is_strict(tmp_path: Path):
    value = {
        "nan": math.nan,
        "inf": [-math.inf, 1.5],
        "array": np.array([[1, 2], [3, np.nan]]),
        "path": Path("a"),
        3: np.int64(4),
        "set": {2, 1},
    }
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_json(tmp_path / "x.json") == {
        "nan": None,
        "inf": [None, 1.5],
        "array": [[1.0, 2.0], [3.0, None]],
        "path": "a",
        "3": 4,
        "set": [1, 2],
    }


def test_broken_and_missing_json(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no such file.*gone.json"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"this is no JSON.*x.json") as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.exit_code == 3


TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(TREE)
def test_everything_becomes_strict_json(value):
    plain = jsonable(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert jsonable(plain) == plain


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=2))
def test_hashes_do_not_depend_on_order(value: dict):
    assert stable_hash(value) == stable_hash(dict(reversed(value.items())))


def test_hashes_are_pinned():
    """The same on any machine and in any release: results are found again by them."""
    assert stable_hash({"b": [1, 2.5, None], "a": "é"}) == stable_hash({"a": "é", "b": (1, 2.5, math.nan)})
    code = "from landscape.base.files import stable_hash; print(stable_hash({'a': 1, 'b': [0.1, 'x']}))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert other.stdout.strip() == stable_hash({"b": [0.1, "x"], "a": 1})
    assert stable_hash([1, 2]) != stable_hash([2, 1])
    assert stable_hash({"a": 1}) != stable_hash({"a": "1"})


# -- one writer ---------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_writes(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from landscape.base.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "in\n"
        with (
            pytest.raises(
                UsageError, match=f"in use by process {holder.pid} on host {socket.gethostname()}"
            ) as caught,
            folder_lock(tmp_path),
        ):
            pass
        assert caught.value.exit_code == 2
        assert str(tmp_path) in str(caught.value)
    finally:
        holder.communicate("")
    with folder_lock(tmp_path):
        assert json.loads((tmp_path / ".lock-owner").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock-owner").exists()


def test_a_dead_owner_is_taken_over_with_a_notice(tmp_path: Path, caplog):
    write_json(tmp_path / ".lock-owner", {"pid": 4242, "host": "elsewhere"})
    with caplog.at_level(logging.WARNING), folder_lock(tmp_path):
        assert "process 4242 on host elsewhere" in caplog.text


def test_the_lock_is_freed_after_an_error(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        raise ZeroDivisionError
    with folder_lock(tmp_path):
        assert (tmp_path / ".lock-owner").exists()

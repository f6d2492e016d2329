"""Stored results are strangers' files: damage, lies about sizes, links to other places, records of any form."""

from __future__ import annotations

import copy
import json
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.base.errors import DataError
from landscape.figures.render import drawable, render
from landscape.results.result import Result
from landscape.storage import hdf5, netcdf
from landscape.surfaces.export import export
from landscape.surfaces.foreign import read_surface_h5

from . import hostile_hdf5
from .conftest import Landscape
from .fuzz_targets import result as read_flipped

CONTENT = netcdf.encode(hostile_hdf5.surface(), {"kind": "surface", "record": hostile_hdf5.RECORD})


# -- 78: damage ---------------------------------------------------------------------------------------------------


@pytest.mark.case(78)
def test_no_flipped_bit_goes_unnoticed(record_property: Any) -> None:
    """All of them, one by one."""
    unnoticed = []
    for place in range(8 * len(CONTENT)):
        flipped = bytearray(CONTENT)
        flipped[place // 8] ^= 1 << place % 8
        try:
            netcdf.decode(bytes(flipped))
        except ValueError:
            continue
        unnoticed.append(place)
    record_property("inputs", 8 * len(CONTENT))
    assert not unnoticed
    assert len(CONTENT) > 1000
    xr.testing.assert_identical(netcdf.decode(CONTENT)[0], hostile_hdf5.surface())


@pytest.mark.case(78)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.99, 1.5])
def test_a_result_cut_short_or_with_more_behind_it(share: float, tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    file.write_bytes((CONTENT * 2)[: int(share * len(CONTENT))])
    with pytest.raises(DataError, match=r"no stored result.*a\.nc"):
        Result.load(file)


# -- 79: damage under a checksum that fits ------------------------------------------------------------------------


def signed(content: bytes) -> bytes:
    """With the checksum that the writer would have given it: whoever changes a file can do that, too."""
    import hashlib

    place = content.find(b"sha256\0\0" + struct.pack(">ii", 2, 64)) + 16
    empty = content[:place] + b"0" * 64 + content[place + 64 :]
    return content[:place] + hashlib.sha256(empty).hexdigest().encode() + content[place + 64 :]


def flips(seed: int, count: int, base: bytes = CONTENT) -> Any:
    """So many files in which a few bits, bytes or numbers are others."""
    rng = random.Random(seed)
    for _ in range(count):
        made = bytearray(base)
        for _ in range(rng.choice((1, 1, 2, 5))):
            place = rng.randrange(len(made))
            kind = rng.randrange(4)
            if kind == 0:
                made[place] ^= 1 << rng.randrange(8)
            elif kind == 1:
                made[place] = rng.randrange(256)
            elif kind == 2:  # a length or a place that is far too large, or none
                start = place - place % 4
                made[start : start + 4] = rng.choice((b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff"))
            else:
                other = rng.randrange(len(made))
                made[place : place + 8] = made[other : other + 8]
        yield bytes(made[: len(base)])


@pytest.mark.case(79)
@pytest.mark.parametrize("count", [1_500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_what_a_checksum_that_fits_hides_is_read_or_refused(count: int, record_property: Any) -> None:
    ends = [read_flipped(signed(made)) for made in flips(count, count)]
    record_property("inputs", count)
    assert ends.count("refused") > count // 5
    assert ends.count("read") > count // 20  # or nothing behind the checksum was tried


@pytest.mark.case(79)
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a dimension of 2^31 - 1", (struct.pack(">i", 5), struct.pack(">i", 2**31 - 1))),
        ("a list of 2^31 - 1 entries", (struct.pack(">ii", 10, 4), struct.pack(">ii", 10, 2**31 - 1))),
        ("records without end", (b"CDF\x02\0\0\0\0", b"CDF\x02\xff\xff\xff\xff")),
        ("an array of no type", (struct.pack(">ii", 6, 200), struct.pack(">ii", 99, 200))),
        ("a name of 2^31 bytes", (struct.pack(">i", 4) + b"loss", struct.pack(">I", 2**31) + b"loss")),
    ],
)
def test_numbers_of_the_header_are_compared_with_the_file(what: str, change: tuple[bytes, bytes]) -> None:
    assert change[0] in CONTENT, what
    with pytest.raises(ValueError, match=r"larger than the file|header|records|type|damaged"):
        netcdf.decode(signed(CONTENT.replace(change[0], change[1], 1)))


@pytest.mark.case(79)
def test_many_names_for_the_same_bytes_are_refused() -> None:
    """A small header can list one large array a thousand times."""
    one = b"\0\0\0\x01v\0\0\0" + struct.pack(">ii", 1, 0) + b"\0" * 8 + struct.pack(">iiq", 6, 8000, 0)
    names = [one.replace(b"v\0\0\0", f"v{i:03}".encode()).replace(b"\0\0\0\x01v", b"\0\0\0\x04v") for i in range(500)]
    head = netcdf.MAGIC + struct.pack(">iii", 0, 10, 1) + b"\0\0\0\x01x\0\0\0" + struct.pack(">i", 1000)
    text = b"{}"
    attributes = struct.pack(">iii", 12, 2, 6) + b"sha256\0\0" + struct.pack(">ii", 2, 64) + b"0" * 64
    attributes += struct.pack(">i", 9) + b"landscape\0\0\0" + struct.pack(">ii", 2, 2) + text + b"\0\0"
    made = head + attributes + struct.pack(">ii", 11, len(names)) + b"".join(names)
    with pytest.raises(ValueError, match="larger than the file"):
        netcdf.decode(signed(made + b"\0" * 8000))


# -- 80: damage to what older versions stored ---------------------------------------------------------------------


@pytest.mark.case(80)
@pytest.mark.slow
@pytest.mark.parametrize("count", [600])
def test_flips_of_old_results_neither_hang_nor_grow(count: int, tmp_path: Path, record_property: Any) -> None:
    """In a process of its own, whose memory and time are watched."""
    hostile_hdf5.old_result(tmp_path / "old.nc")
    program = f"""
        import sys, time, resource
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from landscape.storage import hdf5
        from tests.faults.test_result_files import flips
        from tests.faults.fuzz_targets import require_clean
        from landscape.base.errors import DataError
        from landscape.results.result import Result
        hdf5.SECONDS = 1.0
        path, slowest, ends = Path("flipped.nc"), 0.0, {{"read": 0, "refused": 0}}
        for made in flips(7, {count}, Path("old.nc").read_bytes()):
            path.write_bytes(made)
            started = time.monotonic()
            try:
                Result.load(path)
                ends["read"] += 1
            except DataError as error:
                require_clean(error, "flipped.nc")
                ends["refused"] += 1
            slowest = max(slowest, time.monotonic() - started)
        # The usage of this process counts the one that started it.
        own = next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmHWM"))
        peak = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        print(ends["read"], ends["refused"], slowest, peak / 1024)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    read, refused, slowest, peak = map(float, process.stdout.split())
    record_property("inputs", count)
    assert read + refused == count
    assert read > count // 20
    assert refused > count // 10
    assert slowest < 10
    assert peak < 450  # the tests' own imports are in it; `test_reading_takes_little_memory` has the bound


@pytest.mark.case(80)
@pytest.mark.slow
def test_reading_takes_little_memory(tmp_path: Path) -> None:
    """Less than 200 MB for whoever reads and for the process that opens HDF5, whatever the file."""
    hostile_hdf5.old_result(tmp_path / "old.nc")
    (tmp_path / "new.nc").write_bytes(CONTENT)
    hostile_hdf5.one_text_many_times(tmp_path / "bomb.h5")
    hostile_hdf5.hostile("compressed", tmp_path / "compressed.h5", result=False)
    program = """
        import os
        from pathlib import Path
        from landscape.storage import hdf5
        from landscape.results.result import Result
        Result.load("old.nc"), Result.load("new.nc")
        for name in ("bomb.h5", "compressed.h5"):
            try:
                hdf5.read_hdf5(Path(name))
                raise AssertionError(name)
            except ValueError:
                pass
        for who in (os.getpid(), hdf5._reader().process.pid):
            print(*(line.split()[1] for line in open(f"/proc/{who}/status") if line.startswith("VmHWM")))
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    peaks = [float(kilobytes) / 1024 for kilobytes in process.stdout.split()]
    assert len(peaks) == 2
    assert all(20 < peak < 200 for peak in peaks), peaks


# -- 81: what leads elsewhere, 82: what claims more than it holds -------------------------------------------------

WORDS = {
    "external_link": "is a link to another place",
    "soft_link": "is a link to another place",
    "soft_link_loop": "is a link to another place",
    "external_storage": "lie in another file",
    "group_in_itself": "is no array",
    "virtual": "is made of other data sets",
    "never_written": "larger than what was written",
    "contiguous_never_written": "larger than what was written",
    "compressed": "is compressed",
    "compound": r"an array holds \[|has no dimension scale",
}


@pytest.mark.case(81, 82)
@pytest.mark.parametrize("kind", hostile_hdf5.HOSTILE)
@pytest.mark.parametrize("result", [True, False], ids=["result", "surface"])
def test_hostile_hdf5_is_refused_before_it_is_followed(kind: str, result: bool, tmp_path: Path) -> None:
    file = hostile_hdf5.hostile(kind, tmp_path / ("a.nc" if result else "a.h5"), result=result)
    with pytest.raises(DataError, match=WORDS[kind]) as caught:
        Result.load(file) if result else read_surface_h5(file)
    assert "swordfish" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.case(82)
def test_one_text_many_times_is_refused(tmp_path: Path) -> None:
    """100 GB out of a file of 5 MB; the process that reads it is told how much memory it may take."""
    with pytest.raises(DataError, match=r"memory|damaged"):
        read_surface_h5(hostile_hdf5.one_text_many_times(tmp_path / "a.h5"))
    assert Result.load(hostile_hdf5.old_result(tmp_path / "b.nc")).data["loss"].shape == (5, 5)  # and goes on


@pytest.mark.case(82)
def test_a_file_larger_than_results_are_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.nc", "wb") as file:
        file.write(netcdf.MAGIC)
        file.truncate(1 << 40)  # a terabyte that takes no place on the disk
    with pytest.raises(DataError, match="larger than results are"):
        Result.load(tmp_path / "a.nc")


@pytest.mark.case(82)
def test_old_results_are_read_as_before(tmp_path: Path) -> None:
    old = Result.load(hostile_hdf5.old_result(tmp_path / "old.nc"))
    xr.testing.assert_identical(old.data, hostile_hdf5.surface())
    assert old.record == hostile_hdf5.RECORD
    again = Result.load(old.save(tmp_path / "new.nc"))
    xr.testing.assert_identical(again.data, old.data)
    assert (tmp_path / "new.nc").read_bytes().startswith(b"CDF")


# -- 83: what never answers ---------------------------------------------------------------------------------------

_HANGS = "import sys; print('ready', flush=True); sys.stdin.readline(); i = 0\nwhile True: i += 1"


@pytest.mark.case(83)
def test_a_reader_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the HDF5 library does on some damaged files; the next file is read by another process."""
    file = hostile_hdf5.old_result(tmp_path / "old.nc")
    monkeypatch.setattr(hdf5, "SECONDS", 0.5)
    monkeypatch.setattr(hdf5, "_READERS", [])
    monkeypatch.setattr(hdf5, "_PROGRAM", _HANGS)
    with pytest.raises(DataError, match=r"takes more than 1 s|takes more than 0 s"):
        Result.load(file)
    (hanging,) = hdf5._READERS
    assert hanging.process.poll() == -signal.SIGKILL
    monkeypatch.setattr(hdf5, "SECONDS", 30.0)
    monkeypatch.setattr(hdf5, "_PROGRAM", "raise SystemExit")
    with pytest.raises(DataError, match="did not start"):
        Result.load(file)
    monkeypatch.undo()
    assert Result.load(file).kind == "surface"


@pytest.mark.case(83)
@pytest.mark.slow
def test_a_file_that_hangs_does_not_outlive_sigterm(landscape: Landscape, record_property: Any) -> None:
    """The command is told to stop while the other process walks in circles: both end."""
    hostile_hdf5.old_result(landscape.folder / "old.nc")
    landscape.file(
        "sitecustomize.py", f"from landscape.storage import hdf5\nhdf5._PROGRAM = {_HANGS!r}\nhdf5.SECONDS = 500.0"
    )
    process = landscape.start("info", "old.nc", PYTHONPATH=str(landscape.folder))
    child = None
    deadline = time.monotonic() + 60
    while child is None and time.monotonic() < deadline:
        time.sleep(0.2)
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        child = int(found[0]) if found else None
    assert child, "the other process did not start"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 75
    record_property("kills", 1)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


# -- 84: records of any form --------------------------------------------------------------------------------------

JUNK = (None, True, -1, 3.5, 10**30, "x", "", [], {}, [[]], [None], {"a": 1}, ["a"], "\ud800", "$\\frac{", [{}])


@pytest.fixture(scope="module")
def kinds() -> dict[str, Result]:
    """One stored result of each kind, of the gallery."""
    gallery = Path(__file__).parents[2] / "gallery"
    found: dict[str, Result] = {}
    for path in sorted(gallery.glob("*/results/*.nc")):
        found.setdefault(Result.load(path).kind, Result.load(path))
    assert {"hessian", "sharpness", "surface", "plane", "training", "study", "domains"} <= set(found)
    return found


def _changed(record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One value, at any depth, is another one or missing."""
    made = copy.deepcopy(record)
    within: Any = made
    while True:
        step = rng.choice(list(within) if isinstance(within, dict) else range(min(len(within), 4)))
        if not isinstance(within[step], (dict, list)) or not within[step] or rng.random() < 0.4:
            break
        within = within[step]
    if isinstance(within, dict) and rng.random() < 0.25:
        del within[step]
    else:
        within[step] = copy.deepcopy(rng.choice(JUNK))
    return made


@pytest.mark.case(84)
@pytest.mark.filterwarnings("ignore")  # of libraries that draw nonsense
@pytest.mark.parametrize("count", [3, pytest.param(14, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["hessian", "sharpness", "surface", "plane", "training", "study", "domains"])
def test_a_record_of_any_form_is_refused_or_shown(
    kind: str, count: int, kinds: dict[str, Result], tmp_path: Path, record_property: Any
) -> None:
    rng, sound = random.Random(f"{kind}{count}"), kinds[kind]
    ends = []
    for _ in range(count):
        record = _changed(sound.record, rng)
        file = tmp_path / "a.nc"
        file.write_bytes(netcdf.encode(sound.data, {"kind": kind, "record": record}))
        try:
            result = Result.load(file)
            for figure in drawable([result])[:2]:
                render(figure, [result], tmp_path, formats=("svg",))
            export(result, "csv", tmp_path / "a.csv")
            export(result, "npz", tmp_path / "a.npz")
            ends.append("shown")
        except DataError as error:
            ends.append("refused" if str(file) in str(error) else str(error))
    record_property("inputs", count)
    assert len(ends) == count
    assert set(ends) <= {"shown", "refused"}


@pytest.mark.case(84)
@pytest.mark.parametrize(
    "change",
    [
        {"axes": 7},
        {"accuracy": "x"},
        {"run": []},
        {"run": {"seed": "a"}},
        {"domains": 3},
        {"notes": [1]},
        {"label": []},
    ],
    ids=str,
)
def test_commands_refuse_records_of_other_types(
    change: dict[str, Any], landscape: Landscape, capsys: pytest.CaptureFixture[str]
) -> None:
    from landscape_cli.app import main

    record = {**hostile_hdf5.RECORD, **change}
    content = netcdf.encode(hostile_hdf5.surface(), {"kind": "surface", "record": record})
    file = landscape.file("a.nc", content)
    for words in (["plot", str(file)], ["export", str(file)], ["info", str(file)]):
        assert main([*words, *(["--out", str(landscape.folder / "out")] if words[0] != "info" else [])]) == 3
        said = capsys.readouterr().err
        assert said.count("error: ") == 1
        assert "the record of a surface: " in said
        assert next(iter(change)) in said
        assert "unexpected" not in said
    assert not (landscape.folder / "out").exists()


@pytest.mark.case(84)
def test_what_no_form_excludes_is_an_error_of_the_file(tmp_path: Path) -> None:
    """A spectrum without its residuals."""
    own = Result("hessian", xr.Dataset({"eigenvalues": ("rank", [3.0, 1.0])}, {"rank": [1, 2]}), {"target": "a"})
    with pytest.raises(KeyError, match="residuals"):  # of no file: a fault of ours keeps its own name
        render("eigenvalues", [own], tmp_path)
    stored = Result.load(own.save(tmp_path / "a.nc"))
    with pytest.raises(DataError, match=r"cannot be shown: KeyError.*residuals.*a\.nc.*`force=True`"):
        render("eigenvalues", [stored], tmp_path)


@pytest.mark.case(84)
@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b'{"kind": "surface"}',
        b'{"kind": 3, "record": {}}',
        b'{"kind": "x", "record": []}',
        b'{"kind": "x", "record": {"a": NaN}}',
        b"[" * 100_000,
        b'{"kind": "x", "record": {}, "beside": [1]}',
        b'{"kind": "x", "record": {}, "beside": {"a": {"type": "object"}}}',
        b'{"kind": "x", "record": {}, "order": 3}',
        b'{"kind": "x", "record": {}, "beside": {"a": {"type": "text", "shape": [9], "dims": [], "values": []}}}',
    ],
    ids=lambda t: t.decode()[:50],
)
def test_texts_of_any_form(text: bytes, tmp_path: Path) -> None:
    data = xr.Dataset({"a": ("x", [1.0])})
    plain = data.assign_attrs(sha256="0" * 64, landscape=text.decode())
    file = tmp_path / "a.nc"
    file.write_bytes(signed(bytes(plain.to_netcdf(engine="scipy", format="NETCDF3_64BIT"))))
    with pytest.raises(DataError, match=r"no stored result.*a\.nc"):
        Result.load(file)


# -- 85: arrays that the format cannot hold -----------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=6)


@pytest.mark.case(85)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(TEXT, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.lists(st.floats(width=32), max_size=4),
    st.booleans(),
)
def test_arrays_come_back_as_they_were(texts: list[str], whole: list[int], real: list[float], truth: bool) -> None:
    """Names with NUL, lone surrogates and of no length, integers of 64 bits, empty arrays, NaN and infinities."""
    names = np.empty(len(texts), dtype=object)
    names[:] = texts
    data = xr.Dataset(
        {
            "real": ("r", np.array(real, dtype=float)),
            "whole": ("w", np.array(whole, dtype=np.int64)),
            "two": (("r", "w"), np.zeros((len(real), len(whole)))),
            "single": ("r", np.array(real, dtype=np.float32)),
            "truth": truth,
        },
        {"domain": ("domain", names), "other": ("w", np.arange(len(whole)))},
    )
    found, text = netcdf.decode(netcdf.encode(data, {"record": {"a": texts}}))
    assert text == {"record": {"a": texts}}
    assert list(found.data_vars) == list(data.data_vars)
    assert set(found.coords) == set(data.coords)
    for name, variable in data.variables.items():
        assert found[name].dims == variable.dims
        if variable.dtype.kind == "f":
            assert found[name].values.tobytes() == variable.values.tobytes()
            assert found[name].dtype == variable.dtype
        else:
            assert found[name].values.tolist() == variable.values.tolist()


@pytest.mark.case(85)
def test_any_netcdf_program_reads_them(tmp_path: Path) -> None:
    """scipy's own reader knows nothing of ours; nor does xarray, told only the name of the file."""
    from scipy.io import netcdf_file

    result = Result("surface", hostile_hdf5.surface(), hostile_hdf5.RECORD)
    file = result.save(tmp_path / "a.nc")
    with netcdf_file(file, mmap=False) as opened:
        assert opened.variables["loss"][:].tolist() == result.data["loss"].values.tolist()
        assert json.loads(opened.landscape)["kind"] == "surface"
    with xr.open_dataset(file) as opened:
        xr.testing.assert_identical(opened.load().drop_attrs(), result.data)


# -- 86: a result under another's name ----------------------------------------------------------------------------


@pytest.mark.case(86)
def test_a_result_of_another_name_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copied over by hand or by a stranger, it is whole, and the answer to another question."""
    import landscape
    from landscape.analyses.analyze import analyze
    from landscape.results.target import Target
    from landscape.specs import HessianSpec

    (run,) = landscape.train(optimizer=("sgd",), data="gaussian-domains", epochs=1, out=tmp_path, device="cpu")
    right = analyze("hessian", Target.find(str(run.path)), spec=HessianSpec(top=1))
    other = analyze("hessian", Target.find(str(run.path)), spec=HessianSpec(top=2))
    expected = right["eigenvalues"]
    right.path.write_bytes(other.path.read_bytes())
    with caplog.at_level("WARNING", "landscape"):
        again = analyze("hessian", Target.find(str(run.path)), spec=HessianSpec(top=1))
    assert "that of another computation" in caplog.text
    assert again["eigenvalues"] == expected
    caplog.clear()
    assert analyze("hessian", Target.find(str(run.path)), spec=HessianSpec(top=1))["eigenvalues"] == expected
    assert "another computation" not in caplog.text


# -- 87: runs whose run.json or log has another form --------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import landscape

    out = tmp_path_factory.mktemp("run")
    asked: dict[str, Any] = {"optimizer": ("sgd",), "data": "gaussian-domains", "probe": ("surrogate-gap@every=2",)}
    (made,) = landscape.train(**asked, steps=4, batch_size=32, out=out)
    return Path(made.path)


@pytest.mark.case(87)
@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_commands_refuse_runs_of_any_form(
    count: int, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    import shutil

    from landscape_cli.app import main

    rng = random.Random(count)
    record = json.loads((run / "run.json").read_text())
    log = (run / "metrics.jsonl").read_text().splitlines()
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    ends = set()
    for _ in range(count):
        lines = list(log)
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(_changed(json.loads(lines[place]), rng))
        changed = rng.random() < 0.6
        (copied / "run.json").write_text(json.dumps(_changed(record, rng) if changed else record))
        (copied / "metrics.jsonl").write_text("\n".join(log if changed else lines) + "\n")
        for words in (["info", str(copied)], ["export", str(copied), "--out", str(tmp_path / "out")]):
            ends.add(main(words))
            assert "unexpected" not in capsys.readouterr().err
    record_property("inputs", count)
    assert ends <= {0, 2, 3}
    assert len(ends) > 1

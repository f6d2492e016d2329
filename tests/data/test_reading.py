"""Arrays, rows and streams of every kind: the same numbers as plain numpy and torch, or one clear error."""

from __future__ import annotations

import itertools
import logging
import random

import numpy as np
import pandas as pd
import pytest
import torch
from cases import problem_of
from torch import Tensor, nn

import landscape
from landscape.base.errors import DataError, UsageError
from landscape.data.digests import digests_of, flaws_of
from landscape.data.examples import Examples
from landscape.numerics.trees import leaves

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 4)).astype("float32")
Y = np.arange(24) % 3


def read(inputs, targets=Y) -> tuple[Tensor, Tensor]:
    batch = Examples.of((inputs, targets)).batch(np.arange(24))
    return batch.inputs, batch.targets


# -- arrays ----------------------------------------------------------------------------------------------------------


def mapped(tmp_path) -> np.ndarray:
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


KINDS = {
    "Fortran order": np.asfortranarray(X),
    "negative strides": X[::-1],
    "both negative": np.flip(X),
    "every other": np.repeat(X, 2, axis=0)[::2],
    "broadcast rows": np.broadcast_to(X[0], X.shape),
    "broadcast columns": np.broadcast_to(X[:, :1], X.shape),
    "a new last axis": X[:, 0][:, None],
    "the other byte order": X.astype(">f4"),
    "half precision": X.astype("f2"),
    "double precision": X.astype("f8"),
    "long double": X.astype(np.longdouble),
    "unsigned 16": np.arange(24, dtype="u2")[:, None] + 65_000,
    "unsigned 32": np.arange(24, dtype="u4")[:, None] + 4_000_000_000,
    "booleans": X > 0,
    "a frame": pd.DataFrame(X),
    "nothing masked": np.ma.array(X),
    "nested lists": X.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_hold_the_numbers_they_show(kind: str):
    data = KINDS[kind]
    expected = np.ascontiguousarray(np.asarray(data))
    found, _ = read(data)
    assert np.array_equal(found.numpy().astype(np.float64), expected.astype(np.float64))
    # The content decides, not how it lies in memory.
    assert Examples.of((data, Y)).fingerprint() == Examples.of((found.clone(), torch.tensor(Y))).fingerprint()


def test_a_file_that_is_mapped_is_not_copied(tmp_path):
    array = mapped(tmp_path)
    store = Examples.of((array, Y)).store
    assert store.inputs.data_ptr() == array.ctypes.data
    assert torch.equal(read(array)[0], torch.tensor(X))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(X[:1]).expand(24, 4),
        torch.tensor(X[:, :1]).expand(24, 4),
        torch.tensor(X.T.copy()).T,
        torch.tensor(X)[:, :1],
        torch.tensor(X).bfloat16(),
        torch.tensor(X).to(torch.float8_e4m3fn),
        torch.tensor(X).to(torch.complex64).conj(),
        torch.arange(24).to(torch.uint16)[:, None],
        nn.Parameter(torch.tensor(X)),
    ],
)
def test_tensors_hold_the_numbers_they_show(tensor: Tensor):
    found, _ = read(tensor)
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    assert torch.equal(found.to(wide), tensor.detach().to(wide))
    assert not found.requires_grad
    assert Examples.of((tensor, Y)).fingerprint() == Examples.of((found.clone(), Y)).fingerprint()


SERIES = pd.Series(Y, dtype="category")


@pytest.mark.parametrize(
    "targets", [Y[::-1][::-1], Y.tolist(), pd.Series(Y), SERIES, Y.astype(">i2"), torch.tensor(Y)]
)
def test_labels_of_every_kind_are_classes(targets):
    assert Examples.of((X, targets)).classes().tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ma.masked_greater(X, 1), r"a masked array has no value where it is masked.*fill it"),
        (X.astype(object), r"a ndarray holds objects.*astype"),
        (np.array([X[0], X[1, :2]] * 12, dtype=object), r"holds objects, perhaps of unequal lengths"),
        (X.astype(str), "holds texts"),
        (np.array(["2020-01-01"] * 24, dtype="M8[D]"), "holds dates"),
        (torch.tensor(X).to_sparse(), r"a sparse tensor has no plain rows.*to_dense"),
        (torch.tensor(X, device="meta"), "a meta tensor has no plain rows"),
        (np.full((24, 1), 2**64 - 1, dtype="u8"), r"uint64 holds 18446744073709551615"),
        ([[1.0], [1.0, 2.0]] * 12, r"a list is no tensor.*pad to one length"),
        (np.float32(1), r"cannot be a tuple of 2: float32 and ndarray"),
    ],
)
def test_arrays_that_are_no_numbers_are_said(inputs, message: str):
    with pytest.raises(DataError, match=message):
        Examples.of((inputs, Y))


def test_a_frame_and_sparse_arrays_say_how_to_return_them():
    from scipy import sparse

    with pytest.raises(DataError, match=r"cannot be a DataFrame.*to_numpy"):
        Examples.of(pd.DataFrame(X))
    with pytest.raises(DataError, match=r"csr_matrix and ndarray.*toarray"):
        Examples.of((sparse.csr_matrix(X), Y))


def test_targets_with_a_stride_of_zero_serve_every_analysis():
    """A new last axis of a numpy array: the right values are those of a contiguous copy, bit for bit."""
    x = RNG.uniform(-1, 1, 24).astype("float32")
    y = np.sin(3 * x)
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    strange = problem_of(model, (x[:, None], y[:, None]), "mse")
    plain = problem_of(model, (torch.tensor(x[:, None].copy()), torch.tensor(y[:, None].copy())), "mse")
    with torch.no_grad():
        expected = nn.functional.mse_loss(model(torch.tensor(x)[:, None]), torch.tensor(y)[:, None])
    assert strange.loss() == pytest.approx(expected.item(), rel=1e-6)
    assert strange.data_hash == plain.data_hash
    found = landscape.hessian(strange, top=1).record["eigenvalues"][0]
    design = np.stack([x, np.ones(24)]).astype(np.float64)
    dense = 2 * design @ design.T / 24
    assert found == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-4)
    for analysis in (landscape.sharpness, landscape.domains):
        assert analysis(strange).record["loss"] == analysis(plain).record["loss"]


# -- digests and flaws in stretches ----------------------------------------------------------------------------------


def test_digests_do_not_depend_on_the_stretches(monkeypatch: pytest.MonkeyPatch):
    tree = {"b": torch.tensor(X).bfloat16(), "a": (torch.tensor(X), torch.tensor(X) > 0)}
    targets = (torch.tensor(Y), torch.tensor(X[:, :0]))
    whole = digests_of(tree, targets)
    monkeypatch.setattr("landscape.data.digests._STRETCH_BYTES", 100)
    assert digests_of(tree, targets) == whole
    assert len(set(whole)) == 24


def test_flaws_are_found_whatever_the_type(monkeypatch: pytest.MonkeyPatch):
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64):
        x = torch.ones(9, 3, 2).to(kind)
        assert flaws_of(x, x) == {}
        x[4, 2, 1] = float("nan")
        x[[1, 7], 0, 0] = float("inf")
        monkeypatch.setattr("landscape.data.digests._STRETCH_BYTES", 50)
        found = {k: v.tolist() for k, v in flaws_of(x, torch.ones(9)).items()}
        assert found == {"NaN in the inputs": [4], "infinite values in the inputs": [1, 7]}
    huge = torch.full((4, 2), 3e38)  # the sum overflows, the values do not
    assert flaws_of(torch.arange(4), huge) == {}


# -- rows ------------------------------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    def __init__(self, get=None, n=24) -> None:
        self.get, self.n = get or (lambda i: (X[i], int(Y[i]))), n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int):
        return self.get(i)


def inputs_of(data) -> Tensor:
    return next(leaves(Examples.of(data).in_memory().batch(np.arange(24)).inputs))


def overwriting():
    room = np.zeros(4, dtype="float32")

    def get(i: int):
        room[:] = X[i]
        return room, int(Y[i])

    return get


def test_a_data_set_may_use_its_memory_again():
    examples = Examples.of(Rows(overwriting()))
    assert torch.equal(examples.in_memory().batch(np.arange(24)).inputs, torch.tensor(X))
    assert torch.equal(examples.batch(np.array([3, 1])).inputs, torch.tensor(X[[3, 1]]))


def test_a_loader_may_use_its_memory_again():
    room = torch.zeros(6, 4)

    def collated(rows):
        room[:] = torch.stack([torch.tensor(x) for x, _ in rows])
        return room, torch.tensor([y for _, y in rows])

    loader = torch.utils.data.DataLoader(Rows(), batch_size=6, collate_fn=collated)
    assert torch.equal(inputs_of(loader), torch.tensor(X))


def test_training_reads_rows_of_their_own():
    from landscape.training.batches import BatchOrder, batches

    order = BatchOrder(24, 8, seed=0)
    for step, batch in enumerate(batches(Examples.of(Rows(overwriting())), order, 0, 3, workers=0)):
        assert torch.equal(batch.inputs, torch.tensor(X[order.positions(step)]))


class NoLength(torch.utils.data.Dataset):
    def __getitem__(self, i: int):
        return X[i], int(Y[i])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            Rows(n=30),
            r"reading example 29 of 30 raised IndexError.*\(Rows, the data\): let its length be what it holds",
        ),
        (Rows(lambda i: (X[i], 1 // (i - 7))), r"reading example 7 of 24 raised ZeroDivisionError"),
        (Rows(lambda i: {}["x"]), r"reading example 0 of 24 raised KeyError"),
        (Rows(n=-1), r"the length of a Rows raised ValueError"),
        (Rows(n=2.5), r"the length of a Rows raised TypeError"),
        (NoLength(), r"a NoLength has no length.*__len__"),
        (Rows(lambda i: (X[i], {"boxes": np.ones((i % 3 + 1, 4))})), r"do not form a batch.*pad"),
        (Rows(lambda i: (X[i], [0, 1][: i % 2 + 1])), r"do not form a batch.*pad"),
        (Rows(lambda i: (X[i], None)), "a NoneType is no tensor"),
    ],
)
def test_a_data_set_that_misbehaves_is_said(data, message: str):
    with pytest.raises(DataError, match=message):
        Examples.of(data).in_memory()


def test_memory_that_runs_out_in_a_data_set_is_no_fault_of_the_data():
    def get(i: int):
        raise MemoryError

    with pytest.raises(MemoryError):
        Examples.of(Rows(get))


DRAWS = {"numpy": np.random.rand, "torch": lambda: torch.rand(()).item(), "python": random.random}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_augmentation_is_frozen_whatever_it_draws_from(draw, caplog: pytest.LogCaptureFixture):
    examples = Examples.of(Rows(lambda i: (X[i] + np.float32(draw()), int(Y[i]))))
    assert torch.equal(examples.batch(np.arange(24)).inputs, examples.batch(np.arange(24)).inputs)
    assert not caplog.text


@pytest.mark.parametrize("source", ["counter", "generator"])
def test_what_cannot_be_frozen_is_said(source: str, caplog: pytest.LogCaptureFixture):
    count, generator = itertools.count(), torch.Generator().manual_seed(0)

    def get(i: int):
        extra = next(count) if source == "counter" else torch.rand((), generator=generator).item()
        return X[i] + np.float32(extra), int(Y[i])

    with caplog.at_level(logging.WARNING):
        examples = Examples.of({"a": Rows(get)})
    assert "the data, domain 'a' gives other values at every reading" in caplog.text
    kept = examples.in_memory()
    assert kept.facts["unsteady"] is True
    assert torch.equal(kept.batch(np.arange(24)).inputs, kept.batch(np.arange(24)).inputs)
    with pytest.raises(DataError, match=r"24 examples exceed .* every reading of one gives other values"):
        examples.in_memory(10)


def test_parts_of_data_that_exceed_the_memory_are_not_read_into_it(monkeypatch: pytest.MonkeyPatch):
    data = {"a": Rows(), "b": Rows()}
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    kept = problem_of(model, data)
    # An example has 24 bytes, a domain has half of them.
    monkeypatch.setattr("landscape.problem.problem._MEMORY_BYTES", 48 * 24 - 1)
    monkeypatch.setattr("landscape.problem.passes._CACHE_BYTES", 0)
    problem = problem_of(model, data)
    for part in (
        problem.restrict_to_domain("a"),
        problem.restrict_to_examples(np.arange(3)),
        problem.restrict_to_domain("b").restrict_to_examples([1]),
    ):
        assert part.examples.store is problem.examples.store
    other = problem.with_examples(Examples.of(data))
    assert type(other.examples.store) is type(problem.examples.store)
    assert problem.restrict_to_domain("b").loss() == kept.restrict_to_domain("b").loss()
    assert other.loss() == kept.loss()


# -- rows of another kind --------------------------------------------------------------------------------------------


def triples() -> Rows:
    return Rows(lambda i: (X[i], int(Y[i]), torch.tensor([i % 2, 7])))


def test_triples_say_how_they_can_be_read():
    message = r"one is a tuple of 3.*\(x, y, metadata\).*a method pair\(row\)"
    for data in (
        triples(),
        torch.utils.data.TensorDataset(*map(torch.tensor, (X, Y, Y))),
        list(zip(X, Y, Y, strict=True)),
    ):
        with pytest.raises(DataError, match=message):
            Examples.of(data).in_memory()
    with pytest.raises(DataError, match=r"cannot be a tuple of 3.*a mapping from domains.*pair\(row\)"):
        Examples.of((X, Y, Y))


def test_a_data_set_says_what_its_pairs_are():
    data = triples()
    data.pair = lambda row: row[:2]
    parts = {f"d{i}": torch.utils.data.Subset(data, np.arange(i, 24, 2)) for i in range(2)}
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data, range(24)), batch_size=5)
    table = torch.utils.data.TensorDataset(*map(torch.tensor, (X, Y, Y)))
    table.pair = lambda row: (row[0], row[2])
    plain = Examples.of((X, Y)).fingerprint()
    for read in (data, loader, table):
        assert Examples.of(read).in_memory().fingerprint() == plain
    domains = Examples.of(parts)
    assert domains.domain_names == ("d0", "d1")
    assert torch.equal(domains.batch(np.arange(12, 24)).inputs, torch.tensor(X[1::2]))


def test_a_pair_that_is_none_is_said():
    data = triples()
    data.pair = lambda row: row
    with pytest.raises(DataError, match="one is a tuple of 3"):
        Examples.of(data)
    data.pair = lambda row: row["x"]
    with pytest.raises(DataError, match=r"pair\(row\) raised TypeError"):
        Examples.of(data)


# -- streams ---------------------------------------------------------------------------------------------------------


class Stream(torch.utils.data.IterableDataset):
    """Without end, and with noise from the global generators."""

    def __iter__(self):
        return ((X[i % 24] + noise(), int(Y[i % 24])) for i in itertools.count())


def noise() -> np.float32:
    return np.float32(1e-3 * random.random())


STREAMS = {
    "an IterableDataset": Stream,
    "its loader": lambda: torch.utils.data.DataLoader(Stream(), batch_size=7),
    "a generator": lambda: ((x + noise(), y) for x, y in zip(X, Y, strict=True)),
    "zip": lambda: zip(X, Y, strict=True),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_read_as_far_as_asked(kind: str):
    make = STREAMS[kind]
    with pytest.raises(UsageError, match=r"can be gone through.*`examples=N`.*Examples.of\(data, first=N\).*islice"):
        Examples.of({"a": make()})
    before = random.getstate()
    examples = Examples.of(make(), first=10)
    assert random.getstate() == before
    assert torch.allclose(examples.batch(np.arange(10)).inputs, torch.tensor(X[:10]), atol=1e-3)
    assert Examples.of(make(), first=10).fingerprint() == examples.fingerprint()
    assert examples.classes().tolist() == Y[:10].tolist()
    assert examples.facts["read_from_stream"] == len(examples) == 10


def test_an_empty_stream_is_said():
    with pytest.raises(DataError, match="there is no example"):
        Examples.of(iter(()), first=3)


# -- names of domains ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [((1, "1"), "two domains are called '1'"), (("a", ""), "a domain has an empty name"), ((" ",), "an empty name")],
)
def test_domains_have_names_of_their_own(names: tuple, message: str):
    with pytest.raises(DataError, match=message):
        Examples.of(dict.fromkeys(names, (X, Y)))
    assert Examples.of({3: (X, Y), None: (X, Y)}).domain_names == ("3", "None")


def test_an_example_is_called_by_its_place_in_the_users_data():
    data = {"a": (X[:10], Y[:10]), "b": (X[10:], Y[10:])}
    rows = {k: Rows(lambda i, k=k: (data[k][0][i], int(data[k][1][i])), len(data[k][1])) for k in data}
    for given in (data, rows):
        for examples in (Examples.of(given), Examples.of(given).in_memory()):
            chosen = examples.select(np.array([12, 3])).in_memory()
            assert [chosen.name_of(i) for i in range(2)] == ["example 2 of domain 'b'", "example 3 of domain 'a'"]
    assert Examples.of((X, Y)).name_of(5) == "example 5"

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import domain_data
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from landscape.base.errors import DataError, UsageError
from landscape.data.examples import Examples
from landscape.numerics.trees import leaves, map_tensors
from landscape.problem.forward import forward


class Rows(torch.utils.data.Dataset):
    def __init__(self, *pairs) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int):
        return self.pairs[i]


def of_rows(x: Tensor, y: Tensor) -> Rows:
    return Rows(*[(a, int(b)) for a, b in zip(x, y, strict=True)])


def pictures(n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=g), torch.randint(0, 3, (n,), generator=g)


# -- fingerprints ------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_content():
    x, y = pictures()
    assert Examples.of((x, y)).fingerprint() == Examples.of((x.clone(), y.clone())).fingerprint()
    assert Examples.of((x, y)).fingerprint() == Examples.of(of_rows(x, y)).fingerprint()
    assert len(Examples.of((x, y)).fingerprint()) == 64


def changes() -> dict[str, Examples]:
    x, y = pictures()
    pixel, label = x.clone(), y.clone()
    pixel[7, 0, 3, 3] += 1e-6
    label[7] = (label[7] + 1) % 3
    order = torch.arange(12)
    order[[2, 3]] = order[[3, 2]]
    return {
        "plain": Examples.of((x, y)),
        "pixel": Examples.of((pixel, y)),
        "label": Examples.of((x, label)),
        "order": Examples.of((x[order], y[order])),
        "inputs against targets": Examples.of((x[order], y)),
        "fewer": Examples.of((x[:-1], y[:-1])),
        "type": Examples.of((x.double(), y)),
        "shape": Examples.of((x.flatten(1), y)),
        "one domain": Examples.of({"a": (x, y)}),
        "its name": Examples.of({"b": (x, y)}),
        "two domains": Examples.of({"a": (x[:5], y[:5]), "b": (x[5:], y[5:])}),
        "another border": Examples.of({"a": (x[:6], y[:6]), "b": (x[6:], y[6:])}),
        "tuple": Examples.of(((x, x), y)),
        "dictionary": Examples.of(({"a": x, "b": 2 * x}, y)),
        "other keys": Examples.of(({"a": x, "c": 2 * x}, y)),
    }


def test_any_change_changes_the_fingerprint():
    hashes = {name: e.fingerprint() for name, e in changes().items()}
    alike = {a for a in hashes for b in hashes if a != b and hashes[a] == hashes[b]}
    assert not alike


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_the_fingerprint_does_not_depend_on_the_pieces(cut: int):
    """The same rows from one tensor, from one data set, and from two standing one after the other."""
    x, y = pictures()
    pieces = torch.utils.data.ConcatDataset([of_rows(x[:cut], y[:cut]), of_rows(x[cut:], y[cut:])])
    hashes = {Examples.of({"a": data}).fingerprint() for data in ((x, y), of_rows(x, y), pieces)}
    assert len(hashes) == 1
    backwards = torch.utils.data.ConcatDataset([of_rows(x[cut:], y[cut:]), of_rows(x[:cut], y[:cut])])
    assert Examples.of({"a": backwards}).fingerprint() not in hashes


def test_the_fingerprint_of_a_selection_is_that_of_its_content():
    x, y = pictures()
    assert (
        Examples.of((x, y)).select(np.array([3, 1])).fingerprint()
        == Examples.of((x[[3, 1]], y[[3, 1]])).fingerprint()
    )


# -- order and subsets -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    classes=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    share=st.floats(0.05, 1),
)
def test_every_prefix_is_balanced(counts: list[int], classes: int, seed: int, share: float):
    """A stratum of size s among S strata of n examples has N s / n members in the first N, within 1 + S s / n."""
    rng = np.random.default_rng(seed)
    data = {f"d{i}": (torch.zeros(n, 1), torch.from_numpy(rng.integers(0, classes, n))) for i, n in enumerate(counts)}
    examples = Examples.of(data)
    order = examples.stratified_order(seed)
    n = sum(counts)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, examples.stratified_order(seed))
    strata = examples.domain * 10 + examples.classes()
    names, sizes = np.unique(strata, return_counts=True)
    first = strata[order[: max(1, int(share * n))]]
    for name, size in zip(names, sizes, strict=True):
        assert abs((first == name).sum() - len(first) * size / n) <= 1 + len(names) * size / n


def test_equal_strata_stand_in_every_round_once():
    """3 domains x 4 classes, 10 examples each: every block of 12 holds each pair once, every block of 24 twice."""
    labels = torch.arange(40) % 4
    examples = Examples.of({k: (torch.zeros(40, 1), labels) for k in "abc"})
    strata = examples.domain * 4 + examples.classes()
    order = examples.stratified_order(3)
    for start in range(0, 120, 12):
        assert sorted(strata[order[start : start + 12]]) == list(range(12))


def test_seeds_shuffle_and_subsets_are_nested():
    examples = Examples.of(domain_data((40, 50, 60)))
    assert not np.array_equal(examples.stratified_order(0), examples.stratified_order(1))
    sets = [set(examples.subset(n, seed=4).rows.tolist()) for n in (5, 20, 100, 150)]
    assert [len(s) for s in sets] == [5, 20, 100, 150]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    chosen = examples.subset(20, seed=4).rows
    assert bool((np.diff(chosen) > 0).all())  # original order
    assert np.array_equal(chosen, examples.subset(20, seed=4).rows)
    assert not np.array_equal(chosen, examples.subset(20, seed=5).rows)


def test_members_of_a_stratum_are_shuffled():
    examples = Examples.of((torch.zeros(50, 1), torch.zeros(50, dtype=torch.long)))
    order = examples.stratified_order(0)
    assert not np.array_equal(order, np.arange(50))
    assert len({examples.stratified_order(s)[0] for s in range(20)}) > 5


def test_targets_that_are_no_classes_are_balanced_over_domains():
    examples = Examples.of({k: (torch.zeros(20, 1), torch.randn(20)) for k in "ab"})
    assert examples.classes() is None
    order = examples.stratified_order(0)
    assert examples.domain[order[:10]].sum() == 5


def test_the_order_leaves_global_generators_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Examples.of(domain_data()).stratified_order(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_more_examples_than_there_are():
    with pytest.raises(UsageError, match=r"43 examples were asked for, there are 42 \(`examples=`\)") as caught:
        Examples.of(domain_data()).subset(43, 0)
    assert caught.value.exit_code == 2


# -- what a user may hand in ---------------------------------------------------------------------------------------


def test_datasets_equal_tensors():
    data = domain_data()
    a, b = Examples.of(data), Examples.of({k: of_rows(*v) for k, v in data.items()})
    rows = np.array([40, 0, 9, 8, 28, 29])
    for x, y in ((a.batch(rows), b.batch(rows)), (a.batch(rows), b.in_memory().batch(rows))):
        assert torch.equal(x.inputs, y.inputs)
        assert torch.equal(x.targets, y.targets)
        assert torch.equal(x.domain, y.domain)
    assert a.batch(rows).domain.tolist() == [2, 0, 1, 0, 1, 2]
    assert torch.equal(a.batch(rows).inputs[2], data["cartoon"][0][0])


def test_of_domains_keeps_names_and_indices():
    examples = Examples.of(domain_data()).of_domains(["photo", "art"])
    assert len(examples) == 22
    assert examples.domain_names == ("art", "cartoon", "photo")
    assert sorted(set(examples.domain.tolist())) == [0, 2]
    with pytest.raises(UsageError, match=r"unknown domain 'foto'.*did you mean 'photo'"):
        examples.of_domains(["foto"])


def test_batches_are_ragged_and_in_order():
    sizes = [len(b) for b in Examples.of((torch.arange(70.0)[:, None], torch.zeros(70))).batches(32)]
    assert sizes == [32, 32, 6]


def test_nested_inputs():
    x = torch.arange(10.0).reshape(5, 2)
    examples = Examples.of(({"b": x, "a": (x + 1, x + 2)}, torch.arange(5)))
    batch = examples.batch(np.array([4, 2]))
    assert [t[0, 0].item() for t in leaves(batch.inputs)] == [9, 10, 8]
    doubled = map_tensors(batch.inputs, lambda t: 2 * t)
    assert [t[0, 0].item() for t in leaves(doubled)] == [18, 20, 16]
    moved = batch.to(torch.device("cpu"), torch.float64)
    assert {t.dtype for t in leaves(moved.inputs)} == {torch.float64}
    assert moved.targets.dtype == torch.int64


def test_a_dataset_of_tuples_and_dictionaries():
    x = torch.arange(6.0).reshape(3, 2)
    rows = Rows(*[({"a": v, "b": v + 1}, 0) for v in x])
    assert torch.equal(Examples.of(rows).batch(np.arange(3)).inputs["b"], x + 1)
    rows = Rows(*[((v, v + 1), 0) for v in x])
    inputs = Examples.of(rows).batch(np.arange(3)).inputs
    assert isinstance(inputs, tuple)
    assert torch.equal(inputs[1], x + 1)


def test_forward_passes_positions_and_keywords(caplog: pytest.LogCaptureFixture):
    class Model(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    x = torch.ones(2)
    assert forward(Model(), (3 * x, x)).tolist() == [2, 2]
    assert forward(Model(), {"b": 3 * x, "a": x}).tolist() == [-2, -2]
    assert forward(Model(), {"b": 3 * x, "a": x, "idx": x}).tolist() == [-2, -2]
    forward(Model(), {"b": 3 * x, "a": x, "idx": x})
    assert caplog.text.count("Model takes no idx: left out of its inputs") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4)), r"inputs have \[3\] examples, targets 4"),
        (((torch.zeros(3, 2), torch.zeros(4, 2)), torch.zeros(4)), r"inputs have \[3, 4\] examples, targets 4"),
        ({}, "there is no domain"),
        ({"a": (torch.zeros(0, 2), torch.zeros(0))}, r"there is no example \(the data, domain 'a'\)"),
        ({"a": (torch.zeros(2, 2), torch.zeros(2)), "b": (torch.zeros(2, 3), torch.zeros(2))}, "do not fit together"),
        (
            {"a": (torch.zeros(2, 2), torch.zeros(2)), "b": Rows((torch.zeros(2), 0))},
            "some domains are tensors and some are Datasets",
        ),
        (7, "cannot be a int"),
        (torch.zeros(3, 2), "cannot be a Tensor"),
        ((torch.zeros(3), torch.zeros(3), torch.zeros(3)), "cannot be a tuple of 3"),
        ({"x": torch.zeros(3)}, "there is no target among: x"),
        ({"x": torch.zeros(3), "y": torch.zeros(3), "label": torch.zeros(3)}, "several targets: label, y"),
        ([("a", 0), ("b", 1)], r"a str is no tensor \(row 0 of the data set\)"),
        ("digits", "cannot be a str"),
    ],
)
def test_what_is_no_data_is_said(data, message: str):
    with pytest.raises(DataError, match=message) as caught:
        Examples.of(data).in_memory()
    assert caught.value.exit_code == 3


X, Y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


def as_table(rows: list) -> dict[str, Tensor]:
    return {"x": torch.stack([r[0] for r in rows]), "y": torch.stack([r[1] for r in rows])}


class Loaded:
    def loader(self, **options) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), **options)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        {"x": X, "labels": Y},
        {"x": X.numpy(), "target": Y.numpy(), },
        torch.utils.data.TensorDataset(X, Y),
        [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        [(x.numpy(), y.numpy()) for x, y in zip(X, Y, strict=True)],
        [{"x": x.tolist(), "label": int(y), "text": "left out"} for x, y in zip(X, Y, strict=True)],
        of_rows(X, Y),
        Loaded().loader(batch_size=4),
        Loaded().loader(batch_size=2, collate_fn=as_table),
    ],
)  # fmt: skip
def test_everything_that_people_call_data(data):
    batch = Examples.of(data).in_memory().batch(np.arange(6))
    inputs = batch.inputs["x"] if isinstance(batch.inputs, dict) else batch.inputs
    assert torch.equal(inputs.float(), X)
    assert torch.equal(batch.targets, Y)
    assert Examples.of(data).classes().tolist() == Y.tolist()


def test_a_loader_is_read_once_and_leaves_the_generators_alone():
    before = torch.get_rng_state()
    loader = Loaded().loader(batch_size=4, shuffle=True, drop_last=True)
    examples = Examples.of(loader)
    assert len(examples) == 4
    assert torch.equal(torch.get_rng_state(), before)
    ragged = torch.utils.data.DataLoader(
        [torch.zeros(n) for n in (2, 2, 3)], collate_fn=lambda r: (r[0][None], r[0][:1])
    )
    with pytest.raises(DataError, match=r"batches differ in shape.*pad to one length"):
        Examples.of(ragged)


def test_texts_are_their_own_targets_where_they_are_not_padding():
    ids, mask = torch.arange(6).reshape(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]])
    table = Examples.of({"input_ids": ids, "attention_mask": mask})
    rows = Examples.of(
        [{"input_ids": i.tolist(), "attention_mask": m.tolist()} for i, m in zip(ids, mask, strict=True)]
    )
    for examples in (table, rows):
        batch = examples.batch(np.arange(2))
        assert batch.targets.tolist() == [[0, 1, 2], [3, -100, -100]]
        assert set(batch.inputs) == {"input_ids", "attention_mask"}


def test_targets_may_be_trees():
    targets = {"a": X + 1, "b": (Y, X)}
    examples = Examples.of((X, targets))
    assert examples.classes() is None
    batch = examples.select(np.array([4, 1])).batch(np.array([1, 0]))
    assert torch.equal(batch.targets["b"][0], Y[[1, 4]])
    other = Examples.of((X, {"a": X + 1, "b": (Y, X + 1)}))
    assert other.fingerprint() != examples.fingerprint()


def test_numbers_of_any_kind_count_in_the_fingerprint():
    def hashed(value) -> str:
        return Examples.of([(value, 0)]).fingerprint()

    assert (
        len({hashed(v) for v in (1.0, 2.0, 1, np.float32(1), np.ones(1), [1.0], (1.0,))}) == 7 - 1
    )  # ones(1) is [1.0]


def test_large_data_is_read_in_every_pass(caplog: pytest.LogCaptureFixture):
    examples = Examples.of(of_rows(X, Y)).select(np.array([5, 0, 3]))
    assert examples.in_memory(3 * 16) is not examples
    streamed = examples.in_memory(3 * 16 - 1)
    assert streamed is examples
    assert "3 examples exceed" in caplog.text
    assert streamed.fingerprint() == examples.in_memory().fingerprint()


def test_examples_that_do_not_stack_are_said():
    with pytest.raises(DataError, match=r"do not form a batch.*equal shapes"):
        Examples.of(Rows((torch.zeros(2), 0), (torch.zeros(3), 0))).in_memory()
    with pytest.raises(DataError, match="do not form a batch"):
        Examples.of(Rows((torch.zeros(2), 0, 1), (torch.zeros(2), 0, 1))).in_memory()

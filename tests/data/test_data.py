from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from landscape.base.errors import DataError, UsageError
from landscape.data import digits as digits_module
from landscape.data.digits import digits, digits_rotated
from landscape.data.gaussian import gaussian_domains
from landscape.data.splits import Splits, holdout_split

DIGITS = load_digits()


def rows(x: torch.Tensor, y: torch.Tensor) -> Counter:
    return Counter((image.numpy().tobytes(), int(label)) for image, label in zip(x, y, strict=True))


def original() -> Counter:
    return rows(torch.from_numpy((DIGITS.images / 16).astype(np.float32))[:, None], torch.from_numpy(DIGITS.target))


# -- digits -------------------------------------------------------------------------------------------------------


def test_digits_are_the_same_where_their_file_is_not_found(monkeypatch: pytest.MonkeyPatch):
    images, labels = digits_module.optical_digits()
    monkeypatch.setattr(digits_module, "find_spec", lambda name: None)
    for ours, theirs in zip((images, labels), digits_module.optical_digits(), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


def test_plain_digits_are_sklearns_each_once():
    splits = digits()
    assert sum((rows(*s) for s in splits.values()), Counter()) == original()
    assert {k: len(v[1]) for k, v in splits.items()} == {"train": 1438, "test": 359}
    x, y = splits["train"]
    assert (x.dtype, y.dtype, x.shape[1:]) == (torch.float32, torch.int64, (1, 8, 8))
    assert (float(x.min()), float(x.max())) == (0, 1)


def test_each_image_stands_in_one_domain_and_one_split():
    """With full turns for angles the images are sklearn's own, so that they can be counted."""
    splits = digits_rotated(angles=(0, 360, 720, -360))
    parts = [rows(*pair) for split in splits.values() for pair in split.values()]
    assert len(parts) == 8
    assert sum(parts, Counter()) == original()


def test_rotation_domains():
    splits = digits_rotated()
    assert list(splits["train"]) == list(splits["test"]) == ["0", "15", "30", "45", "60", "75"]
    sizes = [len(splits["train"][d][1]) + len(splits["test"][d][1]) for d in splits["train"]]
    assert sizes == [300, 300, 300, 299, 299, 299]
    assert all(len(splits["test"][d][1]) == int(0.2 * n) for d, n in zip(splits["test"], sizes, strict=True))
    for x, y in splits["train"].values():
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        assert sorted(set(y.tolist())) == list(range(10))


def test_rotation_is_by_that_angle():
    """A quarter turn is exact: it equals numpy's, and the direction is the same for all domains."""
    splits = digits_rotated(angles=(0, 90))
    turned = Counter()
    for split in splits.values():
        x, y = split["90"]
        turned += rows(torch.from_numpy(np.rot90(x.numpy(), -1, axes=(2, 3)).copy()), y)
        turned += rows(*split["0"])
    back = Counter()
    for split in splits.values():
        x, y = split["90"]
        back += rows(torch.from_numpy(np.rot90(x.numpy(), 1, axes=(2, 3)).copy()), y)
        back += rows(*split["0"])
    assert original() in (turned, back)


@pytest.mark.parametrize("make", [digits, digits_rotated])
def test_splits_are_seeded(make):
    def key(**options) -> str:
        return Splits(make(**options))["train"].fingerprint()

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert key() == key(split_seed=0)
    assert key() != key(split_seed=1)
    assert key() != key(test_fraction=0.3)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_impossible_fractions(fraction: float):
    for make in (digits, digits_rotated):
        with pytest.raises(UsageError, match=f"test_fraction={fraction}.*between 0 and 1"):
            make(test_fraction=fraction)


@pytest.mark.parametrize("angles", [(), (0, 0.0), (15, 15)])
def test_angles_are_names(angles: tuple):
    with pytest.raises(UsageError, match="expected distinct angles"):
        digits_rotated(angles=angles)


# -- Gaussian domains ---------------------------------------------------------------------------------------------


def domain_accuracy(overlap: float) -> float:
    """How well a linear classifier tells the domains apart; the classes are taken out first."""
    data = gaussian_domains(n=600, overlap=overlap, shift=6.0, seed=1)
    parts = {"train": ([], []), "test": ([], [])}
    for split, (xs, ds) in parts.items():
        for i, (x, y) in enumerate(data[split].values()):
            xs.append(np.concatenate([x.numpy(), np.eye(3)[y.numpy()]], axis=1))
            ds.append(np.full(len(y), i))
    model = LogisticRegression(max_iter=1000).fit(
        np.concatenate(parts["train"][0]), np.concatenate(parts["train"][1])
    )
    return model.score(np.concatenate(parts["test"][0]), np.concatenate(parts["test"][1]))


def test_overlap_decides_how_clear_the_domains_are():
    assert domain_accuracy(0.0) > 0.98
    assert domain_accuracy(1.0) < 0.40  # a third is chance
    assert 0.6 < domain_accuracy(0.5) < 0.8  # half the examples stray, a third of those come home


def test_gaussian_domains_have_their_shapes_classes_and_centres():
    data = gaussian_domains(n=4000, dims=6, classes=4, domains=2, noise=0.5, shift=3.0, test_fraction=0.25)
    assert list(data["train"]) == ["d0", "d1"]
    assert [tuple(x.shape) for x, _ in data["train"].values()] == [(3000, 6), (3000, 6)]
    assert [tuple(x.shape) for x, _ in data["test"].values()] == [(1000, 6), (1000, 6)]
    together = {
        d: (torch.cat([data[s][d][0] for s in data]), torch.cat([data[s][d][1] for s in data])) for d in ("d0", "d1")
    }
    assert all(y.bincount().tolist() == [1000] * 4 for _, y in together.values())
    means = {d: torch.stack([x[y == c].mean(0) for c in range(4)]) for d, (x, y) in together.items()}
    shift = means["d1"] - means["d0"]
    assert torch.allclose(shift, shift.mean(0).expand_as(shift), atol=0.1)  # one shift for all classes
    assert float(shift.mean(0).norm()) == pytest.approx(3 * np.sqrt(2), rel=0.03)  # orthogonal directions
    assert float((together["d0"][0] - means["d0"][together["d0"][1]]).std()) == pytest.approx(0.5, rel=0.05)


def test_gaussian_domains_are_seeded():
    keys = [Splits(gaussian_domains(seed=s))["train"].fingerprint() for s in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    "options", [{"overlap": 1.5}, {"overlap": -0.1}, {"dims": 2, "domains": 3}, {"n": 0}, {"test_fraction": 1.0}]
)
def test_impossible_gaussians(options: dict):
    with pytest.raises(UsageError, match="`data_arg=`") as caught:
        gaussian_domains(**options)
    assert caught.value.exit_code == 2


# -- splits -------------------------------------------------------------------------------------------------------


def test_holdout_is_a_seeded_partition():
    kept, held = holdout_split(101, 0.2, seed=3, domain=1)
    assert (len(kept), len(held)) == (81, 20)
    assert sorted([*kept, *held]) == list(range(101))
    again = holdout_split(101, 0.2, seed=3, domain=1)
    assert np.array_equal(again[1], held)
    assert not np.array_equal(holdout_split(101, 0.2, seed=4, domain=1)[1], held)
    assert not np.array_equal(holdout_split(101, 0.2, seed=3, domain=2)[1], held)


def pair(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(2.0 * n).view(n, 2), torch.zeros(n, dtype=torch.long)


def test_all_splits_share_one_list_of_domains():
    splits = Splits({"train": {"b": pair(3), "a": pair(2)}, "test": {"c": pair(1), "a": pair(5)}})
    assert splits.domains == ("b", "a", "c")
    assert splits["test"].domain_names == ("b", "a", "c")
    assert splits["test"].domain.tolist() == [2, 1, 1, 1, 1, 1]
    assert splits["train"].domain.tolist() == [0, 0, 0, 1, 1]
    assert len(splits["test"].of_domains(["b"])) == 0


def test_data_without_domains():
    splits = Splits({"train": pair(), "val": pair()})
    assert splits.domains is None
    with pytest.raises(UsageError, match=r"the data has no domains \(`holdout=`\)"):
        splits.check_domains(("a",), "`holdout=`")


def test_one_data_set_is_the_training_split():
    alone, named = Splits(pair(), "my.py:data"), Splits({"train": pair()})
    assert list(alone) == ["train"]
    assert alone["train"].fingerprint() == named["train"].fingerprint()
    with pytest.raises(DataError, match=r"my.py:data, split 'train'"):
        Splits(object(), "my.py:data")


def test_refusals_list_what_there_is():
    with pytest.raises(DataError, match='no "train" split, only: test'):
        Splits({"test": pair()})
    for nothing, said in ((None, "returned None"), ("train", "returned a str"), (5, "returned a int")):
        with pytest.raises(DataError, match=f"{said}.*return a data set, or"):
            Splits(nothing, "my.py:data")
    splits = Splits({"train": {"art": pair()}, "val": {"art": pair()}})
    with pytest.raises(UsageError, match=r"unknown split 'test' \(`split=`\).*there is: train, val") as caught:
        splits.split("test")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"unknown domain 'arts' \(`domain=`\): did you mean 'art'"):
        splits.check_domains(("arts",), "`domain=`")

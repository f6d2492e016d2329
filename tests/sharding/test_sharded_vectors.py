"""Vectors and parameters in pieces: where they lie, that they compute like plain ones, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard

from landscape.base.errors import UsageError
from landscape.numerics.draws import Draws
from landscape.sharding import space
from landscape.sharding.parts import Part, cut
from landscape.sharding.pieces import Piece
from landscape.sharding.space import Spread, SpreadDraws
from landscape.sharding.vectors import Layout, Sharded, entry_of_largest_size, like, own_part, same_memory

SHAPES = {"a": (5, 3), "b": (4, 6), "c": (7,), "d": (2, 2)}
PLACES: dict[str, Any] = {"a": Shard(0), "b": Shard(1), "c": Replicate(), "d": Shard(0)}


def piece(name: str, rank: int, world: int) -> Piece:
    mesh = SimpleNamespace(get_coordinate=lambda: [rank], shape=(world,), ndim=1)
    return Piece(SHAPES[name], mesh, [PLACES[name]], name)


def spread(rank: int, world: int) -> Spread:
    return Spread(list(SHAPES), [piece(name, rank, world) for name in SHAPES])


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_entry_counts_once(world: int):
    """Pieces of all processes, those that count as owned, hold every place of a whole vector exactly once."""
    places: list[Tensor] = []
    for rank in range(world):
        part = spread(rank, world)
        own = torch.full((part.layout.local,), -1)
        for begin, where in part.positions():
            own[begin : begin + len(where)] = where
        assert (own >= 0).all()
        places.append(own[: part.layout.owned])
    assert torch.equal(torch.cat(places).sort().values, torch.arange(15 + 24 + 7 + 4))


@pytest.mark.parametrize("kind", ["normal", "uniform", "signs"])
def test_random_vectors_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(space, "_CHUNK", 16)

    def drawn(draws: Draws) -> Tensor:
        if kind == "signs":
            return draws.signs(3, 2)
        generator = torch.Generator().manual_seed(4)
        getattr(draws, kind)(generator)  # the second one of a generator, too
        return getattr(draws, kind)(generator)

    whole = drawn(Draws(50))
    for rank in range(3):
        part = spread(rank, 3)
        own = own_part(drawn(SpreadDraws(part)))
        for begin, where in part.positions():
            assert torch.equal(own[begin : begin + len(where)], whole[where])


LAYOUT = Layout(9, 9, 9, "of one process")


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    plain = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return plain, Sharded(plain.clone(), LAYOUT)


COMPUTED = {
    "gram": lambda q, v: q @ q.T,
    "inside": lambda q, v: q[:3] @ v,
    "back": lambda q, v: own_part((q[:3] @ v) @ q[:3]),
    "combined": lambda q, v: own_part(torch.ones(2, 4, dtype=torch.float64) @ q),
    "norm": lambda q, v: torch.linalg.vector_norm(v),
    "norms": lambda q, v: torch.linalg.vector_norm(q, dim=1, keepdim=True),
    "scaled": lambda q, v: own_part(q / torch.linalg.vector_norm(q, dim=1, keepdim=True)),
    "trace": lambda q, v: (q * q).sum(),
    "diagonal": lambda q, v: own_part((q * q).sum(0)),
    "stacked": lambda q, v: own_part(torch.stack([v, v])[1] + torch.cat([q, q])[5]),
    "finite": lambda q, v: torch.isfinite(q).all(),
    "where": lambda q, v: own_part(torch.where(q > 0, q, -q).clamp_max(0.5)),
    "largest": lambda q, v: entry_of_largest_size(v),
    "room": lambda q, v: torch.tensor(like(v, 7).shape),
    "chosen": lambda q, v: own_part(q[torch.tensor([2, 0])]),
    "single": lambda q, v: own_part(v.float()[None]),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_vectors_compute_like_plain_ones(name: str):
    plain, ours = rows()
    expected, found = COMPUTED[name](plain, plain[3]), COMPUTED[name](ours, ours[3])
    assert type(found) is Tensor
    torch.testing.assert_close(found, expected)


def test_written_in_place():
    plain, ours = rows()
    for q in (plain, ours):
        q[1] = q[2] * 2
        q[0].add_(q[3], alpha=0.5)
        q.addmm_(torch.ones(4, 2, dtype=torch.float64), q[:2].clone(), alpha=-1)
    torch.testing.assert_close(own_part(ours), plain)
    assert same_memory(ours, ours[None][0])
    assert not same_memory(ours, plain)


def test_columns_are_made_orthonormal():
    plain, ours = rows()
    q, r = torch.linalg.qr(ours.T)
    torch.testing.assert_close(own_part(q) @ r, plain.T)
    torch.testing.assert_close(own_part(q).T @ own_part(q), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q: q[0][2],
        lambda q: q.sort(),
        lambda q: q.cumsum(1),
        lambda q: q[0] + torch.ones(9),
        lambda q: q[0] + Sharded(torch.ones(9), Layout(9, 9, 9, "others"))[None][0],
        lambda q: float(q[0]),
        lambda q: q.T @ q,
        lambda q: q.reshape(-1),
        lambda q: q[0].numpy(),
    ],
)
def test_nothing_is_quietly_of_one_process(wrong: Any):
    with pytest.raises((UsageError, RuntimeError, TypeError, ValueError)):
        wrong(rows()[1])


def test_parameters_in_pieces_compute_like_whole_ones():
    where = piece("a", 0, 1)
    plain = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    part = Part(plain.clone(), where)
    norms = part.square().sum([1], keepdim=True).sqrt()
    torch.testing.assert_close(norms, plain.norm(dim=1, keepdim=True))
    torch.testing.assert_close((cut(plain * 2, part) / norms).own, plain * 2 / norms)
    assert float(part.norm()) == pytest.approx(float(plain.norm()))
    torch._foreach_add_([part], [part], alpha=0.5)
    torch.testing.assert_close(part.own, 1.5 * plain)
    with pytest.raises(UsageError, match="not known for parameters that are spread"):
        part.cumsum(0)


def test_a_plain_tensor_beside_a_piece_is_cut_to_it():
    whole = torch.arange(15.0).reshape(5, 3)
    second = piece("a", 1, 2)
    part = Part(torch.zeros(2, 3), second)
    assert torch.equal((part + whole).own, whole[3:])
    assert torch.equal((part + whole[:, :1]).own, whole[3:, :1].expand(2, 3))
    assert torch.equal(cut(whole, part).own, whole[3:])

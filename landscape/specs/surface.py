"""Where a surface or a path goes: axes, grid, treatment of BatchNorm, and what is measured on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..base.errors import UsageError
from ..registry import DIRECTIONS
from .base import Spec, check_choice, check_distinct, check_number

Statistics = Literal["keep", "interpolate", "recalibrate"]

FORWARD_METRICS = (
    "loss",
    "accuracy",
    "domain-loss",
    "domain-accuracy",
    "domain-mean",
    "domain-variance",
    "worst-domain",
)
TEST_METRICS = ("test-loss", "test-accuracy", "test-domain-loss")

RANDOM_DIRECTIONS = ("filter", "layer", "model", "unit", "gaussian")
_ARGUMENTS: dict[str, tuple[type, str]] = {
    "K": (int, "a rank from 1"),
    "RHO": (float, "a radius > 0"),
    "NAME": (str, "the name of a domain"),
    "FILE": (str, "a file"),
}


def parse_direction(word: str) -> tuple[str, Any]:
    """Split a direction such as ``sam:0.05`` into its kind and its argument (None where it takes none).

    Raises:
        UsageError: If the kind is unknown, or the argument is missing, superfluous or of the wrong form.
    """
    kind, colon, text = word.partition(":")
    family = next((name for name in DIRECTIONS if name.startswith(f"{kind}:")), None)
    if family is None:
        check_choice("direction", kind, DIRECTIONS)
        if colon:
            raise UsageError(f"direction {word!r}", "`direction=`", f"{kind} takes no argument")
        return kind, None
    read, expected = _ARGUMENTS.get(family.partition(":")[2], (str, "a word"))
    try:
        value = read(text)
    except ValueError:
        value = None
    if not text or value is None or (not isinstance(value, str) and not 0 < value < float("inf")):
        raise UsageError(f"direction {word!r}", "`direction=`", f"write {kind}: and {expected} behind the colon")
    return kind, value


def is_drawn(kind: str) -> bool:
    """Whether a direction is drawn by a seed, so that its axes differ (a plug-in's ``options`` say so)."""
    return kind in RANDOM_DIRECTIONS or (kind in DIRECTIONS and "seed" in DIRECTIONS[kind].options)


@dataclass(frozen=True, kw_only=True)
class SurfaceSpec(Spec):
    """The loss along one or two stored directions."""

    dim: int = 2
    """Number of axes, 1 or 2."""
    points: int = 21
    """Grid points per axis; odd counts hold the centre as a cell."""
    range: float | Literal["auto"] = 1.0
    """The axes run from -R to R, in units of the directions; auto doubles R until the loss is at chance."""
    direction: tuple[str, ...] = ("filter",)
    """Kind of the directions, one for all axes or one per axis; see `landscape list directions`."""
    one_dimensional: Literal["zero", "tensor", "element"] = "zero"
    """Random directions in parameters of one dimension (biases, BatchNorm): 0, or scaled to |w|."""
    repeats: int = 1
    """Random directions of a 1-D slice, drawn one after the other from the seed."""
    plane: bool = False
    """The plane through the first three targets; further targets are projected onto it."""
    bn: Statistics | None = None
    """BatchNorm statistics (default: keep around one checkpoint, recalibrate between several)."""
    metrics: tuple[str, ...] = FORWARD_METRICS
    """What is kept of each forward pass; test-loss, test-accuracy, test-domain-loss add one over the test split."""
    adaptive_grid: bool = False
    """Evaluate at most 40 % of the points, densely where the loss bends, and interpolate the rest."""

    def __post_init__(self) -> None:
        if self.dim not in (1, 2):
            raise UsageError(f"dim={self.dim}", "`dim=`", "expected 1 or 2")
        check_number("points", self.points, least=3)
        if self.range != "auto":
            check_number("range", self.range, above=0)
        check_number("repeats", self.repeats, least=1)
        check_distinct("metrics", self.metrics)
        for name in self.metrics:
            check_choice("metrics", name, (*FORWARD_METRICS, *TEST_METRICS))
        self._check_directions()
        if self.dim == 1:
            for name, given in (("`plane=`", self.plane), ("`adaptive_grid=`", self.adaptive_grid)):
                if given:
                    raise UsageError(f"{name} belongs to 2-D surfaces", name, "drop it, or use `dim=2`")
        if self.adaptive_grid and (self.points < 9 or self.points % 2 == 0):
            raise UsageError(f"points={self.points}", "`adaptive_grid=`", "expected an odd number >= 9")

    def _check_directions(self) -> None:
        if len(self.direction) not in (1, self.dim):
            what = f"{len(self.direction)} directions for {self.dim} axes"
            raise UsageError(what, "`direction=`", "give one, or one per axis")
        kinds = [parse_direction(word)[0] for word in self.direction]
        differ = is_drawn(kinds[0]) or kinds[0] == "file"
        if self.dim == 2 and len(kinds) == 1 and not differ:
            what = f"both axes would be {self.direction[0]}"
            raise UsageError(what, "`direction=`", "give one direction per axis, or add `dim=1`")
        if len(set(self.direction)) == 1 and len(kinds) == 2 and not differ:
            raise UsageError(f"both axes are {self.direction[0]}", "`direction=`", "give two different directions")
        if self.repeats != 1 and (self.dim == 2 or not is_drawn(kinds[0])):
            raise UsageError("`repeats=` belongs to random 1-D slices", "`repeats=`", "add `dim=1`, or drop it")
        if self.plane and self.direction != ("filter",):
            raise UsageError("`plane=` chooses its own axes", "`direction=`", "drop one of the two")
        if self.plane and self.range != 1.0:
            raise UsageError("`plane=` chooses its own range", "`range=`", "drop one of the two")

    @property
    def axes(self) -> tuple[str, ...]:
        """The direction of each axis."""
        return self.direction * self.dim if len(self.direction) == 1 else self.direction

    @property
    def wants_test(self) -> bool:
        """Whether a metric needs a pass over the test split."""
        return bool(set(self.metrics) & set(TEST_METRICS))

    def to_dict(self) -> dict[str, Any]:
        """All fields, one direction per axis, so that equal requests have equal keys."""
        return {**super().to_dict(), "direction": self.axes}


@dataclass(frozen=True, kw_only=True)
class PathSpec(Spec):
    """The loss on a path between two checkpoints."""

    kind: Literal["line", "bezier", "polychain"] = "line"
    """A straight line, or a curve of this form with one bend, trained for a low loss."""
    points: int = 25
    """Evaluated points from A (t = 0) to B (t = 1), both included."""
    beyond: float = 0.0
    """How far the line is followed beyond both ends, in lengths of the line."""
    align: bool = False
    """Permute the hidden units of B to match those of A first (weight matching)."""
    bn: Statistics | None = None
    """BatchNorm statistics (default: recalibrate)."""
    steps: int = 600
    """Steps of SGD that train the bend of a curve."""
    lr: float = 0.02
    """Learning rate of that training."""
    train_batch: int = 128
    """Examples per step of that training."""

    def __post_init__(self) -> None:
        check_number("points", self.points, least=3)
        check_number("beyond", self.beyond, least=0, most=2)
        check_number("steps", self.steps, least=1)
        check_number("lr", self.lr, above=0)
        check_number("train_batch", self.train_batch, least=1)
        if self.kind != "line" and self.beyond:
            raise UsageError(f"a {self.kind} ends at its checkpoints", "`beyond=`", "drop it, or use `kind='line'`")
        if self.kind != "line" and self.bn == "interpolate":
            raise UsageError(
                f"statistics cannot be interpolated along a {self.kind}", "`bn=`", "use recalibrate, or `kind='line'`"
            )

"""One colour, marker and dash per optimizer, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# ERM methods come first: they are what the others are compared with.
ERM = ("sgd", "adam", "adamw")
NAMES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "sam": "SAM",
    "asam": "ASAM",
    "gsam": "GSAM",
    "sagm": "SAGM",
    "disam": "DISAM",
    "sgd-2x": "SGD, 2× epochs",
    "adam-2x": "Adam, 2× epochs",
    "adamw-2x": "AdamW, 2× epochs",
    "usam": "USAM",
    "disam-gsam": "DISAM+GSAM",
    "disam-sagm": "DISAM+SAGM",
    "fsam": "F-SAM",
    "vrex": "V-REx",
    "looksam": "LookSAM",
    "wsam": "WSAM",
    "entropy-sgd": "Entropy-SGD",
}


@dataclass(frozen=True)
class Look:
    """How one method is drawn.

    Attributes:
        colour: Hexadecimal colour (Okabe-Ito palette, then Tol's muted one: readable with colour-blind eyes).
        marker: Matplotlib's marker.
        dash: Matplotlib's line style.
    """

    colour: str
    marker: str
    dash: str


FIXED = {
    "sgd": Look("#000000", "o", "-"),
    "adam": Look("#000000", "<", "--"),
    "adamw": Look("#000000", ">", "-."),
    "sam": Look("#0072B2", "s", "-"),
    "asam": Look("#56B4E9", "^", "--"),
    "gsam": Look("#009E73", "D", "-."),
    "sagm": Look("#E69F00", "v", "--"),
    "disam": Look("#D55E00", "P", "-"),
    "sgd-2x": Look("#7F7F7F", "o", ":"),
    "adam-2x": Look("#7F7F7F", "<", ":"),
    "adamw-2x": Look("#7F7F7F", ">", ":"),
    "usam": Look("#56B4E9", "X", ":"),
    "disam-gsam": Look("#882255", "d", "-."),
    "disam-sagm": Look("#882255", "*", "--"),
    "vrex": Look("#AA4499", "X", "-."),
    "fsam": Look("#999933", "p", "-"),
    "looksam": Look("#44AA99", "h", "--"),
    "wsam": Look("#332288", "8", "-."),
    "entropy-sgd": Look("#661100", "H", ":"),
}
LOOKS = "Colour, marker and dash tell the optimizers of the legend apart."
# Four colours, seven markers and three dashes have no common divisor: 84 looks before one returns.
_COLOURS = ("#CC79A7", "#7F7F7F", "#8C6D1F", "#5E3C99")
_MARKERS = ("X", "*", "p", "h", "d", "8", "H")
_DASHES = (":", "-", "--")


def ordered(labels: Iterable[str]) -> list[str]:
    """The labels in the order of every legend: ERM, then SAM and its kin, then others by name."""
    known = list(FIXED)
    return sorted(set(labels), key=lambda k: (known.index(k) if k in known else len(known), k))


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each label: the fixed one of a known optimizer, else the next free one in order of names."""
    labels = ordered(labels)
    others = [k for k in labels if k not in FIXED]
    free = {
        k: Look(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, k in enumerate(others)
    }
    return {k: FIXED.get(k) or free[k] for k in labels}


def is_plain(label: str) -> bool:
    """Whether it is plain training (ERM), on whatever network and data."""
    head, bracket, apart = label.partition(" (")
    return head in ERM and (not bracket or "=" in apart)


def name(label: str) -> str:
    """The name that readers know an optimizer by (``sgd`` is SGD); other labels are their own names."""
    head, bracket, apart = label.partition(" (")
    return NAMES.get(label) or (NAMES[head] + bracket + apart if head in NAMES else label)

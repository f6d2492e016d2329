"""Names of the code as words for readers: measures, hyper-parameters, quantities."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .method_styles import NAMES, name

_SIGNS = {
    "lambda_1": "λ₁",
    "lambda_5": "λ₅",
    "lambda_max": "largest eigenvalue",
    "rho": "ρ",
    "rho_min": "smallest ρ",
    "lr": "learning rate",
    "eta": "η",
    "gamma": "γ",
    "sigma": "σ",
    "alpha": "α",
    "lam": "λ",
}
_MEASURES = {
    "fisher-rao": "Fisher–Rao norm",
    "average-case": "average case",
    "average-case-adaptive": "average case, adaptive",
    "worst-case-adaptive": "worst case, adaptive",
    "asam-sharpness": "ASAM's sharpness",
    "local-flatness": "local flatness",
    "gradient-norm": "gradient norm",
    "weight-norm": "weight norm",
    "path-norm": "path norm",
    "pac-bayes-sigma": "PAC-Bayes σ",
    "pac-bayes-sigma-magnitude": "PAC-Bayes σ, by magnitude",
    "keskar": "Keskar's sharpness",
    "relative-flatness": "relative flatness",
}
_SETTING = re.compile(r"\b(\w+)=([^\s,()]+)")
_EIGENVALUE = re.compile(r"\blambda_(\d+|max)\b")
_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def spoken(text: str) -> str:
    """A name with what is code in it said in words: ``m=1`` is ``m = 1``, ``label_noise=0.4`` ``label noise 0.4``."""

    def said(found: re.Match[str]) -> str:
        key, value = found.group(1), found.group(2).replace("-", "−")
        sign = _SIGNS.get(key, key.replace("_", " "))
        return f"{sign} = {value}" if len(sign) == 1 else f"{sign} {value}"

    told = _EIGENVALUE.sub(
        lambda f: "λmax" if f.group(1) == "max" else f"λ{f.group(1).translate(_LOW)}", _SETTING.sub(said, text)
    )
    return re.sub(r"\brho\b", "ρ", told)


def method(label: str) -> str:
    """A method as readers know it, with its settings in words: ``sam rho=0.03`` is ``SAM, ρ = 0.03``."""
    if label in NAMES:
        return name(label)
    whole, bracket, at = label.partition(" (")
    if bracket and "=" in at:  # a setting at which methods are compared apart
        return f"{method(whole)} ({spoken(at)}"
    head, _, settings = label.partition(" ")
    if head in NAMES and "=" in settings:
        return f"{NAMES[head]}, {', '.join(map(spoken, settings.split()))}"
    return spoken(label)


def apart(settings: Sequence[str]) -> list[str]:
    """Settings at which something is compared, without what all of them share.

    Args:
        settings: As stored, for example ``data_arg=n=600 overlap=0.3``.

    Returns:
        What differs, for example ``overlap=0.3``; a setting that stands alone, or has nothing of its own, is whole.
    """
    parts = [re.sub(r"\b\w+=(?=\w+=)", "", s).replace(", ", " ").split() for s in settings]
    shared = set.intersection(*map(set, parts)) if len({*map(tuple, parts)}) > 1 else set()
    return [", ".join(w for w in words if w not in shared) or s for words, s in zip(parts, settings, strict=True)]


def methods(labels: Sequence[str]) -> list[str]:
    """As `method`, for labels that stand in one figure: what all their settings share is left out."""
    settings = [label.partition(" (")[2].removesuffix(")") for label in labels]
    if not all("=" in s for s in settings):
        return [method(label) for label in labels]
    short = apart(settings)
    return [method(f"{label.partition(' (')[0]} ({s})") for label, s in zip(labels, short, strict=True)]


def measure(text: str) -> str:
    """A measure with its settings: ``m-sharpness m=1 rho=0.1`` is ``m-sharpness, m = 1, ρ = 0.1``."""
    if text == "lambda_1/edge":
        return "λ₁ / edge of stability"
    head, _, rest = text.partition(" ")
    head = _MEASURES.get(head, spoken(head))
    if "=" not in rest:
        return " ".join(part for part in (head, spoken(rest)) if part)
    joined, bracket, after = rest.lstrip("(").replace(" = ", "=").replace(",", "").partition(")")
    told = [head, *map(spoken, joined.split())]
    return ", ".join(told) + (spoken(after) if bracket else "")


def quantity(text: str) -> str:
    """A quantity of a comparison or a hyper-parameter."""
    bare = _SIGNS.get(text)
    if bare is not None:
        return bare
    if text == "lambda_1/edge":
        return "λ₁ / edge of stability"
    return spoken(re.sub(r"(?<!lambda)_", " ", text))


def domain(name: str) -> str:
    """A domain as words: ``art_painting`` is ``art painting``."""
    return re.sub(r"(?<=[^\W_])_(?=[^\W_])", " ", name)

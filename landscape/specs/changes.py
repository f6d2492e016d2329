"""How changes of the training examples are written: shares, ratios, kinds of noise."""

from __future__ import annotations

from ..base.errors import UsageError


def share(text: str, flag_name: str, kinds: tuple[str, ...]) -> tuple[str, float]:
    """Read ``SHARE`` or ``KIND:SHARE`` with a share in [0, 1]; the first kind is the default.

    Raises:
        UsageError: If it is something else.
    """
    kind, colon, number = text.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1 or (colon and kind not in kinds):
        forms = " or ".join(["0.3", *(f"{k}:0.3" for k in kinds[1:])])
        raise UsageError(f"{text!r} is no share", flag_name, f"write {forms}")
    return kind or kinds[0], value


def ratio(text: str) -> tuple[float, ...]:
    """Read ``8:1:1``.

    Raises:
        UsageError: If it is something else, or a part is not positive.
    """
    try:
        parts = tuple(float(t) for t in text.split(":"))
    except ValueError:
        parts = ()
    if not parts or not all(0 < p < float("inf") for p in parts):
        raise UsageError(f"{text!r} is no ratio", "`domain_ratio=`", "write positive numbers like 8:1:1")
    return parts


def check_changes(label_noise: str | None, domain_ratio: str | None, domain_label_noise: tuple[str, ...]) -> None:
    """Refuse what `landscape.data.changes` could not read."""
    if label_noise is not None:
        share(label_noise, "`label_noise=`", ("symmetric", "pair"))
    if domain_ratio is not None:
        ratio(domain_ratio)
    kinds = [share(text, "`domain_label_noise=`", ("wrong", "missing"))[0] for text in domain_label_noise]
    if len(set(kinds)) < len(kinds):
        raise UsageError("the same kind is given twice", "`domain_label_noise=`", "give each kind once")

"""Text that came from users, made harmless for a figure."""

from __future__ import annotations

from functools import lru_cache


def safe(text: object, limit: int = 32) -> str:
    r"""Make any text drawable by matplotlib as itself.

    Matplotlib reads ``$...$`` as markup, hides legend entries that start with an underscore, and leaves boxes
    for letters that its fonts lack. Here dollars are escaped, an underscore in front gets a space before it,
    and letters outside the bundled DejaVu font are written as ``\uXXXX``.

    Args:
        text: What to show.
        limit: At most so many letters; the rest becomes an ellipsis.
    """
    drawable = _letters()
    words = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    pieces = [c if ord(c) in drawable else c.encode("unicode_escape").decode("ascii") for c in words]
    if sum(map(len, pieces)) > limit:
        while pieces and sum(map(len, pieces)) > limit - 1:
            pieces.pop()
        pieces.append("…")
    shown = "".join(pieces).replace("$", r"\$") or "(no name)"
    return f" {shown}" if shown.startswith("_") else shown


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    every = get_font(findfont("DejaVu Sans")).get_charmap()
    return frozenset(code for code in every if code <= 0xFFFF)

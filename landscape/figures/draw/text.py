"""Text of figures: what users gave made harmless, measured, and broken into lines."""

from __future__ import annotations

from functools import lru_cache

_HINTED = 1.02  # letters that are fitted to pixels take a little more room than their outlines
LONG_WORD = 18  # letters of a word; longer ones may be broken


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


def text_inches(words: str, points: float, family: tuple[str, ...] = ()) -> float:
    """How many inches wide a line of text is, in the letters of the style that is applied or of a ``family``."""
    return _measured(words, points, family or letters())


def letters() -> tuple[str, ...]:
    """The fonts of the style that is applied."""
    import matplotlib

    return tuple(matplotlib.rcParams["font.family"])


@lru_cache(maxsize=4096)
def _measured(words: str, points: float, family: tuple[str, ...]) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    shown = words.replace(r"\$", "$")  # no figure of ours has markup
    font = FontProperties(family=family, size=points)
    width, _, _ = text_to_path.get_text_width_height_descent(shown, font, ismath=False)
    return _HINTED * float(width) / 72


def wrapped(words: str, inches: float, points: float) -> str:
    """A line of text broken between words, so that no line is longer than ``inches`` where words allow it."""
    lines: list[str] = []
    units: list[str] = []
    for word in _short_words(words, inches, points):  # what stands beside an equals sign stays there
        if units and (word == "=" or units[-1].endswith(" =")):
            units[-1] += f" {word}"
        else:
            units.append(word)
    for word in units:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_inches(longer, points) > inches:
            lines.append(word)
        elif lines:
            lines[-1] = longer
        else:
            lines = [word]
    return "\n".join(lines)


def _short_words(words: str, inches: float, points: float) -> list[str]:
    """The words of a line; those that are long and no words of a language in pieces that fit."""
    found: list[str] = []
    for word in words.split(" "):
        if len(word) > LONG_WORD and text_inches(word, points) > inches:
            each = max(6, int(len(word) * inches / text_inches(word, points)))
            found += [word[i : i + each] for i in range(0, len(word), each)]
        else:
            found.append(word)
    return found

"""Names of columns as they can be drawn: no formulas, and in a font that has their letters."""

from collections.abc import Sequence
from functools import cache
from typing import Any

LONGEST = 18  # letters that leave room for the others
BOXES = "Last Resort"  # a font that has a box for every letter
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def drawable(names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Names cut to a length that leaves room for them, and how matplotlib is to draw them.

    A name with letters that no font here has is that of its place, "column 3". The settings are for
    any text: ``$$`` is a price, and no formula.
    """
    families, lacking = _fonts("".join(sorted({letter for name in names for letter in name})))
    shown = [
        f"column {place}" if lacking & set(name) else name
        for place, name in enumerate(names, start=1)
    ]
    cut = [name if len(name) <= LONGEST else name[: LONGEST - 1] + ELLIPSIS for name in shown]
    return cut, {"parse_math": False, "fontfamily": list(families)}


@cache
def _fonts(letters: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of fonts that have the letters together, and those that none has."""
    from matplotlib import font_manager, rcParams

    usual = font_manager.FontProperties()
    families = list(rcParams["font.family"])
    lacking = _lacking(letters + ELLIPSIS, font_manager.findfont(usual))
    entries = [e for e in font_manager.fontManager.ttflist if not e.name.startswith(BOXES)]
    for entry in sorted(
        entries if lacking else [], key=lambda e: (e.style != "normal", str(e.weight) != "400")
    ):
        if entry.name not in families and len(left := _lacking(lacking, entry.fname)) < len(
            lacking
        ):
            families.append(entry.name)
            lacking = left
        if not lacking:
            break
    return tuple(families), frozenset(lacking)


def _lacking(letters: str, font: str) -> str:
    """The letters that a file with a font lacks."""
    from matplotlib.ft2font import FT2Font

    try:
        known = FT2Font(font).get_charmap()
    except (OSError, RuntimeError):
        return letters
    return "".join(letter for letter in letters if ord(letter) not in known)

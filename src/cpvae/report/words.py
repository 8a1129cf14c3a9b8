"""What sets a component apart, in words and figures for people."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cpvae.evaluation.profiles import Contrast, LevelShare, Profile

MOST_TOLD = 6  # columns of a component
MOST_CELLS = 8  # of a row
LEVELS_TOLD = 2  # of a column
SEEN = 0.05  # difference of two shares that is worth a word
TWO = ({"0", "1"}, {"false", "true"})


def figure(value: Any) -> str:
    """A number as a person writes it: three digits, or all of a whole one; dates by day if so."""
    if value is None:
        return "none"
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        value = float(value)
        if not np.isfinite(value):
            return "none"
        if 1000 <= abs(value) < 1e15:
            return f"{value:,.0f}"
        return f"{value:.3g}"
    return str(value).removesuffix(" 00:00:00").removesuffix("T00:00:00")


def percent(share: float) -> str:
    """A share in per cent; what is there is never 0 %, and what is not all never 100 %."""
    if 0 < share < 0.01:
        return "under 1 %" if share < 0.005 else "1 %"
    if 0.99 < share < 1:
        return "over 99 %" if share >= 0.995 else "99 %"
    return f"{100 * share:.0f} %"


def contrast_in_words(contrast: Contrast) -> str:
    """One column: its value in the component beside that of all rows."""
    told = []
    if contrast.levels:
        told += [level_in_words(level) for level in _worth_telling(contrast.levels)]
    elif contrast.value is not None:
        mine, of_all = figure(contrast.value), figure(contrast.value_of_all)
        told.append(f"{mine} (median of all {of_all})")
        if mine == of_all:
            inside = f"{figure(contrast.low)} to {figure(contrast.high)}"
            of_all = f"{figure(contrast.low_of_all)} to {figure(contrast.high_of_all)}"
            told = [f"mostly {inside} (of all {of_all})"]
    if abs(contrast.empty - contrast.empty_of_all) >= SEEN or not told:
        told.append(f"empty {percent(contrast.empty)} (of all {percent(contrast.empty_of_all)})")
    return f"{contrast.column} {', '.join(told)}"


def level_in_words(level: LevelShare) -> str:
    """A level and its share, with its lift where it is there more often than usual."""
    times = f", {level.lift:.1f} times" if level.lift and level.lift >= 1.5 else ""
    return f"{level.level} {percent(level.share)} (of all {percent(level.share_of_all)}{times})"


def profile_in_words(
    profile: Profile, most: int = MOST_TOLD, always: Collection[str] = ()
) -> list[str]:
    """A line for each of the most telling columns, and of those that are ``always`` told of."""
    if not profile.n_rows:
        return ["no row belongs to it"]
    telling = profile.telling[:most]
    asked = [c for c in profile.columns if c.column in always and c not in telling]
    told = [contrast_in_words(contrast) for contrast in (*telling, *asked)]
    return told or ["nothing sets it apart from the other rows"]


def size_in_words(profile: Profile, of: int) -> str:
    """The share of a component, and its rows."""
    return f"{percent(profile.share)}, {profile.n_rows:,} of {of:,} rows"


def sure_in_words(profile: Profile) -> str:
    """How many of its rows are in a component for certain."""
    if profile.sure is None:
        return ""
    return f"{percent(profile.sure)} of them with a probability of 0.9 or more"


def row_in_words(profile: Profile, table: Mapping[str, Any], row: int) -> str:
    """A row as ``column=value`` texts, the columns that set the component apart most first.

    Arguments:
        profile: of the component
        table: columns by name
        row: its number
    """
    order = [contrast.column.removeprefix("column ") for contrast in profile.columns]
    names = [name for name in order if name in table][:MOST_CELLS] or list(table)[:MOST_CELLS]
    cells = [f"{name}={figure(table[name][row])}" for name in names]
    return ", ".join(cells) + ", ..." * (len(table) > len(cells))


def _worth_telling(levels: Sequence[LevelShare]) -> list[LevelShare]:
    """The levels that are told of a column, which come with the most different ones first."""
    if {level.level for level in levels} in TWO:  # yes says it all
        return [level for level in levels if level.level in ("1", "true")]
    if len(levels) == 2:
        return [max(levels, key=lambda level: level.share - level.share_of_all)]
    apart = [level for level in levels if abs(level.share - level.share_of_all) >= SEEN]
    return apart[:LEVELS_TOLD] or list(levels[:1])

"""Columns of text: read as the numbers of their categories, and written as text again."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

Levels = dict[str, list[str]]  # categories of each column of text, by its name
MOST = 100  # categories of a column
BOOLEAN = ["false", "true"]  # categories of a column of booleans: a zero and a one
GONE = ("", "NA", "N/A", "NaN", "nan", "null", "?")  # texts that mean a missing value


def encode(
    text: Sequence[str | None], name: str, known: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """The number of each text's category (n), NaN for a missing one, and the categories.

    Arguments:
        text: a column
        name: of the column, for errors
        known: categories that a model was fitted to; by default those that occur, sorted

    Raises:
        ValueError: too many categories to learn from, or one that is not ``known``.
    """
    there = [None if t is None or t.strip() in GONE else t.strip() for t in text]
    found = sorted({t for t in there if t is not None})
    levels = list(known) if known is not None else found
    if known is None and found and all(re.fullmatch(r"-?[\d.]*,\d+", t) for t in found):
        raise ValueError(
            f"{name} is text such as {found[0]!r}: write numbers with a decimal point, not a comma."
        )
    if known is None and len(found) > min(MOST, max(2, len(text) // 2)):
        raise ValueError(
            f"{name} is text with {len(found)} different values in {len(text)} rows, too many for "
            f"categories: leave it out (--drop), or name it as the label (--label) if it is one."
        )
    new = sorted(set(found) - set(levels))
    if new:
        raise ValueError(
            f"{name} has {new[0]!r}, which the model has not seen: it knows {', '.join(levels)}. "
            f"Leave the cell empty to have it treated as missing."
        )
    number = {level: i for i, level in enumerate(levels)} | {None: np.nan}
    return np.array([number[t] for t in there], dtype=np.float64), levels


def decode(
    x: np.ndarray,
    columns: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    kinds: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Columns of a table (n, f) by name, the categories as text again, None where missing.

    Counts and zeros and ones are integers, but for columns with missing values or with means, and
    "false" and "true" are booleans.
    """
    table = {}
    for name, kind, column in zip(columns, kinds or [""] * len(columns), x.T, strict=True):
        if name in levels:
            boolean = levels[name] == BOOLEAN
            names = [False, True] if boolean else levels[name]
            index = np.rint(np.where(np.isnan(column), -1, column)).astype(int)
            column = np.array([*names, None], dtype=object)[index]
            if boolean and (index >= 0).all():
                column = column.astype(bool)
        elif kind in ("binary", "count") and np.array_equal(column, np.rint(column)):
            column = column.astype(np.int64)
        table[name] = column
    return table


def indicators(
    x: np.ndarray, columns: Sequence[str], levels: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, list[str]]:
    """A table (n, f) with a column of zeros and ones in place of each category, and all names."""
    shown, names = [], []
    for name, column in zip(columns, x.T, strict=True):
        if name not in levels or levels[name] == BOOLEAN:
            shown.append(column)
            names.append(name)
            continue
        for i, level in enumerate(levels[name]):
            shown.append(np.where(np.isnan(column), np.nan, column == i))
            names.append(f"{name}={level}")
    return np.column_stack(shown), names

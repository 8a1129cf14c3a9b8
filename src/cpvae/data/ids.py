"""Columns that are told apart from features: ids, and text that hardly repeats."""

import re
from typing import Any

import numpy as np

DIFFERS = "differs in every row and is taken for an id"
NAMED = "is an id"
HARDLY_REPEATS = "is text that hardly repeats"
FEWEST_ROWS = 20  # from which on whole numbers may be ids
NAME = re.compile(r"(?i:(?:^|[_\W])(?:id|uuid|guid))$|[a-z](?:Id|ID)$")


def are_ids(numbers: np.ndarray, name: str) -> bool:
    """Whether whole numbers (n) are ids: consecutive ones, in any order, or by their name."""
    n = len(numbers)
    if n < FEWEST_ROWS or not np.isfinite(numbers).all() or len(np.unique(numbers)) < n:
        return False
    return bool(numbers.max() - numbers.min() == n - 1 or NAME.search(name))


def in_words(left_out: dict[str, str]) -> list[str]:
    """What is to be told of columns that are left out, each a sentence."""
    return [
        f"column {name!r} {why}: it is not fitted"
        + ("" if why == NAMED else " (--kind COLUMN=KIND, or kinds in Python, has it fitted)")
        for name, why in left_out.items()
    ]


def texts_of(column: Any) -> tuple[str, ...]:
    """A column of pyarrow as text, "" where a cell is missing."""
    return tuple("" if cell is None else str(cell) for cell in column.to_pylist())

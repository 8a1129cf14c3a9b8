"""Columns that are told apart from features: ids, and text that hardly repeats."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpvae.data.columns import Form

DIFFERS = "differs in every row and is taken for an id"
NAMED = "is an id"
HARDLY_REPEATS = "is text that hardly repeats"
LONG = 5  # digits of a code
FEWEST_ROWS = 20  # from which on whole numbers may be ids
NAME = re.compile(r"(?i:(?:^|[_\W])(?:id|uuid|guid))$|[a-z](?:Id|ID)$")


def are_ids(numbers: np.ndarray, name: str) -> bool:
    """Whether whole numbers (n) are ids: consecutive ones, in any order, or by their name."""
    n = len(numbers)
    if n < FEWEST_ROWS or not np.isfinite(numbers).all() or len(np.unique(numbers)) < n:
        return False
    return bool(numbers.max() - numbers.min() == n - 1 or NAME.search(name))


def are_codes(texts: Sequence[str], name: str) -> bool:
    """Whether texts that are numbers name rows: of one length, or whole and ids as numbers."""
    if not all(map(str.isdigit, texts)):
        return False
    alike = len({len(text) for text in texts}) == 1 and len(texts[0]) >= LONG
    return alike or are_ids(np.array([int(text) for text in texts]), name)


def in_words(left_out: dict[str, str]) -> list[str]:
    """What is to be told of columns that are left out, each a sentence."""
    return [
        f"column {name!r} {why}: it is not fitted"
        + ("" if why == NAMED else " (--kind COLUMN=KIND, or kinds in Python, has it fitted)")
        for name, why in left_out.items()
    ]


def notes_of(left_out: dict[str, str], names: Sequence[str], forms: Sequence[Form]) -> list[str]:
    """What is to be told of how the columns of a table are read, each a sentence."""
    pools = zip(names, forms, strict=bool(forms))
    return in_words(left_out) + [
        f"column {name}: {len(form.pool)} levels of few rows are taken as one, and drawn in their "
        f"proportions"
        for name, form in pools
        if form.pool
    ]


def texts_of(column: Any) -> tuple[str, ...]:
    """A column of pyarrow as text, "" where a cell is missing."""
    return tuple("" if cell is None else str(cell) for cell in column.to_pylist())

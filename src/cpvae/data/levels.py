"""Levels of a column of text: all that occur, or the frequent ones and one for the others.

Where a column has more than a hundred levels, those with few rows are pooled into one. A model
learns how often that one occurs, and where it is drawn, a text is drawn from the pooled ones in
their proportions.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MANY_LEVELS = 100  # up to which all are kept
FEWEST_ROWS = 5  # of a level that is kept beside more than so many others
FEWEST_SHARE = 1e-3  # of the rows, likewise

Pool = tuple[tuple[str, int], ...]  # texts that are pooled, with their numbers of rows


class Pooled(NamedTuple):
    """Levels in their order, the pooled ones last as one of them, and which texts these are."""

    levels: list[str]
    pool: Pool


def pooled(levels: Sequence[str], rows: Sequence[int]) -> Pooled:
    """Levels with those pooled that have few ``rows``, if there are many levels."""
    n = sum(rows)
    few = max(FEWEST_ROWS, FEWEST_SHARE * n)
    pool = tuple((level, of) for level, of in zip(levels, rows, strict=True) if of < few)
    if len(levels) <= min(MANY_LEVELS, max(2, n // 2)) or len(pool) < 2:
        return Pooled(list(levels), ())
    kept = [level for level, of in zip(levels, rows, strict=True) if of >= few]
    name = f"{len(pool)} rare levels"
    while name in kept:
        name += "_"
    return Pooled([*kept, name], pool)


def drawn(pool: Pool, numbers: np.ndarray, is_pool: np.ndarray) -> list[str]:
    """A text for each row whose level is the pool, in their proportions.

    The same rows always give the same texts.

    Arguments:
        pool: texts and their numbers of rows
        numbers: of the levels of all rows, (n)
        is_pool: which rows have the pool, (n) bools
    """
    seed = zlib.crc32(numbers.astype(np.float32).tobytes())
    rows = np.array([of for _, of in pool])
    chosen = np.random.default_rng(seed).choice(len(pool), is_pool.sum(), p=rows / rows.sum())
    return [pool[i][0] for i in chosen]

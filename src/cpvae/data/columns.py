"""How the values of a column were written, so that those that a model draws are written alike.

A model computes in single precision. What it draws for an age is 43.87, and the table had 43: so a
`Form` remembers of a column of numbers how many decimals they had, of categories what their texts
stand for, and of a column of a frame its dtype.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cpvae.data.dates import Times
from cpvae.data.levels import Pool, drawn

BOOLEAN = ["false", "true"]  # levels of a column of booleans
MOST_DECIMALS = 6  # of a column whose numbers are rounded to what they had
LARGEST_INTEGER = 2.0**62
A_LOOK = 200  # values that rule out most columns at a glance


@dataclasses.dataclass(frozen=True)
class Form:
    """How the values of a column were written.

    Arguments:
        decimals: of its numbers at most, 0 where all are whole; None where they have more than
            `MOST_DECIMALS`, or are no numbers
        low: the least number, where all are whole
        high: the greatest number, where all are whole
        levels: what the texts of categories stand for: ``text``, ``int`` or ``float``
        dtype: of the column of a frame, by its name in the frame's package; "" elsewhere
        categories: all that a categorical dtype has, as text, also those that do not occur
        of_categories: the dtype of the categories
        ordered: whether the categories have an order
        times: how its dates or times are read; None of all else. Its numbers are then the whole
            units of them
        pool: texts that the last of the levels stands for, with their numbers of rows
    """

    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    levels: str = "text"
    dtype: str = ""
    categories: tuple[str, ...] = ()
    of_categories: str = ""
    ordered: bool = False
    times: Times | None = None
    pool: Pool = ()

    @classmethod
    def of_numbers(cls, values: np.ndarray, digits: int = 15) -> "Form":
        """The form of a column of numbers (n), where NaN is a missing one.

        Arguments:
            values: of the column
            digits: that the numbers are precise to; 6 of single precision
        """
        values = np.asarray(values, dtype=np.float64)
        values = values[np.isfinite(values)]
        decimals = decimals_of(values, digits)
        if decimals != 0:
            return cls(decimals)
        return cls(0, float(values.min()), float(values.max()))

    def as_json(self) -> dict[str, Any]:
        """Plain values, of what is not as it mostly is."""
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        usual = dataclasses.asdict(Form())
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in told.items()
            if value != usual[key]
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Form":
        """The form of what `as_json` gave."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        times = Times(*plain["times"]) if plain.get("times") else None
        pool = tuple((text, int(rows)) for text, rows in plain.get("pool", ()))
        return cls(**{**plain, "times": times, "pool": pool})

    def rounded(self, drawn: np.ndarray, bounded: bool = True) -> np.ndarray:
        """Numbers (n) as the column writes them: integers where all were whole.

        Arguments:
            drawn: numbers of a model, NaN where one is missing
            bounded: whether whole numbers stay between the least and the greatest of the column, so
                that a code of 1 or 2 does not become 3
        """
        if self.decimals is None:
            return drawn
        values = np.round(np.asarray(drawn, dtype=np.float64), self.decimals) + 0.0  # no -0.0
        if self.decimals:
            return values
        if bounded and self.low is not None:
            values = np.clip(values, self.low, self.high)
        fits = np.isfinite(values).all() and (np.abs(values) < LARGEST_INTEGER).all()
        return values.astype(np.int64) if fits else values

    def as_times(self, drawn: np.ndarray) -> np.ndarray:
        """Numbers (n) of a model as dates or times, none beyond those of the column."""
        assert self.times is not None
        return self.times.values(np.clip(np.asarray(drawn, np.float64), self.low, self.high))

    def value_of(self, level: str) -> Any:
        """What the text of a category stands for."""
        return READ_AS[self.levels](level)


READ_AS: dict[str, Callable[[str], Any]] = {"text": str, "int": int, "float": float}


def decimals_of(values: np.ndarray, digits: int = 15) -> int | None:
    """The fewest decimals that write all values (n), or None where that is more than a few.

    Arguments:
        values: finite numbers in double precision
        digits: that they are precise to
    """
    if not len(values):
        return None
    for decimals in range(MOST_DECIMALS + 1):
        if _have(values[:A_LOOK], decimals, digits) and _have(values, decimals, digits):
            return decimals
    return None


def _have(values: np.ndarray, decimals: int, digits: int) -> bool:
    """Whether no value has more decimals; what the last digits hide does not count as so many."""
    if decimals and np.abs(values).max() * 10.0**decimals >= 10.0 ** (digits - 1):
        return False
    off = np.abs(np.round(values, decimals) - values)
    return bool((off <= (10.0**-digits) * np.abs(values) * (decimals > 0)).all())


def texts_as_values(
    numbers: np.ndarray, levels: Sequence[str], form: Form | None = None
) -> np.ndarray:
    """The categories of their numbers (n), NaN for a missing one, as an array of objects.

    Those of `BOOLEAN` are booleans, and a missing one is None.
    """
    known = form or Form()
    labels: list[Any] = [False, True] if levels == BOOLEAN else [*levels]
    if levels != BOOLEAN:
        kept = len(levels) - bool(known.pool)
        labels[:kept] = [known.value_of(level) for level in levels[:kept]]
    table = np.empty(len(labels) + 1, dtype=object)
    table[: len(labels)] = labels
    index = np.rint(np.where(np.isnan(numbers), -1, numbers)).astype(int)
    found = table[index]  # -1 is the last, None
    if known.pool:
        is_pool = index == len(labels) - 1
        found[is_pool] = [known.value_of(text) for text in drawn(known.pool, numbers, is_pool)]
    if (index >= 0).all() and levels == BOOLEAN:
        return found.astype(bool)
    if (index >= 0).all() and known.levels != "text":
        return found.astype(known.levels)
    return found

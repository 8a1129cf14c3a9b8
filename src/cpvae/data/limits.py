"""What a column of numbers looks like: how it is rounded, and which values it cannot have."""

import numpy as np
from jaxtyping import Float

MOST_DECIMALS = 6
PILED_UP = 0.01  # share of the values that are the least, from which on it is taken for a limit
FEWEST_PILED_UP = 5  # values
FEW_VALUES = 20  # different whole numbers, up to which the least and the greatest are limits

Limits = tuple[float, float | None, float | None]  # see `limits`


def limits(column: Float[np.ndarray, " n"], has_ends: bool = False) -> Limits:
    """The width of the interval that a value stands for, and the limits of a column.

    A column is rounded where all its values have few decimals, and has the width 0 elsewhere. Zero
    is a limit of a column without negative numbers, zero and one of one with fractions between
    them, the least or the greatest value where many values are equal to it or where there are few
    different whole numbers. A limit lies half a width beyond the last value that may be.

    Arguments:
        column: values, NaN where one is missing
        has_ends: whether the least and the greatest value are limits, as of dates
    """
    values = column[~np.isnan(column)].astype(np.float64)
    if not len(values):
        return 0.0, None, None
    decimals = _decimals(values)
    width = 0.0 if decimals is None else 10.0**-decimals
    least, greatest = values.min(), values.max()
    few = has_ends or (decimals == 0 and len(np.unique(values)) <= FEW_VALUES)
    piled_up = max(PILED_UP * len(values), FEWEST_PILED_UP - 1)
    low, high = (
        float(end) if few or piled_up < np.sum(values == end) else None for end in (least, greatest)
    )
    if least >= 0 and low is None:
        low = 0.0
    if least >= 0 and greatest <= 1 and decimals != 0:
        low, high = 0.0, 1.0
    low = None if low is None else low - width / 2
    return width, low, None if high is None else high + width / 2


def _decimals(values: Float[np.ndarray, " n"]) -> int | None:
    """The decimals that all values have at most, as far as single precision can tell."""
    for decimals in range(MOST_DECIMALS + 1):
        times = values * 10.0**decimals
        doubt = np.abs(times) * np.finfo(np.float32).eps
        if doubt.max() > 0.1:
            return None if decimals else 0 if (times == np.rint(times)).all() else None
        if (np.abs(times - np.rint(times)) <= doubt).all():
            return decimals
    return None

"""What data must be like to be learned from. Each refusal says what is wrong and what to do."""

from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-6  # by which a share may be off


def check(x: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Refuses examples (n, ...) that no model can be fitted to.

    Arguments:
        x: a table (n, f), where NaN is a missing value, or images (n, channels, height, width)
        names: of the columns of a table; their numbers by default

    Raises:
        ValueError: empty data, one row, infinite values, images with missing ones, a column or a
            row without any value, or nothing that varies.
    """
    if x.ndim not in (2, 4):
        raise ValueError(
            f"Data of shape {x.shape} is neither a table (rows, columns) nor images "
            f"(n, channels, height, width): reshape it."
        )
    if x.size == 0:
        raise ValueError(f"The data is empty: its shape is {x.shape}.")
    check_finite(x, names, missing=x.ndim == 2)
    if len(x) < 2:
        raise ValueError("The data has one row: a mixture needs many, bring some hundreds.")
    if x.ndim == 2:
        empty = np.flatnonzero(np.isnan(x).all(axis=0))
        if len(empty):
            raise ValueError(f"Column {listed(empty, names)} has no values: drop it.")
        if np.isnan(x).all(axis=1).any():
            bare = np.flatnonzero(np.isnan(x).all(axis=1))
            raise ValueError(f"{len(bare)} rows have no values, row {bare[0]} first: drop them.")
    if (x == x[0]).all():
        raise ValueError("The data is constant: all rows are equal, so there is nothing to learn.")


def check_finite(x: np.ndarray, names: Sequence[str] | None = None, missing: bool = False) -> None:
    """Refuses infinite values, and NaN unless values may be ``missing``.

    Raises:
        ValueError: names the columns of a table, and the count.
    """
    bad, what = (np.isinf(x), "infinite") if missing else (~np.isfinite(x), "NaN or infinite")
    if bad.any():
        columns = np.flatnonzero(bad.any(axis=0)) if x.ndim == 2 else ()
        where = f"in column {listed(columns, names)}" if x.ndim == 2 else ""
        raise ValueError(
            f"The data has {int(bad.sum())} {what} values {where}".rstrip()
            + ": fill them in or drop those rows."
        )


def check_shares(x: np.ndarray, were_bytes: bool = False) -> None:
    """Refuses examples (n, ...) with values outside [0, 1].

    Arguments:
        x: examples for a model with a Bernoulli likelihood
        were_bytes: whether the examples that it was fitted to were bytes, divided by 255

    Raises:
        ValueError: names the range.
    """
    low, high = float(x.min()), float(x.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = " Its pixels were bytes (uint8): give the same type, or divide by 255." * were_bytes
        raise ValueError(
            f"The data goes from {low:g} to {high:g}, and the model was fitted to data in [0, 1], "
            f"under a Bernoulli likelihood: rescale it in the same way.{hint}"
        )


def single(array: np.ndarray, name: str) -> np.ndarray:
    """An array (n, ...) in single precision, in which the networks compute.

    Arguments:
        array: numbers
        name: of the array or column, for errors

    Raises:
        ValueError: values too large for it, or that it cannot tell apart.
    """
    with np.errstate(over="ignore"):
        x = array.astype(np.float32)
    if (np.isinf(x) & np.isfinite(array)).any():
        raise ValueError(f"{name} has values beyond 3e38, too large for single precision: rescale.")
    if len(x) > 1 and (x == x[0]).all() and (array != array[0]).any():
        raise ValueError(
            f"{name} varies too little around a large value for single precision: subtract it, "
            f"or leave it out."
        )
    return x


def listed(index: Sequence[int] | np.ndarray, names: Sequence[str] | None) -> str:
    """Names of columns for an error text: the first eight, and how many more there are."""
    found = [names[i] if names else str(i) for i in index]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def check_varies(x: np.ndarray, names: Sequence[str]) -> None:
    """Refuses constant columns of a table (n, f), which have no scale to be standardised by."""
    constant = np.flatnonzero(np.nanmin(x, axis=0) == np.nanmax(x, axis=0))
    if len(constant):
        looks_like_pixels = len(constant) > 1 and bool((x >= 0).all() and (x == np.rint(x)).all())
        hint = " (If these are pixels, divide by their maximum: in [0, 1] they may be constant.)"
        raise ValueError(
            f"Column {listed(constant, names)} is constant and carries no information: drop it."
            + (hint if looks_like_pixels else "")
        )

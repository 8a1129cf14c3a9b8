"""What data must be like to be learned from. Each refusal says what is wrong and what to do."""

from collections.abc import Sequence

import numpy as np


def column_names(columns: Sequence[str] | None, n: int) -> list[str]:
    """Names of the n columns of a table: their numbers, where they have none."""
    return list(columns or map(str, range(n)))


def check(x: np.ndarray, columns: Sequence[str] | None = None) -> None:
    """Refuses examples (n, ...) that no model can be fitted to.

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
    check_finite(x, columns, missing=x.ndim == 2)
    if len(x) < 2:
        raise ValueError("The data has one row: a mixture needs many, bring some hundreds.")
    if x.ndim == 2:
        empty = np.flatnonzero(np.isnan(x).all(axis=0))
        if len(empty):
            raise ValueError(f"Column {_named(empty, columns, x)} has no values: drop it.")
        if np.isnan(x).all(axis=1).any():
            bare = np.flatnonzero(np.isnan(x).all(axis=1))
            raise ValueError(f"{len(bare)} rows have no values, row {bare[0]} first: drop them.")
    if (x == x[0]).all():
        raise ValueError("The data is constant: all rows are equal, so there is nothing to learn.")


def check_finite(
    x: np.ndarray, columns: Sequence[str] | None = None, missing: bool = False
) -> None:
    """Refuses infinite values, and NaN unless values may be ``missing``.

    Raises:
        ValueError: names the columns of a table, and the count.
    """
    bad, what = (np.isinf(x), "infinite") if missing else (~np.isfinite(x), "NaN or infinite")
    if bad.any():
        where = (
            f"in column {_named(np.flatnonzero(bad.any(axis=0)), columns, x)}"
            if x.ndim == 2
            else ""
        )
        raise ValueError(
            f"The data has {int(bad.sum())} {what} values {where}".rstrip()
            + ": fill them in or drop those rows."
        )


def check_varies(x: np.ndarray, columns: Sequence[str] | None = None) -> None:
    """Refuses constant columns of a table (n, f), which have no scale to be standardised by.

    Raises:
        ValueError: names the columns.
    """
    constant = np.flatnonzero(np.nanmin(x, axis=0) == np.nanmax(x, axis=0))
    if len(constant):
        pixels = len(constant) > 1 and bool((x >= 0).all() and (x == np.rint(x)).all())
        hint = " (If these are pixels, divide by their maximum: in [0, 1] they may be constant.)"
        raise ValueError(
            f"Column {_named(constant, columns, x)} is constant and tells nothing: drop it."
            + pixels * hint
        )


def check_kinds(x: np.ndarray, kinds: Sequence[str], columns: Sequence[str] | None = None) -> None:
    """Refuses a table (n, f) with values that the kind of their column cannot have.

    Raises:
        ValueError: names the column, its kind, and what that needs.
    """
    names = column_names(columns, x.shape[1])
    for name, kind, column in zip(names, kinds, x.T, strict=True):
        values = column[~np.isnan(column)]
        fits, needs = {
            "binary": (np.isin(values, (0, 1)), "zeros and ones"),
            "count": ((values == np.rint(values)) & (values >= 0), "whole numbers from 0 up"),
        }.get(kind, (np.array(True), ""))
        if not fits.all():
            raise ValueError(f"Column {name!r} cannot be {kind}, which needs {needs}.")


def check_like(
    x: np.ndarray,
    shape: Sequence[int],
    columns: Sequence[str] | None = None,
    missing: bool = False,
    kinds: Sequence[str] | None = None,
) -> None:
    """Refuses data (n, ...) that a fitted model for examples of ``shape`` cannot take.

    Raises:
        ValueError: another shape, empty, infinite values, NaN unless values may be ``missing``, or
            values that the ``kinds`` of the columns cannot have.
    """
    if tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(
            f"The data has examples of shape {tuple(x.shape[1:])}, and the model was fitted to "
            f"shape {tuple(shape)}: bring the same features in the same order."
        )
    if len(x) == 0:
        raise ValueError("The data is empty: it has no rows.")
    check_finite(x, columns, missing)
    if kinds:
        check_kinds(x, kinds, columns)


def _named(index: np.ndarray, columns: Sequence[str] | None, x: np.ndarray) -> str:
    names = [column_names(columns, x.shape[1])[i] for i in index]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

"""Kinds of columns: which values each may have, and which one is chosen for a column."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cpvae.choices import KINDS
from cpvae.data.columns import BOOLEAN, Form

Kinds = str | Mapping[Any, str]  # kinds of columns by name, or one kind for all of them
MOST_LOG_COUNT = 15.0  # the mean of a count is at most exp(15), three million
MOST_COUNT = float(np.exp(MOST_LOG_COUNT))


class Rule(NamedTuple):
    """What a kind of column means for its numbers.

    Arguments:
        fits: which of the values (n) are allowed, a mask
        needs: the same in words, for errors
        transform: of values before they are standardised; None where they are not standardised
        whole: whether values are whole numbers
    """

    fits: Callable[[np.ndarray], np.ndarray]
    needs: str
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    whole: bool = False


RULES = {
    "number": Rule(np.isfinite, "finite numbers", np.asarray),
    "gaussian": Rule(np.isfinite, "finite numbers", np.asarray),
    "binary": Rule(lambda x: np.isin(x, (0, 1)), "zeros and ones", whole=True),
    "count": Rule(
        lambda x: (x == np.rint(x)) & (x >= 0), "whole numbers from 0 up", np.log1p, whole=True
    ),
    "categorical": Rule(np.isfinite, "text"),
}


def _default_kind(column: np.ndarray, is_time: bool, as_numbers: bool) -> str:
    """The kind that is chosen for the numbers of a column (n)."""
    if is_time:
        return "number" if as_numbers else "gaussian"
    values = column[~np.isnan(column)]
    if as_numbers:
        return "binary" if len(values) and RULES["binary"].fits(values).all() else "number"
    if not len(values) or values.min() != 0 or values.max() > MOST_COUNT:
        return "gaussian"
    return next(
        (kind for kind in ("binary", "count") if RULES[kind].fits(values).all()), "gaussian"
    )


def check_kinds(x: np.ndarray, kinds: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a table (n, f) with values that the kind of their column cannot have."""
    for name, kind, column in zip(names, kinds, x.T, strict=True):
        misfit = np.flatnonzero(~np.isnan(column) & ~RULES[kind].fits(column))
        if len(misfit):
            raise ValueError(
                f"Column {name!r} cannot be {kind}, which needs {RULES[kind].needs}, and it has "
                f"{column[misfit[0]]:g}: leave such cells empty, or choose another kind."
            )


def column_kinds(
    x: np.ndarray,
    names: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    forms: Sequence[Form] = (),
    given: Kinds | None = None,
    as_numbers: bool = False,
) -> list[str]:
    """The kind of each column of a table (n, f), see `KINDS`; ``given`` ones stay as they are.

    A column of text is ``categorical``, one of booleans or of zeros and ones ``binary``, one of
    whole numbers from 0 to at most three million a ``count``, and any other, dates among them,
    ``gaussian``; both of these are a ``number`` if they are to be read ``as_numbers``.

    Arguments:
        x: the table
        names: of its columns
        levels: categories of the columns of text, by name
        forms: of the columns, where they are known
        given: kinds by name, or one for all
        as_numbers: whether numbers are read as they are by the model ``residual``

    Raises:
        ValueError: a kind for a column that is not there, or one that does not fit its column.
    """
    given = given or {}
    if isinstance(given, str):
        given = dict.fromkeys(names, given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"kinds={given!r}: use a dict from names of columns to kinds, or one kind for all."
        )
    given = {str(name): kind for name, kind in given.items()}
    for name, kind in given.items():
        if name not in names:
            raise ValueError(f"There is no column {name!r}: there are {', '.join(names)}.")
        if kind not in KINDS:
            raise ValueError(
                f"kind {kind!r} of column {name!r} is unknown: choose from {', '.join(KINDS)}."
            )
    kinds = []
    for name, form, column in zip(names, forms or [Form()] * len(names), x.T, strict=True):
        text = name in levels
        if not text:
            allowed = [kind for kind in KINDS if kind != "categorical"]
            fitting = _default_kind(column, form.times is not None, as_numbers)
        else:  # booleans are text of two levels
            allowed = ["categorical"] if levels[name] != BOOLEAN else ["binary", "categorical"]
            fitting = allowed[0]
        kind = given.get(name, fitting)
        if kind not in allowed:
            was = "was read as text" if text else "was not read as text"
            raise ValueError(
                f"Column {name!r} cannot be {kind}: it {was}. Choose from {', '.join(allowed)}."
            )
        if kind == "count" and np.nanmax(column) > MOST_COUNT:
            raise ValueError(
                f"Column {name!r} cannot be count: it goes to {np.nanmax(column):g}, and the "
                f"mean of a count to {MOST_COUNT:g}. Choose gaussian, or divide it."
            )
        kinds.append(kind)
    check_kinds(x, kinds, names)
    return kinds

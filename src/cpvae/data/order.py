"""Columns that are never less than another one, as the end of a stay is not before its start.

The second column of such a pair is fitted as what lies between the two, a number that is not
negative, and is written as itself: so no row is drawn whose end is before its start. Rows of a
model (n, f) have the difference in its place, in units of the finer of two columns of dates, and
are called the model's here; in plain rows the column is what it was read as.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cpvae.data import cells
from cpvae.data.checks import single
from cpvae.data.columns import Form

Pairs = tuple[tuple[str, str], ...]


def pairs_of(less: Mapping[Any, Any] | Sequence[Sequence[Any]] | None) -> Pairs:
    """Pairs (start, end) of columns, each column after all that it is not less than.

    Raises:
        ValueError: a column that is the end of two pairs, or of itself.
    """
    given = less.items() if isinstance(less, Mapping) else less or ()
    waiting = [(str(start), str(end)) for start, end in given]
    ends = [end for _, end in waiting]
    if twice := [end for end in ends if ends.count(end) > 1]:
        raise ValueError(f"{twice[0]} is the end of two pairs: name one start for it.")
    found: list[tuple[str, str]] = []
    while waiting:
        unknown = {end for _, end in waiting}
        free = [pair for pair in waiting if pair[0] not in unknown]
        if not free:
            raise ValueError(f"{waiting[0][0]} cannot be less than itself: leave out one pair.")
        found += free
        waiting = [pair for pair in waiting if pair not in free]
    return tuple(found)


def declared(
    x: Float[np.ndarray, "n f"], table: Any, schema: Any, pairs: Pairs, called: str
) -> tuple[Float[np.ndarray, "n f"], Any]:
    """Rows of a model and their schema, of plain rows whose columns are to keep an order.

    Arguments:
        x: plain rows
        table: of pyarrow, that they were read from
        schema: of the plain rows
        pairs: see `pairs_of`
        called: name of the data, for errors

    Raises:
        ValueError: a column that is not fitted, or pairs that are not two numbers or two dates;
            and rows that break the order.
    """
    if not pairs:
        return x, schema
    forms = list(schema.forms)
    for pair in pairs:
        for name in pair:
            if name not in schema.names or name in schema.levels:
                raise ValueError(
                    f"{called} has no column of numbers or dates {name!r} that is fitted: an order "
                    f"is between two of them."
                )
        start, end = (schema.names.index(name) for name in pair)
        _check_alike(forms[start], forms[end], pair, called)
        if (high := forms[end].high) is not None:  # an end without a start may be the last one
            last = np.array([high if forms[start].high is None else forms[start].high])
            last = np.ceil(_plain(forms[start], forms[end], last, np.zeros(1)))
            forms[end] = dataclasses.replace(forms[end], high=max(high, float(last[0])))
    schema = dataclasses.replace(schema, less=pairs, forms=tuple(forms))
    return between(x, table, schema, called), schema


def between(
    x: Float[np.ndarray, "n f"], table: Any, schema: Any, called: str
) -> Float[np.ndarray, "n f"]:
    """Plain rows (n, f) of a table of pyarrow as rows of a model.

    Raises:
        ValueError: rows that break the order.
    """
    x = x.copy()
    for start, end in schema.less:
        values = [
            cells.numbers_in(table[name], name, schema.form_of(name)) for name in (start, end)
        ]
        apart = _apart(schema.form_of(start), schema.form_of(end), *values)
        if (bad := np.flatnonzero(apart < 0)).size:
            shown = [table[name][int(bad[0])].as_py() for name in (start, end)]
            raise ValueError(
                f"{called} has {len(bad)} row{'s' * (len(bad) > 1)} whose {end} is less than "
                f"{start}, row {bad[0] + 1} first ({start} {shown[0]}, {end} {shown[1]}): correct "
                f"them or leave a cell empty."
            )
        x[:, schema.names.index(end)] = single(apart, end)
    return x


def ends_of(
    x: Float[np.ndarray, "n f"], schema: Any, drawn: bool
) -> dict[str, Float[np.ndarray, " n"]]:
    """The plain numbers (n) of the columns that are an end, of rows of a model.

    Arguments:
        x: rows of a model
        schema: of the rows
        drawn: whether they are like the data, see `Schema.decode`: then ends are rounded as it is
            done there, and not before their starts after it
    """
    found: dict[str, Float[np.ndarray, " n"]] = {}
    for start, end in schema.less:
        of_start, of_end = schema.form_of(start), schema.form_of(end)
        first = found.get(start, x[:, schema.names.index(start)].astype(np.float64))
        apart = np.maximum(x[:, schema.names.index(end)].astype(np.float64), 0)
        if of_start.times:
            first = np.rint(np.clip(first, of_start.low, of_start.high))
        elif drawn:
            first = of_start.rounded(first, is_bounded(schema, start)).astype(np.float64)
        values = _plain(of_start, of_end, first, apart)
        if of_end.times or drawn:
            grid = 1.0 if of_end.times else 10.0 ** -(of_end.decimals or 0)
            values = np.rint(values) if of_end.times else of_end.rounded(values, bounded=False)
            values = values.astype(np.float64)
            values[_apart(of_start, of_end, first, values) < 0] += grid
            values = np.clip(values, of_end.low, of_end.high) if of_end.times else values
        found[end] = values
    return found


def as_read(
    schema: Any, *rows: Float[np.ndarray, "_ ..."], drawn: bool = False
) -> tuple[Any, list[np.ndarray]]:
    """Rows of a model as plain rows, to be looked at column by column, and their schema."""
    if not schema.less:
        return schema, list(rows)
    places = {end: schema.names.index(end) for _, end in schema.less}
    changed = []
    for x in rows:
        ends, x = ends_of(x, schema, drawn), x.astype(np.float64)
        for name, values in ends.items():
            x[:, places[name]] = values
        changed.append(x)
    of_ends = set(places.values())
    kinds = tuple("gaussian" if i in of_ends else k for i, k in enumerate(schema.kinds))
    limits = tuple(None if i in of_ends else each for i, each in enumerate(schema.limits))
    return dataclasses.replace(schema, less=(), kinds=kinds, limits=limits), changed


def kept(
    x: Float[np.ndarray, "n f"], made: Float[np.ndarray, "n f"], table: Any, schema: Any
) -> tuple[np.ndarray, Float[np.ndarray, "n f"]]:
    """Which cells of a table are missing (n, f), and what to fill them with, as a model's rows.

    An end whose start is missing stays, and the start that is filled in is not after it.

    Arguments:
        x: rows of a model, NaN where a cell is missing or no difference is known
        made: what to fill in
        table: of pyarrow, that they were read from
        schema: of the rows
    """
    missing = np.isnan(x)
    made = np.where(missing, made, x) if schema.less else made
    for start, end in reversed(schema.less):
        at, to = schema.names.index(start), schema.names.index(end)
        of_start, of_end = schema.form_of(start), schema.form_of(end)
        there = cells.numbers_in(table[end], end, of_end)
        alone = missing[:, to] & ~np.isnan(there)
        missing[alone, to] = False
        latest = _plain(of_end, of_start, there, np.zeros(len(x)))
        grid = 1.0 if of_start.times else 10.0 ** (of_start.decimals or 0)
        if of_start.times or of_start.decimals is not None:
            latest = np.floor(latest * grid) / grid
        made[alone, at] = np.minimum(made[alone, at], latest[alone])
    return missing, made


def is_bounded(schema: Any, name: str) -> bool:
    """Whether whole numbers of a column stay between the least and the greatest that it had."""
    kind = schema.kinds[schema.names.index(name)] if schema.kinds else ""
    return kind not in ("count", "number") and name not in {end for _, end in schema.less}


def number_forms(schema: Any) -> tuple[Form, ...]:
    """The forms of the columns; of one that is a difference, that of plain numbers."""
    ends = {end for _, end in schema.less}
    pairs = zip(schema.names, schema.forms, strict=bool(schema.forms))
    return tuple(Form() if name in ends else form for name, form in pairs)


# --- two columns ---------------------------------------------------------------------------------


def _check_alike(start: Form, end: Form, pair: tuple[str, str], called: str) -> None:
    """Refuses pairs whose difference means nothing."""
    of = [
        (form.times is not None) and (form.times.is_span, form.times.zone) for form in (start, end)
    ]
    if of[0] != of[1]:
        raise ValueError(
            f"{called}: {pair[0]} and {pair[1]} are not two columns of numbers, or two of dates or "
            f"times in one zone: an order is between such."
        )


def _apart(
    start: Form, end: Form, first: Float[np.ndarray, " n"], last: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """What lies between two columns (n): numbers, or units of the finer one of two dates."""
    if start.times and end.times:
        span = end.times.moments(last) - start.times.moments(first)
        ticks = span.astype(np.int64).astype(np.float64)
        return np.where(np.isnat(span), np.nan, ticks)
    decimals = _decimals(start, end)
    return last - first if decimals is None else np.round(last - first, decimals)


def _plain(
    start: Form, end: Form, first: Float[np.ndarray, " n"], apart: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The numbers of an end (n), of its start and what lies between them."""
    if not start.times or not end.times:
        return first + apart
    moments = start.times.moments(first)
    finer = np.promote_types(moments.dtype, end.times.moments(np.zeros(1)).dtype)
    unit = np.datetime_data(finer)[0]
    there = np.isfinite(apart)
    span = np.rint(np.where(there, apart, 0)).astype(np.int64).astype(f"m8[{unit}]")
    return np.where(there, end.times.numbers(moments.astype(finer) + span), np.nan)


def _decimals(start: Form, end: Form) -> int | None:
    of = [form.decimals for form in (start, end)]
    return None if None in of else max(each for each in of if each is not None)

"""Conditions that drawn rows are to meet: ``plan=pro``, ``age>=40``.

On the command line a condition is text. In Python it is a value, a pair (least, greatest) of which
either may be None, or a list of categories, by the name of the column.
"""

import math
import operator
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cpvae.data import cells
from cpvae.data.columns import BOOLEAN, Form
from cpvae.data.numerals import is_plain
from cpvae.data.schema import Schema

OPERATORS = (">=", "<=", "!=", "=", ">", "<")  # longer ones first, since they begin alike
MOST_NAMED = 20  # categories in an error
COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
ROUNDING = 1e-6  # of a step, that a number may be off a multiple of it


class Conditions(NamedTuple):
    """What is asked of the columns of a table, in the data's units.

    Arguments:
        cells: values that are given (f), NaN where none is
        low: least value of each column of numbers (f), minus infinity where none is asked for
        high: greatest value, infinity where none is
        half: half of the interval that a value stands for (f), 0 where it is exact
        levels: the categories that columns of text may have, by the number of the column
        words: the same for people
    """

    cells: Float[np.ndarray, " f"]
    low: Float[np.ndarray, " f"]
    high: Float[np.ndarray, " f"]
    half: Float[np.ndarray, " f"]
    levels: dict[int, list[int]]
    words: str

    @property
    def ranges(self) -> list[int]:
        """The numbers of the columns that are to lie between two values."""
        asked = np.isfinite(self.low) | np.isfinite(self.high)
        return np.flatnonzero(asked & np.isnan(self.cells)).tolist()


class Asked(NamedTuple):
    """One condition: a column, one of `OPERATORS` or ``in``, and a value or several."""

    column: str
    sign: str
    value: Any

    def __str__(self) -> str:
        return f"{self.column}{self.sign if self.sign != 'in' else ' in '}{self.value}"


def conditions(schema: Schema, asked: Iterable[str] | Mapping[Any, Any]) -> Conditions:
    """Conditions on the columns of a schema; all of them are to hold.

    Arguments:
        schema: of a fitted model
        asked: texts such as ``age>=40``, or values by column, see above

    Raises:
        ValueError: no such column, a value that it cannot have, or conditions that exclude one
            another.
    """
    if schema.is_image:
        raise ValueError("Conditions are on the columns of a table, and the data are images.")
    if isinstance(asked, Mapping):
        parts = [part for name, value in asked.items() for part in _of_value(str(name), value)]
    else:
        parts = [_of_text(text, schema.names) for text in asked]
    n = len(schema.names)
    found = Conditions(
        np.full(n, np.nan),
        np.full(n, -np.inf),
        np.full(n, np.inf),
        np.zeros(n),
        {},
        ", ".join(map(str, parts)),
    )
    for name in dict.fromkeys(part.column for part in parts):
        if name not in schema.names:
            raise ValueError(f"There is no column {name!r}: there are {', '.join(schema.names)}.")
        if start := {end: start for start, end in schema.less}.get(name):
            raise ValueError(
                f"{name} is drawn as what it is beyond {start}: ask for {start}, or for neither."
            )
        mine = [part for part in parts if part.column == name]
        _add(found, schema, schema.names.index(name), mine)
    return found


def _of_text(text: str, names: Iterable[str]) -> Asked:
    """One condition of its text; the name of a column may have operators in it."""
    for name in sorted(names, key=len, reverse=True):
        rest = text.removeprefix(name).lstrip() if text.startswith(name) else ""
        sign = next((sign for sign in OPERATORS if rest.startswith(sign)), None)
        if sign:
            return Asked(name, sign, rest.removeprefix(sign).removeprefix("=").strip())
    if found := re.match(r"(.+?)\s*(?:[<>]=?|!?=)", text):
        raise ValueError(f"There is no column {found[1]!r}: there are {', '.join(names)}.")
    raise ValueError(f"{text!r} is no condition: write one as in plan=pro, age>=40 or 'age<60'.")


def _of_value(name: str, value: Any) -> list[Asked]:
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(
                f"given[{name!r}]={value!r}: a range is a pair (least, greatest), as in (40, None)."
            )
        ends = zip((">=", "<="), value, strict=True)
        return [Asked(name, sign, end) for sign, end in ends if end is not None]
    if isinstance(value, list | set | frozenset | np.ndarray):
        return [Asked(name, "in", list(value))]
    return [Asked(name, "=", value)]


def _add(found: Conditions, schema: Schema, column: int, asked: list[Asked]) -> None:
    """Adds all that is asked of one column."""
    name = schema.names[column]
    kind = schema.kinds[column] if schema.kinds else ""
    if name in schema.levels:
        allowed = [
            number
            for number in range(len(schema.levels[name]))
            if all(_holds(schema, column, number, each) for each in asked)
        ]
        _add_levels(found, column, allowed, len(schema.levels[name]), asked)
        return
    low, high = _range(schema, column, asked)
    if kind == "binary":
        _add_levels(found, column, [each for each in (0, 1) if low <= each <= high], 2, asked)
    elif low == high:
        found.cells[column] = low
    else:
        least, greatest = _limits(schema, column)
        found.low[column] = low if low > least else -math.inf
        found.high[column] = high if high < greatest else math.inf
        found.half[column] = _half(schema, column)


def _add_levels(
    found: Conditions, column: int, allowed: list[int], of: int, asked: list[Asked]
) -> None:
    if not allowed:
        raise ValueError(f"No row has {', '.join(map(str, asked))}: ask for something else.")
    if len(allowed) == 1:
        found.cells[column] = allowed[0]
    elif len(allowed) < of:
        found.levels[column] = allowed


def _number(schema: Schema, name: str, value: Any) -> float:
    """A value of a column as the number that stands for it."""
    import pyarrow as pa

    levels, unseen = schema.levels.get(name), dict[str, list[str]]()
    form = schema.forms[schema.names.index(name)] if schema.forms else Form()
    plain = is_plain(value) if isinstance(value, str) else isinstance(value, Real)
    if not levels and plain and not form.times:
        return _there(float(value), name, value)  # cells are in single precision
    try:
        column = pa.chunked_array([pa.array([value])])
        number = float(cells.known(column, name, levels, form, unseen)[0])
        if unseen:
            raise ValueError(f"{value!r} is no category of it")
    except (pa.ArrowException, TypeError, ValueError) as error:
        knows = f"it has {', '.join(levels[:MOST_NAMED])}" if levels else "it holds numbers"
        more = ", ..." if levels and len(levels) > MOST_NAMED else ""
        raise ValueError(f"Column {name!r} has no {value!r}: {knows}{more}.") from error
    return _there(number, name, value)


def _there(number: float, name: str, value: Any) -> float:
    if math.isnan(number):
        raise ValueError(f"{name}={value!r}: a condition needs a value, and this is a missing one.")
    return number


def _holds(schema: Schema, column: int, number: int, asked: Asked) -> bool:
    """Whether a category meets a condition."""
    name, sign, value = asked
    if sign in COMPARISONS:
        place = _order(schema, column)
        return bool(COMPARISONS[sign](place[number], place[int(_number(schema, name, value))]))
    among = {_number(schema, name, each) for each in (value if sign == "in" else [value])}
    return (number in among) != (sign == "!=")


def _order(schema: Schema, column: int) -> list[float]:
    """The places of the categories of a column in their order.

    Raises:
        ValueError: they have none.
    """
    name = schema.names[column]
    levels, form = schema.levels[name], schema.forms[column] if schema.forms else None
    if levels == BOOLEAN or (form and form.levels != "text"):
        return [float(i) if levels == BOOLEAN else float(level) for i, level in enumerate(levels)]
    if form and form.ordered:
        return [float(form.categories.index(level)) for level in levels]
    raise ValueError(
        f"Column {name!r} has categories without an order: ask for one by {name}={levels[0]}, or "
        f"for all but one by {name}!={levels[0]}."
    )


def _range(schema: Schema, column: int, asked: list[Asked]) -> tuple[float, float]:
    """The least and the greatest number of a column that meets all conditions."""
    name, (least, greatest) = schema.names[column], _limits(schema, column)
    low, high = least, greatest
    for part in asked:
        above, below = _neighbours(schema, column, part)
        if part.sign in (">", ">=", "="):
            low = max(low, above)
        if part.sign in ("<", "<=", "="):
            high = min(high, below)
    if low > high:
        known = f"it is never below {least:g}" if math.isfinite(least) else ""
        known += " and " if known and math.isfinite(greatest) else ""
        known += f"never above {greatest:g}" if math.isfinite(greatest) else ""
        known = f" ({name}: {known.removeprefix('it is ')})" if known else ""
        words = ", ".join(map(str, asked))
        raise ValueError(f"No row has {words}{known}: ask for something else.")
    return low, high


def _neighbours(schema: Schema, column: int, asked: Asked) -> tuple[float, float]:
    """The least number that is above what is asked for and the greatest below, or it itself."""
    name, sign, value = asked
    if sign in ("in", "!="):
        raise ValueError(
            f"Column {name!r} is numbers: ask for one value or for a range, as in {name}>=2."
        )
    number, half = _number(schema, name, value), _half(schema, column)
    strict = sign in ("<", ">")
    if not half:
        return (
            math.nextafter(number, math.inf) if strict else number,
            math.nextafter(number, -math.inf) if strict else number,
        )
    decimals, step = schema.forms[column].decimals, 2 * half
    above, below = math.ceil(number / step - ROUNDING), math.floor(number / step + ROUNDING)
    if sign == "=" and above != below:
        raise ValueError(f"No row has {asked}: values of {name} are multiples of {step:g}.")
    if strict and above == below:
        above, below = above + 1, below - 1
    return round(above * step, decimals), round(below * step, decimals)


def _half(schema: Schema, column: int) -> float:
    """Half of the interval that a number stands for."""
    decimals = schema.forms[column].decimals if schema.forms else None
    return 0.0 if decimals is None else 0.5 * 10.0**-decimals


def _limits(schema: Schema, column: int) -> tuple[float, float]:
    """The least and the greatest number that is ever drawn."""
    kind = schema.kinds[column] if schema.kinds else ""
    if kind == "count":
        return 0.0, math.inf
    if kind == "binary":
        return 0.0, 1.0
    if kind == "number" and schema.limits and schema.limits[column]:
        width, low, high = schema.limits[column] or (0.0, None, None)
        return (
            -math.inf if low is None else low + width / 2,
            math.inf if high is None else high - width / 2,
        )
    form = schema.forms[column] if schema.forms else None
    if kind != "number" and form and form.low is not None and form.high is not None:
        return form.low, form.high  # whole numbers are drawn between the least and the greatest
    return -math.inf, math.inf

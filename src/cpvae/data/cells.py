"""The cells of a table as numbers: a category as the number of its level, a missing value as NaN.

What is text in a frame or a parquet file is text: there "NA" may be Namibia, and a missing value is
null. In a CSV file all is text, and `dialect` says which words mean a missing value.
"""

import dataclasses
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from cpvae.data import dates, ids
from cpvae.data.checks import single
from cpvae.data.columns import BOOLEAN, Form
from cpvae.data.levels import pooled
from cpvae.data.numerals import is_plain, numbers_of

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "?")  # words that mean a missing value
TRUTHS = {  # other words for a boolean
    **dict.fromkeys(("false", "f", "no", "n", "0"), 0.0),
    **dict.fromkeys(("true", "t", "yes", "y", "1"), 1.0),
}
MOSTLY = 0.9  # of the cells are numbers: then the others are mistakes, if the numbers are many
MANY = 20


class Cells(NamedTuple):
    """A column as numbers (n), its levels if it is one of text or booleans, and its form."""

    numbers: np.ndarray
    levels: list[str] | None
    form: Form


def learned(column: Any, place: str, name: str, kind: str | None = None) -> Cells | str:
    """A column of pyarrow that is to be learned from.

    Arguments:
        column: a chunked array of pyarrow
        place: what errors call it
        name: of the column, for what errors suggest
        kind: that it is said to be; ``categorical`` also for numbers

    Returns:
        Its cells, or why it is left out.

    Raises:
        ValueError: neither numbers nor text, text that is no category although it is said to be
            one, or numbers that single precision cannot hold.
    """
    from pyarrow import types

    categorical = kind == "categorical" or types.is_dictionary(column.type)
    column = _whole(column, place)
    if not categorical and (found := dates.learned(column)):
        whole = dataclasses.replace(Form.of_numbers(found[0]), times=found[1])
        return Cells(single(found[0], place), None, whole)
    if is_text(column.type) or categorical:
        return _learned_text(column, place, name, categorical, kind)
    if not is_numeric(column.type):
        raise ValueError(
            f"{place} holds {column.type}, neither numbers, text, dates nor times: leave it out "
            f"(--drop)."
        )
    values = _numbers(column)
    if not kind and types.is_integer(column.type):
        if found := dates.learned_digits(values):
            whole = dataclasses.replace(Form.of_numbers(found[0]), times=found[1])
            return Cells(single(found[0], place), None, whole)
        if ids.are_ids(values, name):
            return ids.DIFFERS
        if _are_two_codes(values):
            return _learned_text(column, place, name, categorical=True, kind=kind)
    digits = 7 if types.is_float32(column.type) or types.is_float16(column.type) else 15
    return Cells(single(values, place), None, Form.of_numbers(values, digits))


def known(
    column: Any, place: str, levels: Sequence[str] | None, form: Form, unseen: dict[str, list[str]]
) -> np.ndarray:
    """New cells of a column that a model was fitted to, (n).

    Cells may be of another type than the ones that were fitted, as long as they say the same: a
    file with 1 and 2 alone is read as numbers, and 01 may be the name of a level.

    Arguments:
        column: a chunked array of pyarrow
        place: what errors call it
        levels: of the column, None where the model was fitted to numbers
        form: how its values were written
        unseen: gets the cells that name no level, under ``place``; they count as missing

    Raises:
        ValueError: text that is no number or no date.
    """
    if not levels:
        return single(numbers_in(column, place, form), place)
    column = _whole(column, place)
    if is_numeric(column.type) or is_text(column.type):
        if str(column.type) == "bool" and form.levels != "text":
            column = column.cast("int8")
        texts, index = _texts(column)
        names, most = [*levels, *(text for text, _ in form.pool)], len(levels) - 1
        found = [_find(text, names) for text in texts]
        new = [i for i, number in enumerate(found) if number is None]
        if form.levels != "text" and not all(is_plain(texts[i]) for i in new):
            raise ValueError(_not_a_number(column, place))
        if cells := [texts[i] for i in index if i in set(new)]:
            unseen[place] = cells
        number = np.array([np.nan if at is None else min(at, most) for at in found] + [np.nan])
        return number[index].astype(np.float32)
    raise ValueError(
        f"{place} holds {column.type}, and the model was fitted to categories there: correct it, "
        f"or leave the cell empty."
    )


def numbers_in(column: Any, place: str, form: Form) -> np.ndarray:
    """Cells of a column without levels in double precision, (n); else as for `known`."""
    column = _whole(column, place)
    if form.times:
        return _known_times(column, place, form.times)
    return _known_numbers(column, place)


def _are_two_codes(values: np.ndarray) -> bool:
    """Whether whole numbers (n) are two codes, as 1 and 2, and not zeros and ones."""
    different = np.unique(values[~np.isnan(values)][:1000])
    if len(different) > 2:
        return False
    different = np.unique(values[~np.isnan(values)])
    return len(different) == 2 and different.tolist() != [0, 1]


def _learned_text(
    column: Any, place: str, name: str, categorical: bool, kind: str | None
) -> Cells | str:
    """The categories of a column, or why it is left out."""
    from pyarrow import types

    texts, index = _texts(column)
    if types.is_boolean(column.type):
        return Cells(_numbered(texts, index, BOOLEAN), list(BOOLEAN), Form())
    whole = all(re.fullmatch(r"-?\d+", text) for text in texts)
    read_as = ("int" if whole else "float") if is_numeric(column.type) else "text"
    if read_as == "text" and not categorical:
        _check_no_numbers(texts, index, place, name)
    rows = dict(zip(texts, np.bincount(index[index >= 0], minlength=len(texts)), strict=True))
    every = sorted(texts, key=float if read_as != "text" else str)
    levels, pool = pooled(every, [int(rows[text]) for text in every])
    if len(levels) < 2 < len(texts):
        if kind or (not ids.are_codes(texts, name) and all(map(is_plain, texts))):
            hint = "" if kind else "if it is numbers, make its type a number; if not, "
            raise ValueError(
                f"{place} is text with {len(texts)} different values in {len(index)} rows, too "
                f"many for categories: {hint}leave it out (--drop)."
            )
        return ids.DIFFERS if len(texts) == len(index) else ids.HARDLY_REPEATS
    numbers = _numbered(texts, index, levels, [text for text, _ in pool])
    return Cells(numbers, levels, Form(levels=read_as, pool=pool))


def _numbered(
    texts: Sequence[str], index: np.ndarray, levels: Sequence[str], pool: Sequence[str] = ()
) -> np.ndarray:
    number = {level: i for i, level in enumerate(levels)} | dict.fromkeys(pool, len(levels) - 1)
    return np.array([number[text] for text in texts] + [np.nan], dtype=np.float32)[index]


def _check_no_numbers(texts: Sequence[str], index: np.ndarray, place: str, name: str) -> None:
    """Refuses text that is numbers written for people, or numbers but for a few mistakes."""
    _check_no_dates(texts, place, name)
    odd = next((text for text in texts if not is_plain(text)), None)
    if odd is None:
        return  # codes such as 00501: a frame that has them as text means text
    try:
        all_numbers = numbers_of(texts) is not None
    except ValueError as error:
        raise ValueError(f"{place} has numbers written in two ways, {error}: use one.") from error
    as_text = f"--kind {name}=categorical, or kinds={{{name!r}: 'categorical'}} in Python"
    if all_numbers:
        raise ValueError(
            f"{place} is text such as {odd!r}: write numbers with a decimal point and nothing "
            f"else, or read it as text ({as_text})."
        )
    plain = [is_plain(text) for text in texts]
    often = np.append(plain, False)[index].sum() >= MOSTLY * (index >= 0).sum()
    if often and sum(plain) > MANY:
        row = int(np.flatnonzero(index == texts.index(odd))[0]) + 1
        raise ValueError(
            f"{place} holds {odd!r} in row {row} and numbers in most others: correct it, leave the "
            f"cell empty, or read all as text ({as_text})."
        )


def _check_no_dates(texts: Sequence[str], place: str, name: str) -> None:
    """Refuses text that is dates but for a few mistakes, or dates written in several ways."""
    shaped = [text for text in texts if dates.looks_like_date(text.strip())]
    if len(shaped) < MOSTLY * len(texts) or len(texts) <= MANY:
        return
    odd = next((text for text in texts if text not in shaped), None)
    odd = odd or next((text for text in shaped if dates.read_texts([text]) is None), texts[0])
    raise ValueError(
        f"{place} has dates and {odd!r}, which is none or is written in another way: write all in "
        f"one way, as in 2021-03-31, and leave empty what is missing; or read all as text (--kind "
        f"{name}=categorical, or kinds={{{name!r}: 'categorical'}} in Python)."
    )


def _find(text: str, levels: Sequence[str]) -> float | None:
    """The number of the level that a text names, NaN for a missing value, None for a new one."""
    if text in levels:
        return float(levels.index(text))
    stripped = text.strip()
    if stripped in levels:
        return float(levels.index(stripped))
    if list(levels) == BOOLEAN:
        truth = f"{float(stripped):g}" if is_plain(stripped) else stripped.lower()
        if truth in TRUTHS:
            return TRUTHS[truth]
    folded = stripped.lower()
    if folded in BOOLEAN:  # True in one file, TRUE or 1 in another
        names = (folded, str(BOOLEAN.index(folded)))
        same = [i for i, level in enumerate(levels) if level.lower() in names]
    else:
        same = [i for i, level in enumerate(levels) if _same_number(stripped, level)]
    if len(same) == 1:
        return float(same[0])
    return np.nan if stripped in MISSING else None


def _same_number(text: str, level: str) -> bool:
    return is_plain(text) and is_plain(level) and float(text) == float(level)


def _known_times(column: Any, place: str, times: dates.Times) -> np.ndarray:
    """New cells as the numbers of dates or times, (n)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(column.type):
        words = pc.is_in(pc.utf8_trim_whitespace(column), pa.array(MISSING))
        column = pc.if_else(words, pa.scalar(None, pa.string()), column)
    digits = times.type == "digits" and is_numeric(column.type)
    found = dates.known_digits(_numbers(column), times) if digits else dates.known(column, times)
    if found is None:
        like = times.values(np.zeros(1))[0]
        first = next((cell for cell in column.to_pylist() if cell is not None), None)
        raise ValueError(
            f"{place} holds {str(first)!r}, and the model was fitted to dates or times there, such "
            f"as {str(like)!r}: write all in one way, and leave empty what is missing."
        )
    return found


def _known_numbers(column: Any, place: str) -> np.ndarray:
    """New cells as numbers, (n); text if all of it reads as such."""
    if is_numeric(column.type):
        return _numbers(column)
    if is_text(column.type):
        texts, index = _texts(column)
        if all(is_plain(text) or text.strip() in MISSING for text in texts):
            numbers = [float(text) if is_plain(text) else np.nan for text in texts]
            return np.array([*numbers, np.nan])[index]
    raise ValueError(_not_a_number(column, place))


def _not_a_number(column: Any, place: str) -> str:
    return (
        f"{place} holds {_first_text(column)}, and the model was fitted to numbers there: "
        f"correct it, or leave the cell empty."
    )


# --- types of pyarrow ----------------------------------------------------------------------------


def _whole(column: Any, place: str) -> Any:
    """A column in one piece, its values instead of their places in a dictionary."""
    import pyarrow as pa
    from pyarrow import types

    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    try:
        column = column.dictionary_decode() if types.is_dictionary(column.type) else column
        if types.is_dictionary(column.type) or is_text(column.type):
            column = column.cast(pa.bool_() if types.is_boolean(column.type) else pa.string())
    except pa.ArrowException as error:
        raise ValueError(f"{place} cannot be read ({error}): leave it out (--drop).") from error
    return column


def _texts(column: Any) -> tuple[list[str], np.ndarray]:
    """The different texts of a column, and the place among them of each cell, -1 for a missing."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_floating(column.type):
        column = pa.array(column.to_numpy(zero_copy_only=False), from_pandas=True)  # NaN is null
        with suppress(pa.ArrowException):  # whole numbers beside missing ones
            column = column.cast(pa.int64())
    encoded = column.cast(pa.string()).dictionary_encode()
    index = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), index


def _numbers(column: Any) -> np.ndarray:
    """A column of numbers or booleans in double precision; null becomes NaN."""
    import pyarrow as pa
    from pyarrow import types

    exact = not types.is_integer(column.type) and not types.is_decimal(column.type)
    numbers = column.cast(pa.float64(), safe=exact) if not types.is_boolean(column.type) else None
    if numbers is None:
        numbers = column.cast(pa.int8()).cast(pa.float64())
    return numbers.to_numpy(zero_copy_only=False)


def is_numeric(arrow_type: Any) -> bool:
    """Whether a type of pyarrow is one of numbers, booleans or nothing."""
    from pyarrow import types

    is_a = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, types.is_decimal)
    return any(test(arrow_type) for test in is_a)


def is_text(arrow_type: Any) -> bool:
    """Whether a type of pyarrow is text, a dictionary or boolean: read as categories."""
    from pyarrow import types

    is_a = (types.is_string, types.is_large_string, types.is_string_view)
    return any(test(arrow_type) for test in (*is_a, types.is_dictionary, types.is_boolean))


def _first_text(column: Any) -> str:
    """The first cell that is no number, for a person to find it."""
    for row, cell in enumerate(column.to_pylist(), start=1):
        text = "" if cell is None else str(cell).strip()
        if text not in MISSING and not is_plain(text):
            return f"{text!r} in row {row}"
    return str(column.type)

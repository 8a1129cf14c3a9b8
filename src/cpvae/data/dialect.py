"""CSV files as people have them: which letters, which separator, where the header is.

A file is looked at before it is read, and what was understood is told where it is not plain. All
cells are read as text, and each column then as what its cells say, see `numerals`.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpvae.data import dates
from cpvae.data.cells import MISSING
from cpvae.data.checks import listed
from cpvae.data.numerals import is_plain, marks, numbers_of, written

DELIMITERS = ",;\t|"  # the first is taken where two do as well
LOOK = 2**18  # letters of a file that its dialect is read from
ROWS = 200
NULLS = {  # words for a missing value among numbers
    *MISSING,
    *("#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "None", "NaT", "n/a", "-NaN", "-nan"),
    *("-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
}


class Dialect(NamedTuple):
    """How a file is written.

    Arguments:
        delimiter: between cells
        names: of the columns; "" where one has none
        skipped: lines before the first row of data
        notes: what is not plain, each a sentence
    """

    delimiter: str
    names: list[str]
    skipped: int
    notes: list[str]


def read_text(content: bytes, path: Path) -> tuple[str, list[str]]:
    """The text of a file, in whatever letters it was saved, and what is to be told of it."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            return _decoded(content, encoding, path), []
    start = content[:LOOK]
    if start.count(0) > len(start) // 4:  # every other byte of plain letters
        encoding = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
        return _decoded(content, encoding, path), [f"the file is read as {encoding.upper()}"]
    if b"\x00" in start:
        raise ValueError(f"{path} is no text: it has bytes that no letter has.")
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError as error:
        place = error.start
    for encoding in ("cp1252", "latin-1"):
        with suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            break
    before = re.search(r"\w*$", text[max(0, place - 20) : place])
    after = re.match(r".\w*", text[place : place + 20])
    shown = (before[0] if before else "") + (after[0] if after else "")
    return text, [
        f"the file is not UTF-8 and is read as {encoding} (Western European), as in {shown!r}: "
        f"save it as UTF-8 if these letters are wrong"
    ]


def _decoded(content: bytes, encoding: str, path: Path) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is damaged: it begins as {encoding} and goes on otherwise."
        ) from (error)


def dialect_of(text: str, path: Path) -> Dialect:
    """How a text is written, from its first rows.

    Raises:
        ValueError: no header.
    """
    start = text[:LOOK]
    if len(text) > LOOK:
        start = start[: start.rfind("\n") + 1] or start
    stated = re.match(r"\s*\"?sep=(.)\"?[,;]*\r?\n?", start, re.IGNORECASE)
    start, lines = (start[stated.end() :], 1) if stated else (start, 0)
    delimiter = stated[1] if stated else _delimiter(start)
    rows = _rows(collapsed(start) if delimiter == " " else start, delimiter)
    if not rows:
        raise ValueError(f"{path} is empty: it has no rows.")
    notes = []
    if delimiter in "| ":
        notes.append(f"cells are parted by {'spaces' if delimiter == ' ' else repr(delimiter)}")
    first = _header(rows, _width([row for _, row in rows]))
    if first:
        above = " ".join(cell.strip() for cell in rows[0][1] if cell)
        what = "line" if first == 1 else f"{first} lines"
        notes.append(f"the {what} above the header, {above!r}, left out")
    number, header = rows[first]
    data = [row for _, row in rows[first + 1 :]]
    names = [name.strip().strip("\ufeff") for name in header]
    _check_header(names, data, path, lines + number)
    return Dialect(delimiter, _completed(names, data), lines + number, notes)


def _completed(names: list[str], data: Sequence[Sequence[str]]) -> list[str]:
    """The header, with an empty name for a column that it leaves out: the names of rows as R writes
    them, or the nothing behind a delimiter at the end of each line.
    """
    wider = bool(data) and all(len(row) == len(names) + 1 for row in data)
    if wider and not any(row[-1].strip() for row in data):
        return [*names, ""]
    rows = [row[0].strip() for row in data] if wider and len(names) > 1 else []
    numbered = rows == [str(i) for i in range(1, len(rows) + 1)]
    named = len(set(rows)) == len(rows) and not any(map(is_plain, rows))
    return ["", *names] if rows and (numbered or named) else names


def collapsed(text: str) -> str:
    """Lines with one space wherever they have several."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def _rows(text: str, delimiter: str, strict: bool = False) -> list[tuple[int, list[str]]]:
    """The first rows that are not empty, each with the number of its last line.

    None of a text whose quotes end within cells, if it is to be read in the ``strict`` way.
    """
    how: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": True, "strict": strict}
    reader = csv.reader(io.StringIO(text, newline=""), **how)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or len(row) > 1:
                rows.append((reader.line_num, row))
            if len(rows) == ROWS:
                break
    except csv.Error:
        return [] if strict else rows
    return rows


def _delimiter(text: str) -> str:
    """What parts cells: what gives most rows as many cells, the header among them."""
    best, most = DELIMITERS[0], (0.0, 0.0)
    strict = any(_rows(text, delimiter, strict=True) for delimiter in DELIMITERS)
    for delimiter in DELIMITERS:
        rows = [row for _, row in _rows(text, delimiter, strict)]
        width = _width(rows)
        alike = [row for row in rows if len(row) == width > 1]
        numbers = sum(is_plain(cell) for row in alike for cell in row)
        found = len(alike) / max(1, len(rows)), numbers / max(1, width * len(alike))
        if alike and found > most:
            best, most = delimiter, found
    rows = [row for _, row in _rows(text, best)]
    if most[0] and len(rows) > 1 and len(rows[0]) == 1 and _width(rows) == 2:  # "x", then 1,5
        return ";" if all(re.fullmatch(r"-?\d+,\d+", ",".join(row)) for row in rows[1:]) else best
    if not most[0]:
        spaced = [line.split() for line in text.splitlines()[:ROWS] if line.strip()]
        numbers = all(any(map(is_plain, row)) for row in spaced[1:])
        if len({len(row) for row in spaced}) == 1 and len(spaced[0]) > 1 and numbers:
            return " "
    return best


def _width(rows: Sequence[Sequence[str]]) -> int:
    """The number of cells that most rows have."""
    widths = Counter(len(row) for row in rows if len(row) > 1)
    return widths.most_common(1)[0][0] if widths else 1


def _header(rows: Sequence[tuple[int, Sequence[str]]], width: int) -> int:
    """Which row is the header: the first with as many cells as the others, remarks aside."""
    for place, (_, row) in enumerate(rows):
        cells = [cell for cell in row if cell.strip()]
        alone = width > 2 and len(cells) <= 1 and bool(row[0].strip())
        if width == 2 and len(cells) == 1 and row[0].strip():  # a title, unless no row has more
            alone = any(len(other) > 1 and other[1].strip() for _, other in rows[place + 1 :])
        remark = row[0].lstrip().startswith("#") and not _data_follow(rows, place)
        fits = len(row) == width or (len(row) == width - 1 and _data_follow(rows, place))
        if cells and fits and not alone and not remark:
            return place
    return 0


def _data_follow(rows: Sequence[tuple[int, Sequence[str]]], place: int) -> bool:
    """Whether a row has numbers below it, and so is no remark above the header."""
    return place + 1 < len(rows) and any(map(is_plain, rows[place + 1][1]))


def _check_header(
    names: Sequence[str], data: Sequence[Sequence[str]], path: Path, line: int
) -> None:
    """Refuses a header that is a row of data; years and running numbers may be names."""
    data_too = [
        not is_plain(name) and name in {row[i].strip() for row in data if i < len(row)}
        for i, name in enumerate(names)
    ]
    numbers = [is_plain(name) for name in names]
    if any(data_too) and any(numbers) and all(map(max, data_too, numbers)):
        raise ValueError(
            f"{path}: its first line, {', '.join(names)}, is made of what the other lines have, "
            f"and a header with the names of the columns belongs there. Add one."
        )
    if not all(is_plain(name) for name in names if name) or not any(names):
        return
    values = [float(name) for name in names if name]
    steps = {b - a for a, b in pairwise(values)}
    running = steps == {1.0} and values[0] in (0, 1)
    years = len(set(values)) == len(values) and all(
        1800 <= v <= 2200 and v == int(v) for v in values
    )
    below = [cell.strip() for row in data for cell in row]
    other = any(re.search(r"[^\d-]", cell) for cell in below) or (len(values) > 4 and running)
    if (running or years) and other and len(values) > 1:
        return
    raise ValueError(
        f"{path}: its first line is made of numbers, and a header with the names of the columns "
        f"belongs there (line {line}). Add one; where these are years, write 'y2019' for 2019."
    )


# --- cells as what they say ----------------------------------------------------------------------


def typed(
    columns: dict[str, Any], as_text: Collection[str], levels: dict[str, list[str]]
) -> tuple[dict[str, Any], list[str]]:
    """Columns of text as numbers or booleans where all their cells are such; dates stay text.

    Arguments:
        columns: of pyarrow, by name
        as_text: names of those that stay text
        levels: of a fitted model, which may be words that mean a missing value elsewhere

    Returns:
        The columns, and what is to be told: a number that is not written as programs do.

    Raises:
        ValueError: two ways of writing decimals in one column.
    """
    import pyarrow.compute as pc

    trimmed = {name: pc.utf8_trim_whitespace(column) for name, column in columns.items()}
    read: dict[str, Any] = {}
    human: dict[str, list[str]] = {}
    for name, column in trimmed.items():
        found = None if name in as_text else _plain_column(column)
        if found is not None:
            read[name] = found
        elif name not in as_text and (texts := _different(column)) and written(texts) is not None:
            human[name] = texts
    comma = _commas(human.values())
    if comma:  # then 1.234 is a thousand too
        for name in [*read]:
            texts = _different(trimmed[name]) or []
            if any("." in t for t in texts) and all(
                re.fullmatch(r"-?\d{1,3}(\.\d{3})*", t) for t in texts
            ):
                human[name] = texts
                del read[name]
    examples: dict[str, list[str]] = {}
    for name, texts in human.items():
        try:
            numbers = numbers_of(texts, comma)
        except ValueError as error:
            raise ValueError(
                f"column {name} has numbers written in two ways, {error}: use one."
            ) from error
        if numbers is not None:
            read[name] = _mapped(trimmed[name], texts, numbers)
            odd = max(range(len(texts)), key=lambda i: (not is_plain(texts[i]), len(texts[i])))
            shown = f"{texts[odd]!r} is read as {numbers[odd]:.12g}"
            alike = re.sub(r"\d+", "0", texts[odd])
            examples.setdefault(alike, [shown]).append(name)
    for name, column in trimmed.items():
        if name not in read:
            read[name] = _text(column, levels.get(name, ()))
    notes = [
        f"column{'s' * (len(names) > 1)} {listed(range(len(names)), names)}: {shown}"
        for shown, *names in examples.values()
    ]
    return {name: read[name] for name in columns}, notes + _ambiguous(read)


def _ambiguous(columns: dict[str, Any]) -> list[str]:
    """What is to be told of dates that could be read in another way."""
    import pyarrow as pa

    told = []
    for name, column in columns.items():
        found = dates.learned(column) if column.type == pa.string() else None
        texts = _different(column) if found else None
        if found and texts and dates.is_ambiguous(texts, found[1].written):
            day = str(found[1].moments(found[0][~np.isnan(found[0])][:1])[0])
            told.append(
                f"column {name}: {texts[0]!r} is read as {day}, the month first, as no cell tells: "
                f"write dates as 2021-03-31 if it is not"
            )
    return told


def _commas(columns: Collection[Sequence[str]]) -> bool:
    """Whether a comma parts decimals for certain in some column, and a point in none."""
    shown: set[str] = set()
    for texts in columns:
        found = written(texts)
        if found:
            shown |= marks(one.body for one in found).decimals
    return shown == {","}


def _plain_column(column: Any) -> Any | None:
    """A column of text as numbers or booleans as programs write them, or as text of dates; None of
    all else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.is_in(column, pa.array(sorted(NULLS)))
    cells = pc.if_else(known, pa.scalar(None, pa.string()), column)
    if cells.null_count == len(cells):
        return pa.nulls(len(cells), pa.float64())
    lower = pc.utf8_lower(cells)
    if pc.all(pc.is_in(lower, pa.array(["true", "false", None]))).as_py():
        return pc.equal(lower, "true")
    for kind in (pa.int64(), pa.float64()):
        with suppress(pa.ArrowInvalid):
            return cells.cast(kind)
    return cells if dates.learned(cells) else None


def _different(column: Any) -> list[str] | None:
    """The different texts that are no missing values; None if the first has no digit."""
    first = next((text for text in column.slice(0, 50).to_pylist() if text not in NULLS), None)
    if first is not None and not re.search(r"\d", first):
        return None
    return [text for text in column.unique().to_pylist() if text not in NULLS]


def _mapped(column: Any, texts: Sequence[str], numbers: Sequence[float]) -> Any:
    """A column of text as numbers, each text as its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = all(number == int(number) for number in numbers)
    values = pa.array([int(n) for n in numbers] if whole else numbers)
    return values.take(pc.index_in(column, pa.array(texts)))


def _text(column: Any, levels: Collection[str]) -> Any:
    """A column of text, null for the words that mean a missing value and are no level."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.array([word for word in MISSING if word not in levels])
    return pc.if_else(pc.is_in(column, words), pa.scalar(None, pa.string()), column)

"""Files with tables: CSV and its relatives, parquet, Feather, Excel. Each gives a table of pyarrow.

An index is none of the columns: what a frame of pandas numbers its rows by comes along into files,
in parquet under its own name, in CSV files as a first column without a name.
"""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cpvae.choices import COMPRESSED
from cpvae.data.dialect import Dialect, collapsed, dialect_of, read_text, typed
from cpvae.data.frames import index_of
from cpvae.data.numerals import is_plain
from cpvae.data.packed import ERRORS, check_archive, check_unpacked, unpacked
from cpvae.data.splits import Selection
from cpvae.extras import need

RUNNING = re.compile(r"Unnamed: 0(\.\d+)?|index|level_0")  # what pandas calls an index read again
ALIKE = {".tab": ".tsv", ".pq": ".parquet", ".arrow": ".feather", ".ipc": ".feather"}


class Read(NamedTuple):
    """A table of pyarrow, and what is to be told of how it was read, each a sentence."""

    table: Any
    notes: tuple[str, ...] = ()


def ending_of(path: Path) -> str:
    """What a file with a table ends in, without that of a compression, by its usual name."""
    ending = path.suffix.lower()
    if ending in COMPRESSED:
        ending = Path(path.stem).suffix.lower()
    return ALIKE.get(ending, ending)


def is_parquet(folder: Path) -> bool:
    """Whether a folder is a table in several files."""
    return folder.is_dir() and any(folder.rglob("*.parquet"))


def read_table(path: Path, what: Selection) -> Read:
    """Reads a file with a table; its ending says how.

    Raises:
        ValueError: a file that is truncated or not what its ending says.
        ModuleNotFoundError: an Excel file, and what reads it is not installed.
    """
    reader = READERS[".parquet"] if path.is_dir() else READERS[ending_of(path)]
    read = reader(path, what)
    table, notes = without_index(read.table, what)
    return Read(table, (*read.notes, *notes))


def unreadable(path: Path, error: Exception, cause: str = "it may be truncated") -> ValueError:
    """What to say of a file that a library cannot read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"{path} cannot be read as a {ending_of(path)} file ({reason}): {cause}.")


# --- CSV -----------------------------------------------------------------------------------------


def read_csv(path: Path, what: Selection) -> Read:
    """A file whose cells are parted by commas, semicolons, tabs or bars; see `dialect`."""
    text, notes = read_text(_unpacked(path), path)
    dialect = dialect_of(text, path)
    body = _after(text, dialect.skipped)
    if dialect.delimiter == " ":
        body = collapsed(body)
    elif re.search(re.escape(dialect.delimiter) + ' +"', body):
        body = _rewritten(body, dialect.delimiter)
    columns, empty = _without_empty_rows(_columns(body, dialect, path))
    levels = what.schema.levels if what.schema else {}
    names = _unique(dialect.names)
    try:
        cells = dict(zip(names, columns, strict=True))
        read, told = typed(cells, what.as_text(names), levels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if empty:
        told.append(f"{empty} empty rows at the end are left out")
    return Read(_table(read, dialect.names), (*notes, *dialect.notes, *told))


def _unpacked(path: Path) -> bytes:
    import pyarrow

    try:
        return unpacked(path.read_bytes(), path.suffix.lower())
    except (*ERRORS, pyarrow.ArrowException) as error:
        raise unreadable(path, error) from error


def _after(text: str, lines: int) -> str:
    """A text without its first lines."""
    ends = re.finditer(r"\r\n|\n|\r", text)
    place = 0
    for _ in range(lines):
        end = next(ends, None)
        place = end.end() if end else len(text)
    return text[place:]


def _rewritten(body: str, delimiter: str) -> str:
    """The same cells without the spaces before quoted ones, which hide that they are quoted."""
    out = io.StringIO(newline="")
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, skipinitialspace=True)
    csv.writer(out, delimiter=delimiter).writerows(reader)
    return out.getvalue()


def _columns(body: str, dialect: Dialect, path: Path) -> list[Any]:
    """The cells as columns of text."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    names = [str(i) for i in range(len(dialect.names))]
    if not body.strip():
        return [pyarrow.array([], pyarrow.string()) for _ in names]
    content = body.encode()

    def read(parse: Any, threads: bool) -> Any:
        return arrow_csv.read_csv(
            pyarrow.BufferReader(content),
            arrow_csv.ReadOptions(column_names=names, use_threads=threads),
            parse,
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string())),
        )

    parse = {"delimiter": dialect.delimiter, "newlines_in_values": True}
    try:
        table = read(arrow_csv.ParseOptions(**parse), threads=True)
    except pyarrow.ArrowException as error:
        found: list[Any] = []

        def keep(row: Any) -> str:
            found.append(row)
            return "skip"

        with contextlib.suppress(pyarrow.ArrowException):  # threads do not count rows
            read(arrow_csv.ParseOptions(**parse, invalid_row_handler=keep), threads=False)
        for row in found:
            many = row.actual_columns > row.expected_columns
            hint = f" (quote cells that have {dialect.delimiter!r} in them)" * many
            raise ValueError(
                f"{path}: line {row.number + dialect.skipped} has not the {len(names)} cells that "
                f"the header has: {row.text}{hint}"
            ) from error
        raise unreadable(path, error, "a row has too many or too few cells") from error
    return [column.combine_chunks() for column in table.columns]


def _without_empty_rows(columns: list[Any]) -> tuple[list[Any], int]:
    """Columns without the rows at the end that have no cells, and how many these were."""
    n = len(columns[0])
    kept = n
    while kept and len(columns) > 1 and not any(c[kept - 1].as_py().strip() for c in columns):
        kept -= 1
    return [column.slice(0, kept) for column in columns], n - kept


def _unique(names: Sequence[str]) -> list[Any]:
    """Keys for columns: their names, and their places where these occur twice."""
    count = Counter(names)
    return [name if count[name] == 1 else f"\0{i}" for i, name in enumerate(names)]


def _table(columns: dict[str, Any], names: Sequence[str]) -> Any:
    import pyarrow

    return pyarrow.Table.from_arrays(list(columns.values()), names=list(names))


# --- other files ---------------------------------------------------------------------------------


def read_parquet(path: Path, what: Selection) -> Read:
    """A parquet file, or a folder of them."""
    import pyarrow
    from pyarrow import parquet

    try:
        for file in [path] if path.is_file() else path.rglob("*.parquet"):
            head = parquet.read_metadata(file)
            check_unpacked(8 * head.num_rows * head.num_columns, file.stat().st_size)
        return Read(parquet.read_table(path))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def read_feather(path: Path, what: Selection) -> Read:
    """A Feather file, or one of Arrow's own."""
    import pyarrow
    from pyarrow import feather

    try:
        with contextlib.suppress(pyarrow.ArrowInvalid):
            return Read(feather.read_table(path))
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
            return Read(stream.read_all())
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def read_excel(path: Path, what: Selection) -> Read:
    """The first sheet of an Excel file."""
    need("openpyxl", "excel")
    import openpyxl

    try:
        check_archive(path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        rows = [list(row) for row in sheet.iter_rows(values_only=True)]
        sheets = [other.title for other in book.worksheets]
        book.close()
    except Exception as error:  # of zip, XML and more
        raise unreadable(path, error, "save it as .xlsx, or as .csv") from error
    while rows and all(cell is None for cell in rows[-1]):
        rows.pop()
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows[:200])
    dialect = dialect_of(out.getvalue(), path)
    data = rows[dialect.skipped :]
    columns = [list(cells) for cells in zip(*data, strict=True)] or [[] for _ in dialect.names]
    levels = what.schema.levels if what.schema else {}
    names, notes = _unique(dialect.names), list(dialect.notes)
    read = {}
    for name, cells in zip(names, columns, strict=True):
        column, told = _of_cells(name, cells, what.as_text(names), levels)
        read[name] = column
        notes += told
    if len(sheets) > 1:
        notes.append(f"of its {len(sheets)} sheets the first, {sheets[0]!r}, is read")
    return Read(_table(read, dialect.names), tuple(notes))


def _of_cells(
    name: str, cells: list[Any], as_text: set[str], levels: dict[str, list[str]]
) -> tuple[Any, list[str]]:
    """Cells of a sheet as a column, and what is to be told of it."""
    import pyarrow

    types = {type(cell) for cell in cells if cell is not None}
    if types <= {int, float} and name not in as_text:
        return pyarrow.array(cells, pyarrow.float64() if float in types else None), []
    if len(types) == 1 and str not in types and name not in as_text:  # booleans, dates
        return pyarrow.array(cells), []
    texts = pyarrow.array(["" if cell is None else _shown(cell) for cell in cells])
    codes = types == {str} and all(is_plain(cell) for cell in cells if cell is not None)
    keep = {*as_text, name} if codes else as_text  # 00501, which is text there
    read, told = typed({name: texts}, keep, levels)
    return read[name], told


def _shown(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


READERS: dict[str, Callable[[Path, Selection], Read]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".parquet": read_parquet,
    ".feather": read_feather,
    ".xlsx": read_excel,
}


# --- the index -----------------------------------------------------------------------------------


def without_index(table: Any, what: Selection) -> tuple[Any, list[str]]:
    """A table without the columns that number or name its rows, and what is to be told of them.

    Columns that are asked for by name stay.
    """
    names, notes = list(table.column_names), []
    asked = {*what.named(), *(what.schema.names if what.schema else ())}
    asked |= set(map(str, what.kinds)) if isinstance(what.kinds, Mapping) else set()
    of_pandas = index_of(table)
    index: list[int] = []
    empty: list[int] = []
    for place, name in enumerate(names):
        leading = place == len(index)
        if not name and table.column(place).null_count == table.num_rows:
            empty.append(place)
        elif name not in asked and (
            name in of_pandas
            or (leading and not name)
            or (leading and RUNNING.fullmatch(name) and _is_running(table.column(place)))
        ):
            index.append(place)
    if len(index) + len(empty) == len(names):
        index = []
    kept = [place for place in range(len(names)) if place not in (*index, *empty)]
    if index:
        called = " and ".join(repr(names[place]) for place in index if names[place])
        what_it_is = f"column {called}" if called else "the first column, which has no name,"
        notes.append(f"{what_it_is} is the index of the rows, and is not fitted")
    if empty:
        notes.append("the last column has neither a name nor values, and is left out")
    given = [names[place] or f"column {place + 1}" for place in kept]
    nameless = [name for name, place in zip(given, kept, strict=True) if not names[place]]
    if nameless and not (what.schema and "" in what.schema.names):
        notes.append(f"a column without a name is called {', '.join(map(repr, nameless))}")
        names = given
    else:
        names = [names[place] for place in kept]
    return table.select(kept).rename_columns(names), notes


def _is_running(column: Any) -> bool:
    """Whether a column counts its rows, from 0 or 1."""
    from pyarrow import types

    if not types.is_integer(column.type) or column.null_count or not len(column):
        return False
    first = column[0].as_py()
    return first in (0, 1) and column.to_pylist() == list(range(first, first + len(column)))

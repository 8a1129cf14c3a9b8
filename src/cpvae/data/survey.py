"""A first look at a large table: which columns it has, what they hold, and some rows of it.

What is learned of columns is learned from rows in memory (`encode_table`). Of a large table
these are a sample, and beside it the rows without which something would go unseen: those with the
least and the greatest value of each column, with a fraction, and with each text for the first time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpvae.data.cells import is_text
from cpvae.data.files import from_table
from cpvae.data.schema import Schema
from cpvae.data.shards import LargeTable
from cpvae.data.splits import Selection
from cpvae.data.tables import Read, without_index
from cpvae.streams import numpy_stream

ROWS = 100_000  # of the sample
MOST_TEXTS = 1_000  # different ones of a column that are looked for


class Survey(NamedTuple):
    """What a look at a table gave.

    Arguments:
        schema: of its columns
        extremes: the rows that are no sample, as numbers (m, f)
        notes: how it was read, where that is not plain
    """

    schema: Schema
    extremes: np.ndarray
    notes: tuple[str, ...]


def survey(table: LargeTable, what: Selection) -> Survey:
    """Looks at all rows once.

    Raises:
        ValueError: as for a table that is read whole (`files.from_table`).
    """
    sample, seen, kept = _Sample(), _Seen(), list(table.columns)
    notes: tuple[str, ...] = ()
    for chunk in table.chunks():
        if not seen.rows:
            kept, notes = _columns(chunk, what)
        chunk = chunk.select(kept)
        sample.add(chunk)
        seen.add(chunk)
    if not seen.rows:
        raise ValueError(f"{table.called} is empty: it has no rows.")
    read = Read(_joined([*sample.parts(), *seen.rows.values()]), notes)
    source = from_table(Path(table.called), read, what)
    return Survey(source.schema, source.x[-len(seen.rows) :], source.notes)


def _columns(chunk: Any, what: Selection) -> tuple[list[str], tuple[str, ...]]:
    """The columns that are no index of the rows, by the first of them."""
    kept, notes = without_index(chunk, what)
    if set(kept.column_names) - set(chunk.column_names):
        raise ValueError("A column has no name: a table that is read in chunks needs them all.")
    return kept.column_names, tuple(notes)


class _Sample:
    """`ROWS` rows of a table of any length, each as likely as any other."""

    def __init__(self) -> None:
        self.random = numpy_stream(0, "data")
        self.limit = 1.0
        self._tables: list[Any] = []
        self._keys: list[np.ndarray] = []

    def add(self, chunk: Any) -> None:
        keys = self.random.random(chunk.num_rows)
        mine = np.flatnonzero(keys < self.limit)
        self._tables.append(chunk.take(mine))
        self._keys.append(keys[mine])
        if sum(map(len, self._keys)) > 2 * ROWS:
            self._thin()

    def parts(self) -> list[Any]:
        self._thin()
        return self._tables

    def _thin(self) -> None:
        keys, table = np.concatenate(self._keys), _joined(self._tables)
        if len(keys) > ROWS:
            self.limit = float(np.partition(keys, ROWS)[ROWS])
            mine = np.flatnonzero(keys < self.limit)
            keys, table = keys[mine], table.take(mine)
        self._keys, self._tables = [keys], [table.combine_chunks()]


class _Seen:
    """Rows that show what columns may hold, by column and what they show."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Any] = {}
        self.ends: dict[tuple[str, str], Any] = {}
        self.texts: dict[str, set[Any]] = {}

    def add(self, chunk: Any) -> None:
        for name, column in zip(chunk.column_names, chunk.columns, strict=True):
            for key, row in self._new(name, column):
                self.rows[name, key] = chunk.slice(row, 1)
        if not self.rows:  # no column has a value yet
            self.rows["", ""] = chunk.slice(0, 1)

    def _new(self, name: str, column: Any) -> Iterator[tuple[str, int]]:
        """What a chunk of a column shows that none before it did, and in which row."""
        import pyarrow
        import pyarrow.compute as pc

        column = column.combine_chunks()
        column = column if isinstance(column, pyarrow.Array) else column.chunk(0)
        if is_text(column.type):
            yield from self._new_texts(name, column)
            return
        try:
            ends = pc.min_max(column)
        except pyarrow.ArrowException:  # a type that is refused later on
            return
        for end, word in (("min", "least"), ("max", "greatest")):
            value = ends[end]
            before = self.ends.get((name, word))
            further = before is None or (
                value.is_valid
                and (value.as_py() < before if end == "min" else value.as_py() > before)
            )
            if value.is_valid and further:
                self.ends[name, word] = value.as_py()
                yield word, pc.index(column, value).as_py()
        if pyarrow.types.is_floating(column.type) and (name, "fraction") not in self.rows:
            values = column.to_numpy(zero_copy_only=False)
            with np.errstate(invalid="ignore"):
                found = np.flatnonzero(np.isfinite(values) & (values != np.rint(values)))
            if len(found):
                yield "fraction", int(found[0])

    def _new_texts(self, name: str, column: Any) -> Iterator[tuple[str, int]]:
        import pyarrow

        encoded = column if hasattr(column, "dictionary") else column.dictionary_encode()
        known = self.texts.setdefault(name, set())
        codes = encoded.indices.cast(pyarrow.int64()).fill_null(-1)
        codes, first = np.unique(codes.to_numpy(zero_copy_only=False), return_index=True)
        texts = encoded.dictionary.to_pylist()
        for code, row in zip(codes, first, strict=True):
            if code >= 0 and texts[code] not in known and len(known) < MOST_TEXTS:
                known.add(texts[code])
                yield f"={texts[code]}", int(row)


def _joined(tables: Sequence[Any]) -> Any:
    import pyarrow

    return pyarrow.concat_tables(tables).unify_dictionaries()

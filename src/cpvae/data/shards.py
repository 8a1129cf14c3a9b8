"""Large tables as shards: files, or parts of one, that are read a chunk of rows at a time.

Nothing here holds more than some chunks. A folder of Parquet files has a shard a file, one Parquet
file a shard for about a million rows, and any other file is one shard.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cpvae.choices import COMPRESSED
from cpvae.data.cells import is_text
from cpvae.data.dialect import LOOK, dialect_of, typed
from cpvae.data.tables import ending_of, is_parquet

ROWS = 2**16  # of a chunk, at most
ROWS_A_SHARD = 2**20  # of one Parquet file, at least
BYTES = 2**26  # of a chunk of cells as numbers, at most
AHEAD = {"batch_readahead": 2, "fragment_readahead": 1}  # by default it is whole files
LARGE = 2**30  # bytes as float32 from which a table is not read whole
STREAMED = (".parquet", ".feather", ".csv", ".tsv", ".txt")  # endings of files that can be

Texts = dict[str, list[str]]


class Shard(NamedTuple):
    """A part of a table.

    Arguments:
        name: of a Parquet file for what is made of it
        rows: how many it has, where its file says so
        stamp: size and time of its file, by which a change is noticed
        read: gives its rows as tables of pyarrow with the columns asked for, `ROWS` at most each
    """

    name: str
    rows: int | None
    stamp: tuple[Any, ...]
    read: Callable[[Sequence[str] | None], Iterator[Any]]


class LargeTable(NamedTuple):
    """A table in shards: what errors call it, and the names of all its columns."""

    called: str
    columns: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int | None:
        """Rows in all, where its files say so."""
        counts = [shard.rows for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """All rows in order, as tables of pyarrow."""
        for shard in self.shards:
            yield from shard.read(columns)


def is_large(source: Any) -> bool:
    """Whether a source is too large to be read whole, or an object whose rows lie in files.

    That is from `LARGE` bytes on, or from those in the environment variable ``CPVAE_LARGE``.
    """
    if is_dataset(source) or is_backed(source):
        return True
    if not isinstance(source, str | Path):
        return False
    path, limit = Path(source), int(os.environ.get("CPVAE_LARGE", LARGE))
    if not can_be_streamed(path):
        return False
    files = list(path.rglob("*.parquet")) if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files) >= limit:
        return True
    if ending_of(files[0]) != ".parquet":
        return False
    from pyarrow import parquet

    try:
        heads = [parquet.read_metadata(file) for file in files]
    except Exception:  # a damaged file: who reads it says so
        return False
    return sum(4 * head.num_rows * head.num_columns for head in heads) >= limit


def can_be_streamed(path: Path) -> bool:
    """Whether a path is a folder of Parquet files, or a file that is read a chunk at a time."""
    plain = path.is_file() and path.suffix.lower() not in COMPRESSED
    return is_parquet(path) or (plain and ending_of(path) in STREAMED)


def large_table(
    source: Any,
    as_text: Sequence[str] = (),
    levels: Texts | None = None,
    label: str | None = None,
) -> LargeTable:
    """A table in shards; nothing but the heads of its files is read.

    Arguments:
        source: a folder of Parquet files; a Parquet, Arrow or CSV file; a data set of pyarrow; or
            a backed AnnData, whose columns are its variables
        as_text: columns of a CSV file that are text whatever they look like
        levels: categories of its columns of text that a fitted model knows
        label: column of ``obs`` that an AnnData has too

    Raises:
        ValueError: no such file, or one that cannot be read in chunks.
    """
    import pyarrow
    from pyarrow import dataset

    if is_dataset(source):
        return _of_object(source)
    if is_backed(source):
        return _of_cells(source, label)
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{path} is not there: name a folder of Parquet files, or a large file.")
    if not can_be_streamed(path):
        raise ValueError(
            f"{path} cannot be read in chunks: use a folder of .parquet files, or one file that "
            f"ends in {', '.join(STREAMED)}."
        )
    ending = ".parquet" if path.is_dir() else ending_of(path)
    try:
        if ending not in (".parquet", ".feather"):
            return _of_csv(path, as_text, levels or {})
        how = {"partitioning": "hive", "exclude_invalid_files": False} if path.is_dir() else {}
        found = dataset.dataset(path, format=ending[1:], **how)
        return _of_dataset(found, str(path), path if path.is_dir() else None)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from error


def is_dataset(source: Any) -> bool:
    """Whether an object is a data set of pyarrow that lies in files."""
    return type(source).__module__ == "pyarrow._dataset" and hasattr(source, "files")


def is_backed(source: Any) -> bool:
    """Whether an object is an AnnData whose numbers stay in their file."""
    return type(source).__module__.partition(".")[0] == "anndata" and source.isbacked


def _of_object(found: Any) -> LargeTable:
    """A data set of pyarrow as one shard, with the filters that it has."""
    import pyarrow

    def read(columns: Sequence[str] | None) -> Iterator[Any]:
        wanted = None if columns is None else list(columns)
        for batch in found.to_batches(columns=wanted, batch_size=ROWS, **AHEAD):
            if batch.num_rows:
                yield pyarrow.Table.from_batches([batch])

    stamps = [[str(Path(file).resolve()), *_stamp(Path(file))] for file in found.files]
    asked = str(getattr(found, "_scan_options", ""))  # a filter shows nowhere else
    shard = Shard("data.parquet", found.count_rows(), (stamps, asked), read)
    return LargeTable("the data set", tuple(found.schema.names), (shard,))


def _of_dataset(found: Any, called: str, folder: Path | None) -> LargeTable:
    """Shards of a data set of pyarrow: its files, or the row groups of a single one."""
    fragments = list(found.get_fragments())
    names: list[str | None] = [None] * len(fragments)
    if folder is not None:
        names = [os.path.relpath(fragment.path, folder) for fragment in fragments]
    elif len(fragments) == 1 and hasattr(fragments[0], "row_groups"):
        fragments = _cut(fragments[0])
        names = [None] * len(fragments)
    shards = []
    for number, (fragment, name) in enumerate(zip(fragments, names, strict=True)):
        rows = None
        if hasattr(fragment, "row_groups"):  # `count_rows` is that of the whole file
            rows = sum(group.num_rows for group in fragment.row_groups)
        path = getattr(fragment, "path", None)
        stamp = _stamp(Path(path)) if path and Path(path).is_file() else ()
        read = _reader(fragment, found.schema)
        shards.append(Shard(name or f"part-{number:05d}.parquet", rows, stamp, read))
    return LargeTable(called, tuple(found.schema.names), tuple(shards))


def _cut(fragment: Any) -> list[Any]:
    """A Parquet file in parts of `ROWS_A_SHARD` rows or more, whole row groups each."""
    parts: list[list[int]] = []
    rows = ROWS_A_SHARD
    for group in fragment.row_groups:
        if rows >= ROWS_A_SHARD:
            parts.append([])
            rows = 0
        parts[-1].append(group.id)
        rows += group.num_rows
    return [fragment.subset(row_group_ids=ids) for ids in parts] or [fragment]


def _reader(fragment: Any, schema: Any) -> Callable[[Sequence[str] | None], Iterator[Any]]:
    def read(columns: Sequence[str] | None) -> Iterator[Any]:
        import pyarrow

        wanted = None if columns is None else list(columns)
        how = {"batch_size": ROWS, **AHEAD}
        for batch in fragment.to_batches(schema=schema, columns=wanted, **how):
            if batch.num_rows:
                yield pyarrow.Table.from_batches([batch])

    return read


def _of_cells(cells: Any, label: str | None) -> LargeTable:
    """A backed AnnData as one shard; beside its variables it has its label."""
    import numpy
    import pyarrow

    if cells.is_view:
        raise ValueError(
            "A part of a backed AnnData cannot be read in chunks: write it to a file of its own, "
            "or read it with cells.to_memory()."
        )
    if not cells.var_names.is_unique:
        raise ValueError("Variables share a name: call cells.var_names_make_unique() first.")
    if label and label not in cells.obs:
        raise ValueError(f"obs has no column {label!r}: it has {', '.join(cells.obs)}.")
    place = {str(name): i for i, name in enumerate(cells.var_names)}
    if label in place:
        raise ValueError(f"{label!r} is a column of obs and a variable too: rename one of them.")
    rows = max(1, min(ROWS, BYTES // (4 * max(1, len(place)))))

    def read(columns: Sequence[str] | None) -> Iterator[Any]:
        wanted = list(columns) if columns is not None else [*place, *([label] if label else [])]
        for start in range(0, cells.n_obs, rows):
            part = cells[start : start + rows]
            x = part.X.toarray() if hasattr(part.X, "toarray") else numpy.asarray(part.X)
            of = {label: numpy.asarray(part.obs[label])} if label else {}
            chunk = {name: of[name] if name in of else x[:, place[name]] for name in wanted}
            yield pyarrow.table(chunk)

    stamp = (str(Path(cells.filename).resolve()), *_stamp(Path(cells.filename)))
    shard = Shard("data.parquet", cells.n_obs, stamp, read)
    return LargeTable("the AnnData", tuple(place), (shard,))


# --- CSV -----------------------------------------------------------------------------------------


def _of_csv(path: Path, as_text: Sequence[str], levels: Texts) -> LargeTable:
    """A CSV file; what a column holds is what its first chunk says, unless it is ``as_text``."""
    with open(path, "rb") as file:
        start = file.read(4 * LOOK)
    try:
        text = start[: start.rfind(b"\n") + 1].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8, in which a file has to be that is read in chunks."
        ) from error
    dialect = dialect_of(text, path)
    text_too = {*as_text, *levels}

    def read(columns: Sequence[str] | None) -> Iterator[Any]:
        kinds: dict[str, Any] = {}
        row = 0
        for table in _texts(path, dialect):
            given = dict(zip(table.column_names, table.columns, strict=True))
            given = {name: given[name] for name in columns or given}
            chunk = _typed(given, text_too, levels, kinds, path, row)
            kinds = kinds or {name: chunk[name].type for name in chunk.column_names}
            row += chunk.num_rows
            yield chunk

    stamp = _stamp(path)
    shard = Shard("part-00000.parquet", None, stamp, read)
    return LargeTable(str(path), tuple(dialect.names), (shard,))


def _texts(path: Path, dialect: Any) -> Iterator[Any]:
    """The cells of a CSV file as text, in tables of `ROWS` rows or less."""
    import pyarrow
    from pyarrow import csv

    names, types = list(dialect.names), dict.fromkeys(dialect.names, pyarrow.string())
    try:
        with csv.open_csv(
            path,
            csv.ReadOptions(column_names=names, skip_rows=dialect.skipped, block_size=2**24),
            csv.ParseOptions(delimiter=dialect.delimiter),
            csv.ConvertOptions(column_types=types),
        ) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, ROWS):
                    yield pyarrow.Table.from_batches([batch.slice(start, ROWS)])
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from error


def _typed(
    columns: dict[str, Any],
    as_text: set[str],
    levels: Texts,
    kinds: dict[str, Any],
    path: Path,
    row: int,
) -> Any:
    """A chunk of text as what its cells say; ``kinds`` are those of the first chunk."""
    import pyarrow

    whole = {name: column.combine_chunks() for name, column in columns.items()}
    try:
        read, _ = typed(
            whole, {*as_text, *(n for n, kind in kinds.items() if is_text(kind))}, levels
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, column in read.items():
        if name in kinds and is_text(column.type) and not is_text(kinds[name]):
            raise ValueError(
                f"{path}: column {name} is numbers at first and text from about row {row} on: "
                f"correct it, or read all as text (--kind {name}=categorical)."
            )
    return pyarrow.table(read)


def _stamp(path: Path) -> tuple[Any, ...]:
    """Size and time of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns

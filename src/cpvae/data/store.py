"""Large tables as numbers on disk: permuted once, memory-mapped, read a window of rows at a time.

A table that is too large for memory is read twice. `survey` learns its columns, and `build` writes
its rows as numbers, in random order, to a file in the user's cache that the next fit finds again.
As the order is random, any rows that lie together are a fair sample. Training reads some random
chunks of them an epoch, a window, and shuffles within it.

    rows.npy      all rows (n, f) in single precision; with labels, their numbers as a last column
    extremes.npy  rows that show what columns may hold, see `survey`
    store.json    schema, moments, and a digest of each shard
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpvae import output
from cpvae.choices import stem
from cpvae.data.checks import check_finite
from cpvae.data.fetch import cache_folder
from cpvae.data.labels import known, read_labels
from cpvae.data.schema import Schema
from cpvae.data.shards import LargeTable, large_table
from cpvae.data.splits import Selection, Split, Splits
from cpvae.data.survey import Survey, survey
from cpvae.streams import numpy_stream, stream

if TYPE_CHECKING:
    import torch

FORMAT = 1  # of a store; another one is built anew
BUCKET = 2**26  # bytes of rows that are permuted at once
WINDOW = 2**26  # bytes of rows that an epoch takes, at most
MOST_ROWS = 2**20  # and how many that are, at most
CHUNKS = 64  # of a window
HELD_OUT = 20_000  # rows for validation, and for the test part, at most


class Store:
    """The rows of a large table on disk.

    Arguments:
        folder: that `build` wrote
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.schema = Schema.from_json(self.facts["schema"])
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")
        self.extremes = np.load(folder / "extremes.npy")

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, n: int) -> np.ndarray:
        """``n`` rows from ``start`` on (n, f), copied; after the last one comes the first."""
        start %= len(self)
        first = np.array(self._rows[start : start + n, : self.width])
        if len(first) == n:
            return first
        return np.concatenate([first, self.rows(0, n - len(first))])

    def labels(self, start: int, n: int) -> np.ndarray | None:
        """The labels of these rows, None where there is none; None of a table without."""
        names = self.facts["labels"]
        if names is None:
            return None
        codes = self._rows[(start + np.arange(n)) % len(self), self.width]
        values = np.array([*names, None], dtype=object)
        return values[np.where(np.isnan(codes), -1, codes).astype(int)]

    @property
    def width(self) -> int:
        """Columns that are fitted."""
        return self.schema.shape[0]


class Windows:
    """Training rows of a store, of which an epoch takes a window.

    A pass takes all rows once, up to a last window that is not full, in random chunks.

    Arguments:
        store: that they are in
        start: first row
        n: how many follow it, the rows that are held out excepted
    """

    def __init__(self, store: Store, start: int, n: int):
        self.store, self.start, self.n = store, start, n
        most = min(MOST_ROWS, max(1, WINDOW // (4 * store.width)))
        self.whole = n <= most
        self.chunk = max(1, most // CHUNKS)
        self.window = n if self.whole else self.chunk * CHUNKS

    def __len__(self) -> int:
        """Rows that an epoch takes."""
        return self.window

    def of_epoch(self, seed: int, epoch: int) -> "torch.Tensor":
        """The rows (window, f) that an epoch takes, from 0, in the data's units."""
        import torch

        if self.whole:
            return torch.from_numpy(self.store.rows(self.start, self.n))
        a_pass, place = divmod(epoch, self.n // self.window)
        random = numpy_stream(seed, "windows", a_pass)
        shift = self.start + int(random.integers(self.n % self.chunk + 1))
        order = random.permutation(self.n // self.chunk)
        mine = np.sort(order[place * CHUNKS : (place + 1) * CHUNKS])
        parts = [self.store.rows(shift + int(c) * self.chunk, self.chunk) for c in mine]
        return torch.from_numpy(np.concatenate(parts))

    def sample(self) -> "torch.Tensor":
        """A window of rows, always the same, for what is decided before training."""
        import torch

        return torch.from_numpy(self.store.rows(self.start, self.window))

    def parts(self) -> Iterator["torch.Tensor"]:
        """All rows, a window at a time."""
        import torch

        for at in range(0, self.n, self.window):
            n = min(self.window, self.n - at)
            yield torch.from_numpy(self.store.rows(self.start + at, n))

    def for_plan(self) -> np.ndarray:
        """Rows (m, f) that plans are made by: a sample, and those that `survey` found beside it."""
        return np.concatenate([self.sample().numpy(), self.store.extremes])

    def units(self) -> dict[str, tuple[float, ...]]:
        """Mean and standard deviation of each column, over all rows."""
        return {name: tuple(self.store.facts[name]) for name in ("loc", "scale")}


def load_large(source: Any, seed: int = 0, **what: Any) -> Splits:
    """A large table, split; its rows stay on disk, but for a sample of them.

    Arguments:
        source: as for `shards.large_table`
        seed: of the split
        **what: see `splits.Selection`
    """
    selection = Selection(**what)
    for word in ("group", "less", "missing"):
        if getattr(selection, word):
            raise ValueError(
                f"{source} is read in chunks, which --{word} is not for: leave it out."
            )
    text = sorted(selection.as_text(large_table(source).columns))
    table = large_table(source, text, label=selection.label)
    store = Store(stored(table, selection))
    n = len(store)
    held = max(1, min(HELD_OUT, n // 10))
    if n < 3:
        raise ValueError(f"{table.called} has {n} rows, too few to set some aside.")
    start = stream(seed, "data") % n
    parts = [Split(store.rows(at, held), store.labels(at, held)) for at in (start, start + held)]
    train = Windows(store, start + 2 * held, n - 2 * held)
    sample = Split(train.sample().numpy(), store.labels(train.start, len(train)))
    size = (store.folder / "rows.npy").stat().st_size / 1e9
    notes = (*store.facts["notes"], f"its rows are kept in {store.folder} ({size:.1f} GB)")
    name = stem(Path(source)) if isinstance(source, str | Path) else "dataset"
    return Splits(name, sample, parts[1], parts[0], store.schema, notes, train)


def stored(table: LargeTable, what: Selection) -> Path:
    """The folder of the store of a table, which is built where it is not there."""
    place = cache_folder() / "tables" / _key(table, what)
    if not (place / "store.json").is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        output.clean(place.parent)
        aside = output.aside_of(place)
        try:
            build(table, what, aside)
            try:
                aside.rename(place)
            except OSError:  # another process was faster, or what is there is half a store
                if not (place / "store.json").is_file():
                    output.remove(place)
                    aside.rename(place)
        finally:
            output.remove(aside)
    return place


def build(table: LargeTable, what: Selection, folder: Path) -> None:
    """Reads a table twice and writes its store; memory does not grow with it.

    Raises:
        ValueError: data that cannot be learned from, or too little space on the disk.
    """
    found = survey(table, what)
    folder.mkdir()
    _check_space(table, found, folder)
    writer = _Writer(folder, found, _buckets(table, found), what.label)
    shards = [[shard.name, *writer.add(table.called, shard)] for shard in table.shards]
    writer.permute()
    np.save(folder / "extremes.npy", found.extremes)
    schema = found.schema.as_json() | {"missing": writer.missing}
    facts = {
        "format": FORMAT,
        "schema": schema,
        "labels": list(writer.labels) if what.label else None,
        **writer.units(),
        "shards": shards,
        "notes": list(found.notes),
    }
    output.write_json(folder / "store.json", facts)


class _Writer:
    """Rows on their way to a store: each goes to a random bucket, and buckets are permuted."""

    def __init__(self, folder: Path, found: Survey, n_buckets: int, label: str | None):
        self.folder, self.schema, self.label = folder, found.schema, label
        self.n_buckets, self.random = n_buckets, numpy_stream(0, "data", 1)
        self.width = found.schema.shape[0] + bool(label)
        self.labels: dict[Any, int] = {}
        self.missing, self.n = False, 0
        self._counts = np.zeros(self.width)
        self._sums = np.zeros((2, self.width))
        self._around: np.ndarray | None = None

    def add(self, called: str, shard: Any) -> tuple[int, str]:
        """Takes the rows of a shard; returns how many they are, and their digest."""
        digest, before = hashlib.sha256(), self.n
        wanted = [*self.schema.names, *([self.label] if self.label else [])]
        for chunk in shard.read(wanted):
            x = self.schema.encode(chunk, f"{called}, {shard.name}")
            check_finite(x, self.schema.names, missing=True)
            if (bare := np.isnan(x).all(axis=1)).any():
                raise ValueError(
                    f"{called}: {bare.sum()} rows have no values, row {self.n + bare.argmax()} "
                    f"first: drop them."
                )
            self.missing = self.missing or bool(np.isnan(x).any())
            if self.label:
                x = np.column_stack([x, self._codes(chunk[self.label])])
            digest.update(np.ascontiguousarray(x).data)
            self._measure(x)
            self._scatter(x)
            self.n += len(x)
        return self.n - before, digest.hexdigest()

    def units(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each column that is fitted."""
        n, f = np.maximum(self._counts, 1), self.schema.shape[0]
        mean = self._sums[0] / n
        scale = np.sqrt(np.maximum(self._sums[1] / n - mean**2, 0))
        around = self._around if self._around is not None else 0.0
        return {"loc": (around + mean)[:f].tolist(), "scale": scale[:f].tolist()}

    def permute(self) -> None:
        """Writes the rows of all buckets, each permuted, to one file."""
        with open(self.folder / "rows.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.n, self.width)}
            np.lib.format.write_array_header_1_0(file, header)
            for bucket in range(self.n_buckets):
                part = self._bucket(bucket)
                if part.is_file():
                    rows = np.fromfile(part, dtype=np.float32).reshape(-1, self.width)
                    self.random.permutation(rows).tofile(file)
                    part.unlink()

    def _scatter(self, x: np.ndarray) -> None:
        bucket = self.random.integers(self.n_buckets, size=len(x))
        order = np.argsort(bucket, kind="stable")
        ends = np.bincount(bucket, minlength=self.n_buckets).cumsum()
        for number, rows in enumerate(np.split(x[order], ends[:-1])):
            if len(rows):
                with open(self._bucket(number), "ab") as file:
                    rows.astype(np.float32, copy=False).tofile(file)

    def _measure(self, x: np.ndarray) -> None:
        """Sums of what is known, around the mean of the first rows, so that no digits are lost."""
        if self._around is None:
            some = np.where(np.isnan(x), 0, x).sum(0, dtype=np.float64)
            self._around = some / np.maximum((~np.isnan(x)).sum(0), 1)
        moved = x - self._around
        self._counts += (~np.isnan(moved)).sum(0)
        moved[np.isnan(moved)] = 0
        self._sums += [moved.sum(0), (moved**2).sum(0)]

    def _codes(self, column: Any) -> np.ndarray:
        """Labels as numbers in the order in which they come, NaN for none."""
        labels = read_labels(column, is_csv=False)  # `shards` has read the words of CSV files
        has = known(labels)
        codes = [
            self.labels.setdefault(label, len(self.labels)) if has_one else np.nan
            for label, has_one in zip(labels.tolist(), has, strict=True)
        ]
        return np.array(codes, dtype=np.float32)

    def _bucket(self, number: int) -> Path:
        return self.folder / f"bucket-{number}"


def _key(table: LargeTable, what: Selection) -> str:
    """What a store is called: by the table's files, their sizes and times, and what is read."""
    files = [[shard.name, shard.rows, *shard.stamp] for shard in table.shards]
    kinds = what.kinds if isinstance(what.kinds, str | None) else sorted(what.kinds.items())
    asked = [FORMAT, table.columns, files, what.label, sorted(what.drop), kinds, sorted(what.ids)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:20]


def _bytes(table: LargeTable, found: Survey) -> int:
    """About how many bytes the rows take as numbers."""
    if table.rows is not None:
        return 4 * table.rows * (found.schema.shape[0] + 1)
    return sum(shard.stamp[0] if shard.stamp else BUCKET for shard in table.shards)


def _buckets(table: LargeTable, found: Survey) -> int:
    return 1 + _bytes(table, found) // BUCKET


def _check_space(table: LargeTable, found: Survey, folder: Path) -> None:
    needed, free = 2 * _bytes(table, found), shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.parent} has {free / 1e9:.1f} GB of space, and to write the rows of "
            f"{table.called} there takes {needed / 1e9:.1f}: free some, or set XDG_CACHE_HOME to a "
            f"folder on another disk."
        )

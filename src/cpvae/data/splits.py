"""A data source as it was read, and its parts: training, validation, test."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cpvae.data.arrays import BYTES, as_examples
from cpvae.data.checks import check
from cpvae.data.kinds import Kinds
from cpvae.data.schema import Levels, Schema


class Selection(NamedTuple):
    """What is read of a source, and as what.

    Arguments:
        label: column with the labels, kept out of the features
        drop: columns to leave out
        schema: of a fitted model, whose columns are taken; None takes all others
        kinds: of columns, by name, or one for all; numbers that are ``categorical`` are text
        size: (height, width) to bring images to: scaled, and what hangs over cut off evenly
        ids: columns that say which row is which, kept out of the features
        missing: ``model`` to learn which cells are missing, see `gaps`
        group: column whose equal values stay in one part of the split, kept out as well
        less: ends by start, or pairs of both: columns that are never less than another, see `order`
    """

    label: str | None = None
    drop: Sequence[str] = ()
    schema: Schema | None = None
    kinds: Kinds | None = None
    size: tuple[int, int] | None = None
    ids: Sequence[str] = ()
    group: str | None = None
    missing: str | None = None
    less: Mapping[Any, Any] | Sequence[Sequence[Any]] | None = None

    def as_text(self, names: Sequence[str]) -> set[str]:
        """Columns whose cells stay text: categories, and those of a fitted model."""
        said = self.kinds if isinstance(self.kinds, Mapping) else dict.fromkeys(names, self.kinds)
        found = {str(name) for name, kind in said.items() if kind == "categorical"}
        return found | set(self.schema.levels if self.schema else ())

    def named(self) -> list[str]:
        """Columns that are no features, each once."""
        aside = (self.label, *self.drop, self.group, *self.ids)
        return list(dict.fromkeys(name for name in aside if name))


@dataclasses.dataclass(frozen=True)
class Source:
    """All examples of a source.

    Arguments:
        name: for people
        x: examples (n, f) or (n, channels, height, width), float32
        labels: classes (n), for evaluation only
        schema: what the examples consist of; by default that of an array
        rows: names of the n examples, where they have some
        test: which rows (n, bool) the source itself sets aside for testing
        parts: indices of training, validation and test, where the source has canonical ones
        notes: how it was read, where that is not plain, each a sentence
        groups: of the rows (n ints), of which each stays in one part
        table: of pyarrow, with all columns, where it was one
    """

    name: str
    x: np.ndarray
    labels: np.ndarray | None = None
    schema: Schema = None  # type: ignore[assignment]  # set below
    rows: tuple[str, ...] | None = None
    test: np.ndarray | None = None
    parts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    table: Any = None

    def __post_init__(self) -> None:
        if self.schema is None:
            object.__setattr__(self, "schema", Schema(self.x.shape[1:]))

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns, see `Schema`."""
        return self.schema.columns

    @property
    def levels(self) -> Levels:
        """Categories of the columns of text, see `Schema`."""
        return self.schema.levels


def from_array(
    name: str,
    array: np.ndarray,
    called: str,
    labels: np.ndarray | None = None,
    test: np.ndarray | None = None,
    known: Schema | None = None,
) -> Source:
    """A source from an array, see `arrays.as_examples`.

    Arguments:
        name: of the source
        array: numbers (n, ...)
        called: what errors call it
        labels: as for `Source`
        test: as for `Source`
        known: the schema of a fitted model, which says whether its pixels were bytes
    """
    if known and known.less:
        raise ValueError(f"{called} has no names, and the model keeps an order: give a table.")
    x = as_examples(array, called, known is not None and known.pixel_range == BYTES)
    x = known.completed(x) if known else x
    return Source(name, x, labels, known or Schema.of_array(array, x), test=test)


class Split(NamedTuple):
    """Examples (n, ...) as float32 and, where they are known, their labels (n)."""

    x: np.ndarray
    labels: np.ndarray | None

    def tensor(self) -> Any:
        """The examples as a torch tensor that shares their memory."""
        import torch

        return torch.from_numpy(self.x)


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data source, split: ``train`` and ``valid`` for a fit, ``test`` for its evaluation.

    Where it is larger than memory, ``rows`` has all training rows (`store.Windows`), and ``train``
    is a sample of them.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    schema: Schema
    notes: tuple[str, ...] = ()
    rows: Any = None

    @property
    def n_train(self) -> int:
        """Examples for training."""
        return len(self.train.x) if self.rows is None else self.rows.n

    def training(self) -> Any:
        """What is trained on: a torch tensor, or the rows on disk."""
        return self.train.tensor() if self.rows is None else self.rows

    def for_plan(self) -> Any:
        """What a plan is made by: an array, or the rows on disk."""
        return self.train.x if self.rows is None else self.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (f,) for a table, (channels, height, width) for images."""
        return self.schema.shape


def split(
    source: Source, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.1
) -> Splits:
    """Splits at random, or as the source says.

    Arguments:
        source: what was read
        seed: of the order
        validation_fraction: share of the rows that go to validation
        test_fraction: share of the rows that go to the test part, 0 for none; a source with a test
            part of its own keeps that one

    Raises:
        ValueError: data that cannot be learned from, or too few rows.
    """
    check(source.x, source.schema.names)
    n = len(source.x)
    order = np.random.default_rng(seed)
    if source.parts is not None:
        train, valid, test = source.parts
    else:
        own = source.test if source.test is not None else np.zeros(n, dtype=bool)
        rest = order.permutation(np.flatnonzero(~own))
        if source.groups is not None:
            rest = _together(rest, source.groups)
        n_valid = max(1, round(validation_fraction * len(rest)))
        if source.test is not None:
            test = np.flatnonzero(own)
        else:
            n_test = max(1, round(test_fraction * len(rest))) if test_fraction else 0
            test, rest = _cut(rest, n_test, source.groups)
        valid, train = _cut(rest, n_valid, source.groups)
    if not min(len(train), len(valid), len(test) if test_fraction else 1):
        if source.groups is not None:
            raise ValueError(
                f"{source.name} has {len(np.unique(source.groups))} groups in {n} rows, too few to "
                f"set some aside for validation and test: leave out --group."
            )
        raise ValueError(
            f"{source.name} has {n} rows, too few to set some aside for validation and test: "
            f"bring at least 3, and some hundreds for a model worth having."
        )

    def part(index: np.ndarray) -> Split:
        labels = None if source.labels is None else source.labels[index]
        return Split(np.ascontiguousarray(source.x[index]), labels)

    schema = dataclasses.replace(source.schema, missing=bool(np.isnan(source.x).any()))
    return Splits(source.name, part(train), part(valid), part(test), schema, source.notes)


def _together(order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows in an order in which those of a group follow one another, groups as they come."""
    _, first, of_each = np.unique(groups[order], return_index=True, return_inverse=True)
    return order[np.argsort(first[of_each], kind="stable")]


def _cut(order: np.ndarray, n: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` rows and the others, at a place where no group is cut: the nearest."""
    if groups is not None and n:
        ends = np.flatnonzero(np.diff(groups[order])) + 1
        n = int(ends[np.abs(ends - n).argmin()]) if len(ends) else 0
    return order[:n], order[n:]

"""A data source as it was read, and its parts: training, validation, test."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cpvae.data.arrays import BYTES, as_examples
from cpvae.data.checks import check
from cpvae.data.schema import Levels, Schema


class Selection(NamedTuple):
    """What is read of a source, and as what.

    Arguments:
        label: column with the labels, kept out of the features
        drop: columns to leave out
        schema: of a fitted model, whose columns are taken; None takes all others
        categorical: columns of numbers to read as text
        size: (height, width) to bring images to: scaled, and what hangs over cut off evenly
    """

    label: str | None = None
    drop: Sequence[str] = ()
    schema: Schema | None = None
    categorical: Sequence[str] = ()
    size: tuple[int, int] | None = None


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
    """

    name: str
    x: np.ndarray
    labels: np.ndarray | None = None
    schema: Schema = None  # type: ignore[assignment]  # set below
    rows: tuple[str, ...] | None = None
    test: np.ndarray | None = None
    parts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()

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
    x = as_examples(array, called, known is not None and known.pixel_range == BYTES)
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
        n_valid = max(1, round(validation_fraction * len(rest)))
        if source.test is not None:
            test = np.flatnonzero(own)
        else:
            n_test = max(1, round(test_fraction * len(rest))) if test_fraction else 0
            test, rest = rest[:n_test], rest[n_test:]
        valid, train = rest[:n_valid], rest[n_valid:]
    if not min(len(train), len(valid), len(test) if test_fraction else 1):
        raise ValueError(
            f"{source.name} has {n} rows, too few to set some aside for validation and test: "
            f"bring at least 3, and some hundreds for a model worth having."
        )

    def part(index: np.ndarray) -> Split:
        labels = None if source.labels is None else source.labels[index]
        return Split(np.ascontiguousarray(source.x[index]), labels)

    schema = dataclasses.replace(source.schema, missing=bool(np.isnan(source.x).any()))
    return Splits(source.name, part(train), part(valid), part(test), schema, source.notes)

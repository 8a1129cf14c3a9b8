"""A data source as it was read, before it is split."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cpvae.data.levels import Levels


class Selection(NamedTuple):
    """What is read of a source, and as what.

    Arguments:
        label: column with the labels, kept out of the features
        drop: columns to leave out
        columns: columns to take, by name and in this order; None takes all others
        levels: categories of columns of text that a model knows, and of no other column; None
            takes those that occur
        categorical: columns of numbers to read as text
        size: (height, width) to bring images to: scaled, and what hangs over cut off evenly
    """

    label: str | None = None
    drop: Sequence[str] = ()
    columns: Sequence[str] | None = None
    levels: Levels | None = None
    categorical: Sequence[str] = ()
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """All examples of a source.

    Arguments:
        name: for people
        x: examples (n, f) or (n, channels, height, width), float32
        labels: classes (n), for evaluation only
        columns: names of the f columns of a table
        levels: categories of the columns of text, whose values in ``x`` are their numbers
        rows: names of the n examples, where they have some
        test: which rows (n, bool) the source itself sets aside for testing
        parts: indices of training, validation and test, where the source has canonical ones
    """

    name: str
    x: np.ndarray
    labels: np.ndarray | None = None
    columns: tuple[str, ...] | None = None
    levels: Levels | None = None
    rows: tuple[str, ...] | None = None
    test: np.ndarray | None = None
    parts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

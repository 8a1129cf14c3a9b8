"""A data source as it was read, before it is split."""

import dataclasses

import numpy as np

from cpvae.data.levels import Levels


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

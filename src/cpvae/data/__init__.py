"""Data sources: a name or a file in, training, validation and test splits out."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpvae.data.checks import check
from cpvae.data.files import read_file, readable
from cpvae.data.levels import Levels
from cpvae.data.mnist import load_mnist
from cpvae.data.objects import annotate, read_object
from cpvae.data.omniglot import load_omniglot
from cpvae.data.source import Selection, Source

__all__ = ["NAMED", "Split", "Splits", "annotate", "check", "load", "load_digits", "read", "split"]


class Split(NamedTuple):
    """Examples (n, ...) as float32 and, where they are known, their labels (n)."""

    x: np.ndarray
    labels: np.ndarray | None

    def tensor(self):
        """The examples as a torch tensor that shares their memory."""
        import torch

        return torch.from_numpy(self.x)


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data source, split: ``train`` and ``valid`` for `fit`, ``test`` for `evaluate`."""

    name: str
    train: Split
    valid: Split
    test: Split
    columns: tuple[str, ...] | None = None
    levels: Levels | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (f,) for a table, (channels, height, width) for images."""
        return self.train.x.shape[1:]

    @property
    def missing(self) -> bool:
        """Whether values are missing (NaN) in any part."""
        return any(np.isnan(part.x).any() for part in (self.train, self.valid, self.test))


def load_digits() -> Source:
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    x = (digits.images / 16).astype(np.float32)[:, np.newaxis]
    return Source("digits", x, digits.target)


NAMED = {"digits": load_digits, "mnist": load_mnist, "omniglot": load_omniglot}


def load(source: Any, seed: int = 0, **what: Any) -> Splits:
    """Loads a data source and splits it.

    Arguments:
        source: a name in `NAMED`, a .npz, .npy, .csv or .parquet file, a folder of images, or an
            object in memory, see `objects.read_object`
        seed: of the split, where the source does not come with one
        **what: of the source to read: ``label``, ``drop`` and others, see `source.Selection`

    Raises:
        ValueError: no such source, or data that cannot be learned from; says what to do.
    """
    return split(read(source, **what), seed)


def read(source: Any, **what: Any) -> Source:
    """Loads a data source whole; arguments and errors as for `load`."""
    selection = Selection(**what)
    if not isinstance(source, str | Path):
        return read_object(source, selection)
    if str(source) in NAMED:
        if any((selection.label, selection.drop, selection.categorical, selection.size)):
            raise ValueError(
                f"{source} is taken as it is: leave out --label, --drop, --kind and --size."
            )
        return NAMED[str(source)]()
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"{source} is neither a file nor a folder here nor a data set that is known by name "
            f"({', '.join(NAMED)}). Files may be {readable()}."
        )
    return read_file(path, selection)


def split(source: Source, seed: int = 0) -> Splits:
    """Splits 80 : 10 : 10 at random, or as the source says.

    A source with a test part of its own keeps it and gives a tenth of the rest to validation.

    Raises:
        ValueError: data that cannot be learned from.
    """
    check(source.x, source.columns)
    n = len(source.x)
    rng = np.random.default_rng(seed)
    if source.parts is not None:
        train, valid, test = source.parts
    else:
        test = source.test if source.test is not None else np.zeros(n, dtype=bool)
        rest = rng.permutation(np.flatnonzero(~test))
        held = max(1, round(0.1 * len(rest)))
        if source.test is not None:
            test = np.flatnonzero(test)
        else:
            test, rest = rest[:held], rest[held:]
        valid, train = rest[:held], rest[held:]
    if not min(len(train), len(valid), len(test)):
        raise ValueError(
            f"{source.name} has {n} rows, too few to set some aside for validation and test: "
            f"bring at least 3, and some hundreds for a model worth having."
        )

    def part(index: np.ndarray | slice) -> Split:
        labels = None if source.labels is None else source.labels[index]
        return Split(np.ascontiguousarray(source.x[index]), labels)

    return Splits(source.name, part(train), part(valid), part(test), source.columns, source.levels)

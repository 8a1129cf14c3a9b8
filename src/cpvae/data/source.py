"""Where data comes from: a name, a file or an object in memory goes in, splits come out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.choices import MISSINGS, choose
from cpvae.data.files import read_file, readable
from cpvae.data.gaps import with_gaps
from cpvae.data.mnist import load_mnist
from cpvae.data.objects import read_object
from cpvae.data.omniglot import load_omniglot
from cpvae.data.schema import Schema
from cpvae.data.shards import is_large
from cpvae.data.splits import Selection, Source, Splits, split
from cpvae.data.store import load_large


def load_digits() -> Source:
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    x = (digits.images / 16).astype(np.float32)[:, np.newaxis]
    return Source("digits", x, digits.target)


NAMED = {"digits": load_digits, "mnist": load_mnist, "omniglot": load_omniglot}


def load(source: Any, seed: int = 0, in_chunks: bool | None = None, **what: Any) -> Splits:
    """Loads a data source and splits it 80 : 10 : 10, or as the source says.

    Arguments:
        source: a name in `NAMED`, a .npz, .npy, .csv or .parquet file, a folder of images, or an
            object in memory, see `objects.read_object`
        seed: of the split, where the source does not come with one
        in_chunks: whether it is read in chunks, and kept on disk; by default what `shards.is_large`
        **what: of the source to read: ``label``, ``drop`` and others, see `splits.Selection`

    Raises:
        ValueError: no such source, or data that cannot be learned from; says what to do.
    """
    if is_large(source) if in_chunks is None else in_chunks:
        return load_large(source, seed, **{k: v for k, v in what.items() if k != "size"})
    return split(read(source, **what), seed)


def read(
    source: Any,
    columns: Sequence[str] | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
    **what: Any,
) -> Source:
    """Loads a data source whole; other arguments and errors as for `load`.

    Arguments:
        source: as for `load`
        columns: of a table, to take these alone and in this order, as numbers or as ``levels`` say:
            those of another source, so that its rows and these are read alike
        levels: categories of the columns of text, by name
        **what: as for `load`
    """
    if columns is not None:
        known = {name: list(of) for name, of in (levels or {}).items()}
        what["schema"] = Schema((len(columns),), tuple(columns), known)
    selection = Selection(**what)
    if selection.missing:
        choose("missing", selection.missing, MISSINGS)
    found = _read(source, selection)
    if columns is not None and found.table is None:
        raise ValueError(f"{found.name} is no table: leave out columns.")
    return with_gaps(found) if selection.missing == "model" and not selection.schema else found


def _read(source: Any, selection: Selection) -> Source:
    if not isinstance(source, str | Path):
        return read_object(source, selection)
    if str(source) in NAMED:
        asked = selection.named() or selection.size or selection.less
        if asked or "categorical" in str(selection.kinds):
            raise ValueError(
                f"{source} is taken as it is: leave out --label, --drop, --id, --group, --less, "
                f"--size and --kind COLUMN=categorical."
            )
        return NAMED[str(source)]()
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"{source} is neither a file nor a folder here nor a data set that is known by name "
            f"({', '.join(NAMED)}). Files may be {readable()}."
        )
    return read_file(path, selection)

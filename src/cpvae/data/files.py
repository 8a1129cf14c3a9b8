"""Files: arrays, tables, images and folders of them. Their ending says how they are read."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.choices import ARRAYS, COMPRESSED, TABLES, stem
from cpvae.data import packed
from cpvae.data.encoding import encode_table
from cpvae.data.ids import notes_of, texts_of
from cpvae.data.images import IMAGES, read_images
from cpvae.data.labels import read_labels
from cpvae.data.order import pairs_of
from cpvae.data.splits import Selection, Source, from_array
from cpvae.data.tables import Read, ending_of, is_parquet, read_table, unreadable

TEXT = (".csv", ".tsv", ".txt")  # files in which NA may stand for a missing label
X_KEYS, Y_KEYS = ("x", "X", "data", "images", "features"), ("y", "Y", "labels", "target", "label")


def readable() -> str:
    """The kinds of file, for error texts."""
    return f"{', '.join((*ARRAYS, *TABLES))}, an image, or a folder of images"


def read_file(path: Path, what: Selection) -> Source:
    """Reads a file, an image or a folder of either; the ending says how.

    Raises:
        ValueError: an unknown ending, a file that is empty, truncated or not what its ending says,
            text that is no category, images of different sizes, a column that is not there.
        ModuleNotFoundError: an optional package is needed for this ending.
    """
    packed.check_is_file(path)
    ending = ending_of(path)
    is_table = (ending in TABLES and not path.is_dir()) or is_parquet(path)
    if not is_table and (what.named() or what.less or isinstance(what.kinds, dict)):
        raise ValueError(
            f"{path} is not a table with named columns: leave out --label, --drop, --id, --group, "
            f"--less and --kind COLUMN=KIND."
        )
    if path.is_dir() and not is_table:
        return read_images(path, what)
    if ending in IMAGES:
        return read_images(path.parent, what, [path])
    if what.size:
        raise ValueError(f"{path} is not a folder of images: leave out --size.")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file.")
    if is_table:
        return from_table(path, read_table(path, what), what)
    if path.suffix.lower() in ARRAYS:
        return READERS[path.suffix.lower()](path, what)
    hint = f" (tables also packed: {', '.join(COMPRESSED)})" * (path.suffix in COMPRESSED)
    raise ValueError(f"{path} ends in {ending or 'nothing'!r}: use {readable()}{hint}.")


def _read_npy(path: Path, what: Selection) -> Source:
    try:
        array = packed.read_npy(path)
    except packed.ERRORS as error:
        raise unreadable(path, error) from error
    return from_array(path.stem, array, str(path), known=what.schema)


def _read_npz(path: Path, what: Selection) -> Source:
    try:
        arrays = packed.read_npz(path)
    except packed.ERRORS as error:
        raise unreadable(path, error) from error

    def first(keys: Sequence[str]) -> np.ndarray | None:
        return next((arrays[key] for key in keys if key in arrays), None)

    x_train, x_test = first([f"{k}_train" for k in X_KEYS]), first([f"{k}_test" for k in X_KEYS])
    if x_train is None:
        x = first(X_KEYS) if len(arrays) > 1 else next(iter(arrays.values()), None)
        if x is None:
            raise ValueError(
                f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: name the examples 'x', or "
                f"'x_train' and 'x_test' (and labels 'y', or 'y_train' and 'y_test')."
            )
        labels, test = first(Y_KEYS), None
    else:
        y_train, y_test = (
            first([f"{k}_train" for k in Y_KEYS]),
            first([f"{k}_test" for k in Y_KEYS]),
        )
        if not x_train.ndim:
            raise ValueError(f"{path}: its training examples are one number.")
        parts = [x_train] if x_test is None else [x_train, x_test]
        if any(part.shape[1:] != x_train.shape[1:] for part in parts):
            raise ValueError(f"{path}: its training and test examples differ in shape.")
        x, labels = np.concatenate(parts), y_train
        test = None
        if x_test is not None:
            test = np.arange(len(x)) >= len(x_train)
            labels = (
                None if y_train is None or y_test is None else np.concatenate([y_train, y_test])
            )
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"{path} has {len(x)} examples and labels of shape {labels.shape}.")
    return from_array(path.stem, x, str(path), labels, test, what.schema)


def from_table(path: Path, read: Read, what: Selection) -> Source:
    """Examples from a table of pyarrow; ``path`` is what errors call it. As for `read_file`."""
    table, names = read.table, read.table.column_names
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"{path} has several columns named {', '.join(twice)}: rename them.")
    aside = what.named()
    for name in aside:
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}: it has {', '.join(names)}.")
    labels = read_labels(table[what.label], ending_of(path) in TEXT) if what.label else None
    if what.schema:
        x, schema, notes = what.schema.encode(table, str(path)), what.schema, read.notes
    else:
        ids = {*what.ids, *([what.group] if what.group else [])} - {what.label, *what.drop}
        fitted = table.drop_columns([name for name in aside if name not in ids])
        n = fitted.num_columns - len(ids)
        if not n or not table.num_rows:
            raise ValueError(f"{path} is empty: {table.num_rows} rows of {n} features.")
        x, schema = encode_table(fitted, str(path), what.kinds, ids, pairs_of(what.less))
        notes = (*read.notes, *notes_of(schema.left_out, schema.names, schema.forms))
    rows = next((texts_of(table[name]) for name in schema.ids if name in names), None)
    groups = _groups(table[what.group]) if what.group else None
    return Source(stem(path), x, labels, schema, rows, notes=notes, groups=groups, table=table)


def _groups(column: Any) -> np.ndarray:
    """The number of the group of each row (n); a row without one is a group of its own."""
    encoded = column.combine_chunks().dictionary_encode()
    found = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = np.flatnonzero(found < 0)
    found[alone] = len(encoded.dictionary) + np.arange(len(alone))
    return found


READERS = {".npz": _read_npz, ".npy": _read_npy}

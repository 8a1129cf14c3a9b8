"""Data that is in memory already: frames, Hugging Face data sets, AnnData, PyTorch data sets.

None of these packages is imported here; an object brings its own.
"""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.choices import MISSINGS, choose
from cpvae.data import ids
from cpvae.data.checks import single
from cpvae.data.columns import Form
from cpvae.data.encoding import encode_table
from cpvae.data.files import from_table
from cpvae.data.frames import as_arrow, package_of, with_dtypes
from cpvae.data.gaps import with_gaps
from cpvae.data.images import page_of, stacked
from cpvae.data.kinds import Kinds
from cpvae.data.schema import Schema
from cpvae.data.shards import ROWS
from cpvae.data.splits import Selection, Source, from_array
from cpvae.data.tables import Read


def read_object(data: Any, what: Selection) -> Source:
    """Reads an object in memory.

    Arguments:
        data: a frame of pandas or polars, a table of pyarrow, a `datasets.Dataset` of columns or of
            one image each, an AnnData (cells by genes; the label is a column of ``obs``), an array,
            or a PyTorch data set whose items are examples or pairs (example, label)
        what: of it to read

    Raises:
        ValueError: an object of another kind, or data that is refused from a file as well.
    """
    package, kind = type(data).__module__.split(".")[0], type(data).__name__
    if package == "anndata":
        return _from_anndata(data, what)
    if package == "datasets" and hasattr(data, "features"):
        images = [name for name, is_a in data.features.items() if type(is_a).__name__ == "Image"]
        if images:
            return _from_images(data, images[0], what)
        return from_table(Path(kind), Read(data.with_format("arrow")[:]), what)
    table = as_arrow(data)
    if table is not None:
        source, of = from_table(Path(kind), Read(table), what), package_of(data)
        if what.schema or not of:
            return source
        kept = [name for name in data.columns if str(name) in source.schema.names]
        return dataclasses.replace(source, schema=_of_frame(source.schema, data[kept], of))
    if what.named() or what.less:
        raise ValueError(
            f"A {kind} has no columns to name: leave out label, drop, ids, group and less."
        )
    if isinstance(data, np.ndarray):
        return from_array(kind, data, "the array")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict):
        return _from_items(data, kind)
    raise ValueError(
        f"A {kind} cannot be read: use an array, a frame of pandas or polars, a Hugging Face or "
        f"PyTorch data set with a length, or an AnnData."
    )


def read_rows(
    estimator: Any, X: Any, known: Schema | None, kinds: Kinds | None, missing: str | None = None
) -> tuple[np.ndarray, Schema]:
    """What an estimator is given, as examples in single precision, and their schema.

    Arguments:
        estimator: whose features it must have; it remembers them where no schema is known
        X: an array, or a frame, whose columns that are left out it may have or not
        known: the schema of the fitted model
        kinds: of columns, as for `CPVAE`
        missing: ``model`` for columns that say what is missing, if no schema is known

    Warns:
        UserWarning: a column that is left out, or levels that are pooled or not known.

    Raises:
        ValueError: data of another form, or that cannot be learned from.
    """
    x, schema = _read_rows(estimator, X, known, kinds)
    if missing and not known:
        choose("missing", missing, MISSINGS)
    if known or missing != "model":
        return x, schema
    source = with_gaps(Source("X", x, schema=schema))
    return source.x, source.schema


def _read_rows(
    estimator: Any, X: Any, known: Schema | None, kinds: Kinds | None
) -> tuple[np.ndarray, Schema]:
    from sklearn.utils.validation import validate_data

    table, reset = as_arrow(X), known is None
    by_name = isinstance(kinds, Mapping) and "categorical" in kinds.values()
    if table is None and not (known.levels if known else by_name or kinds == "categorical"):
        source = from_array("", checked_array(estimator, X, reset), "X", known=known)
        return source.x, source.schema
    X = X if table is None or package_of(X) else table  # of pyarrow, without an index
    found = None if known else encode_frame(X, kinds=kinds)
    schema = found[1] if found else known
    assert schema is not None
    validate_data(estimator, without(X, schema.left_out), reset=reset, skip_check_array=True)
    for note in ids.notes_of(schema.left_out, schema.names, schema.forms) if reset else ():
        warnings.warn(note, stacklevel=5)
    return found or encode_frame(X, known)


def encode_frame(
    X: Any, known: Schema | None = None, kinds: Kinds | None = None
) -> tuple[np.ndarray, Schema]:
    """A frame, or an array with categorical columns, as numbers (n, f), and its schema.

    Arguments:
        X: a frame of pandas or polars, a table of pyarrow, or an array (n, f)
        known: the schema of a fitted model; by default the frame's own is made
        kinds: of columns, by name, or one for all
    """
    table, called = as_arrow(X), type(X).__name__
    if table is None:
        import pyarrow

        columns = np.asarray(X).T
        table = pyarrow.table({str(i): column for i, column in enumerate(columns)})
        if not known:  # columns without names are no ids
            said = kinds if isinstance(kinds, Mapping) else {}
            said = {str(name): kind for name, kind in said.items()}
            every = kinds if isinstance(kinds, str) else "number"
            kinds = {name: said.get(name, every) for name in table.column_names}
    if known:
        return known.encode(table, called), known
    x, schema = encode_table(table, called, kinds)
    package = package_of(X)
    if package:
        return x, _of_frame(schema, without(X, schema.left_out), package)
    return x, schema if as_arrow(X) is not None else dataclasses.replace(schema, columns=None)


def without(X: Any, names: Collection[str]) -> Any:
    """A frame or a table of pyarrow without some columns, where it has them."""
    kept = [name for name in getattr(X, "columns", ()) if str(name) not in names]
    if not names or not package_of(X):
        of_arrow = hasattr(X, "drop_columns")
        return X.drop_columns([n for n in names if n in X.column_names]) if of_arrow else X
    return X[kept]


def _of_frame(schema: Schema, frame: Any, package: str) -> Schema:
    """The schema of a frame with what only the frame knows: dtypes, and names that are no text."""
    forms = with_dtypes(frame, schema.forms)
    schema = dataclasses.replace(schema, frame=package, forms=forms)
    return schema if package == "polars" else _labelled(schema, frame.columns)


def _labelled(schema: Schema, columns: Any) -> Schema:
    """The schema with names of columns of pandas that are no text: numbers, or several levels."""
    labels = [_plain(label) for label in columns]
    names = tuple(columns.names) if any(name is not None for name in columns.names) else ()
    if not all(name is None or isinstance(name, str) for name in names):
        names = ()
    texts = all(isinstance(label, str) for label in labels)
    kept = () if texts or None in labels else tuple(labels)
    return dataclasses.replace(schema, labels=kept, label_names=names)


def _plain(label: Any) -> Any:
    """A name of a column as values that JSON knows, or None."""
    if isinstance(label, tuple):
        parts = tuple(map(_plain, label))
        return None if None in parts else parts
    label = label.item() if isinstance(label, np.generic) else label
    return label if isinstance(label, str | int | float) else None


def checked_array(estimator: Any, X: Any, reset: bool) -> np.ndarray:
    """What scikit-learn's checks make of an array ``X``; those of this project follow.

    Arguments:
        estimator: whose features it must have, or which remembers them where ``reset``
        X: examples (n, f), (n, height, width) or (n, channels, height, width)
        reset: whether it is fitted to them

    Raises:
        ValueError: text, another number of features, or a single example to fit to.
    """
    from sklearn.utils import check_array
    from sklearn.utils.validation import validate_data

    how: dict[str, Any] = {"dtype": "numeric", "ensure_all_finite": False}
    if reset:
        how["ensure_min_samples"] = 2
    n_axes = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
    if n_axes > 2:  # the axes of images are no samples and features
        return check_array(X, allow_nd=True, **how)
    try:
        return validate_data(estimator, X, reset=reset, **how)
    except ValueError as error:
        if n_axes != 2 or np.asarray(X).dtype.kind not in "OUS":
            raise
        raise ValueError(
            f"X does not hold numbers alone ({error}): give a frame of pandas or polars, whose "
            f"columns of text become categories."
        ) from error


def annotate(cells: Any, estimator: Any, key: str = "cpvae") -> None:
    """Writes what a fitted `CPVAE` says of the cells of an AnnData into it.

    Codes go to ``obsm["X_key"]``, components to ``obs["key"]`` and the probability of each cell's
    component to ``obs["key_probability"]``.
    """
    codes, of_each = [], []
    for start in range(0, cells.n_obs, ROWS):  # a backed one may be larger than memory
        part = cells[start : start + ROWS]
        x = _from_anndata(part.to_memory() if cells.isbacked else part, Selection()).x
        codes.append(estimator.transform(x))
        of_each.append(estimator.predict_proba(x))
    probs = np.concatenate(of_each)
    cells.obsm[f"X_{key}"] = np.concatenate(codes)
    cells.obs[key] = probs.argmax(1)
    cells.obs[f"{key}_probability"] = probs.max(1)


def _from_anndata(cells: Any, what: Selection) -> Source:
    label = what.label
    if label and label not in cells.obs:
        raise ValueError(f"obs has no column {label!r}: it has {', '.join(cells.obs)}.")
    genes = list(cells.var_names)
    columns = what.schema.columns if what.schema else None
    for name in (*what.drop, *(columns or ())):
        if name not in genes:
            raise ValueError(f"The AnnData has no variable {name!r}.")
    kept = list(columns or [gene for gene in genes if gene not in set(what.drop)])
    x = cells[:, kept].X
    x = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
    labels = np.asarray(cells.obs[label]) if label else None
    rows = tuple(map(str, cells.obs_names))
    forms = tuple(Form.of_numbers(column, 7) for column in x.T)
    schema = Schema((len(kept),), tuple(kept), forms=forms)
    return Source("AnnData", single(x, "X"), labels, schema, rows)


def _from_images(data: Any, column: str, what: Selection) -> Source:
    label = what.label
    if label is None and "label" in data.column_names:
        label = "label"
    if label and label not in data.column_names:
        raise ValueError(f"There is no column {label!r}: there are {', '.join(data.column_names)}.")
    pages = [page_of(image, what.size) for image in data[column]]
    x, schema = stacked(pages, f"column {column}", what.schema)
    return Source(column, x, np.asarray(data[label]) if label else None, schema)


def _from_items(data: Any, kind: str) -> Source:
    items = [data[i] for i in range(len(data))]
    pairs = bool(items) and isinstance(items[0], tuple) and len(items[0]) == 2
    arrays = [np.asarray(item[0] if pairs else item) for item in items]
    labels = np.array([np.asarray(item[1]) for item in items]) if pairs else None
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise ValueError(
            f"The examples have {len(shapes)} different shapes, such as {sorted(shapes)[:3]}: "
            f"bring them to one."
        )
    return from_array(kind, np.stack(arrays), "the data set", labels)

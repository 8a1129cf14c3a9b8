"""Data that is in memory already: frames, Hugging Face data sets, AnnData, PyTorch data sets.

None of these packages is imported here; an object brings its own.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.data.checks import single
from cpvae.data.files import as_examples, from_table, pixels
from cpvae.data.schema import Schema, encode_table
from cpvae.data.splits import Selection, Source


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
        return from_table(Path(kind), data.with_format("arrow")[:], what)
    table = as_arrow(data)
    if table is not None:
        return from_table(Path(kind), table, what)
    if what.label or what.drop:
        raise ValueError(f"A {kind} has no columns to name: leave out label and drop.")
    if isinstance(data, np.ndarray):
        return Source(kind, as_examples(data, "the array"))
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict):
        return _from_items(data, kind)
    raise ValueError(
        f"A {kind} cannot be read: use an array, a frame of pandas or polars, a Hugging Face or "
        f"PyTorch data set with a length, or an AnnData."
    )


def as_arrow(data: Any) -> Any | None:
    """A frame of pandas or polars as a table of pyarrow; None for an object of another kind.

    Raises:
        ValueError: a column with values of several types.
    """
    package, kind = type(data).__module__.split(".")[0], type(data).__name__
    if package == "pandas" and kind == "DataFrame":
        import pyarrow

        try:
            return pyarrow.Table.from_pandas(data, preserve_index=False)
        except pyarrow.ArrowException as error:
            for name, column in data.items():
                if len(types := sorted({type(v).__name__ for v in column.dropna()})) > 1:
                    raise ValueError(
                        f"Column {name} holds values of the types {', '.join(types)}: make it all "
                        f"text or all numbers."
                    ) from error
            raise ValueError(f"The frame cannot be read: {error}.") from error
    if package == "polars" and kind == "DataFrame":
        return data.to_arrow()
    return data if package == "pyarrow" and kind == "Table" else None


def encode_frame(
    X: Any, known: Schema | None, categorical: Sequence[str], names: Sequence[str]
) -> tuple[np.ndarray, Schema]:
    """A frame, or an array with categorical columns, as numbers (n, f), and its schema.

    Arguments:
        X: a frame of pandas or polars, a table of pyarrow, or an array (n, f)
        known: the schema of a fitted model; by default the frame's own is made
        categorical: columns of numbers to read as text
        names: of the columns, as scikit-learn has them; empty where they have none
    """
    table, called = as_arrow(X), type(X).__name__
    if table is None:
        import pyarrow

        columns = np.asarray(X).T
        table = pyarrow.table({str(i): column for i, column in enumerate(columns)})
    if known:
        return known.encode(table, called), known
    x, schema = encode_table(table, called, categorical=categorical)
    package = type(X).__module__.split(".")[0]
    schema = dataclasses.replace(
        schema,
        columns=tuple(map(str, names)) or None,
        frame=package if package in ("pandas", "polars") else None,
    )
    return x, schema


def fill_missing(frame: Any, missing: np.ndarray, filling: Any) -> Any:
    """A frame of pandas or polars with its ``missing`` cells (n, f) taken from another one.

    Cells that are there stay as they are, to the last bit.
    """
    if hasattr(frame, "mask"):  # of pandas
        return frame.mask(missing, type(frame)(filling.to_dict("list"), index=frame.index))
    kept = (
        frame[name].zip_with(
            type(frame[name])(~missing[:, i]), filling[name].cast(frame[name].dtype)
        )
        for i, name in enumerate(frame.columns)
    )
    return frame.with_columns(kept)


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
    x = _from_anndata(cells, Selection()).x
    probs = estimator.predict_proba(x)
    cells.obsm[f"X_{key}"] = estimator.transform(x)
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
    schema = Schema((len(kept),), tuple(kept))
    return Source("AnnData", single(x, "X"), labels, schema, rows)


def _from_images(data: Any, column: str, what: Selection) -> Source:
    label = what.label
    if label is None and "label" in data.column_names:
        label = "label"
    if label and label not in data.column_names:
        raise ValueError(f"There is no column {label!r}: there are {', '.join(data.column_names)}.")
    arrays = [pixels(image, what.size) for image in data[column]]
    return Source(column, _stacked(arrays), np.asarray(data[label]) if label else None)


def _from_items(data: Any, kind: str) -> Source:
    items = [data[i] for i in range(len(data))]
    pairs = bool(items) and isinstance(items[0], tuple) and len(items[0]) == 2
    arrays = [np.asarray(item[0] if pairs else item) for item in items]
    labels = np.array([np.asarray(item[1]) for item in items]) if pairs else None
    return Source(kind, _stacked(arrays), labels)


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise ValueError(
            f"The examples have {len(shapes)} different shapes, such as {sorted(shapes)[:3]}: "
            f"bring them to one."
        )
    return as_examples(np.stack(arrays), "the data set")

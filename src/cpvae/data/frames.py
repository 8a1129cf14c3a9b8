"""Frames of pandas and polars as tables of pyarrow, and drawn rows as frames like those.

Neither package is imported here before a frame of it is asked for.
"""

import dataclasses
import decimal
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpvae.data.columns import Form
from cpvae.extras import need

PACKAGES = ("pandas", "polars")
INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name


def package_of(data: Any) -> str | None:
    """The package of a frame, also of one whose class inherits from it; None of all else."""
    for parent in type(data).__mro__:
        package = parent.__module__.split(".")[0]
        if parent.__name__ == "DataFrame" and package in PACKAGES:
            return package
    return None


def is_table(data: Any) -> bool:
    """Whether an object is a frame, or a table of pyarrow."""
    return package_of(data) is not None or type(data).__module__.split(".")[0] == "pyarrow"


def as_arrow(data: Any) -> Any | None:
    """A frame of pandas or polars as a table of pyarrow; None for an object of another kind.

    Columns are named by the text of their names, categories by theirs.

    Raises:
        ValueError: a column with values of several types, or two of one name.
    """
    package = package_of(data)
    if package == "pandas":
        return _pandas_as_arrow(data)
    if package == "polars":
        return data.to_arrow()
    if is_table(data):
        import pyarrow

        if isinstance(data, pyarrow.RecordBatch):
            data = pyarrow.Table.from_batches([data])
        return data.drop_columns(index_of(data)) if isinstance(data, pyarrow.Table) else None
    return None


def index_of(table: Any) -> list[str]:
    """The columns of a table of pyarrow that are the index of the frame of pandas it comes from."""
    stored = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in table.column_names if name in stored or INDEX.fullmatch(name)]


def _pandas_as_arrow(frame: Any) -> Any:
    import pandas
    import pyarrow

    names = [str(label) for label in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"The frame has several columns named {', '.join(twice)}: rename them.")
    arrays = []
    for i, name in enumerate(names):
        column = frame.iloc[:, i]
        if isinstance(column.dtype, pandas.SparseDtype):
            column = column.sparse.to_dense()
        elif isinstance(column.dtype, pandas.CategoricalDtype):
            column = column.cat.rename_categories(_texts_of(column.dtype.categories))
        elif isinstance(column.dtype, pandas.PeriodDtype):
            column = column.dt.to_timestamp()
        try:
            arrays.append(pyarrow.Array.from_pandas(column))
        except (pyarrow.ArrowException, TypeError, ValueError) as error:
            types = sorted({type(value).__name__ for value in column.dropna()})
            if len(types) > 1:
                raise ValueError(
                    f"Column {name} holds values of the types {', '.join(types)}: make it all "
                    f"text or all numbers."
                ) from error
            reason = str(error).splitlines()[0]
            raise ValueError(f"Column {name} cannot be read ({reason}): drop it.") from error
    return pyarrow.table(dict(zip(names, arrays, strict=True)))


def _texts_of(categories: Any) -> Any:
    """Categories as they are read: numbers, booleans and text stay, all else is its text."""
    import pandas
    from pandas.api import types

    plain = types.is_numeric_dtype(categories) or types.is_string_dtype(categories)
    return categories if plain else pandas.Index([str(category) for category in categories])


def with_dtypes(frame: Any, forms: Sequence[Form]) -> tuple[Form, ...]:
    """The forms of the columns of a frame, with their dtypes."""
    if package_of(frame) == "polars":
        return tuple(
            dataclasses.replace(form, **_of_polars_dtype(dtype))
            for form, dtype in zip(forms, frame.dtypes, strict=True)
        )
    return tuple(
        dataclasses.replace(form, **_of_pandas_dtype(frame.iloc[:, i]))
        for i, form in enumerate(forms)
    )


def _of_pandas_dtype(column: Any) -> dict[str, Any]:
    import pandas

    dtype = column.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return {
            "dtype": "category",
            "categories": tuple(map(str, dtype.categories)),
            "of_categories": str(dtype.categories.dtype),
            "ordered": bool(dtype.ordered),
        }
    if dtype == np.dtype(object) and pandas.api.types.infer_dtype(column) == "decimal":
        return {"dtype": "decimal"}
    return {"dtype": str(dtype)}


def _of_polars_dtype(dtype: Any) -> dict[str, Any]:
    name = type(dtype).__name__
    return {
        "dtype": str(dtype) if name == "Decimal" else name,
        "categories": tuple(dtype.categories) if name == "Enum" else (),
    }


def of_pandas(
    table: Mapping[str, np.ndarray],
    forms: Sequence[Form],
    drawn: bool,
    labels: tuple[Any, ...],
    label_names: Sequence[Any],
    like: Any = None,
) -> Any:
    """Columns by name as a frame of pandas.

    Arguments:
        table: columns (n), see `Schema.decode`
        forms: of the columns
        drawn: whether numbers get their dtypes too, which means need not fit
        labels: of the columns where they are not their names
        label_names: of the labels
        like: a frame whose index it gets
    """
    need("pandas", "data")
    import pandas

    index = like.index if like is not None and package_of(like) == "pandas" else None
    frame = pandas.DataFrame(
        {
            name: pandas_column(values, form, drawn, index)
            for (name, values), form in zip(table.items(), forms, strict=True)
        },
        index=index,
    )
    if labels:
        tuples = all(isinstance(label, tuple) for label in labels)
        if tuples:
            names = list(label_names) or None
            frame.columns = pandas.MultiIndex.from_tuples(labels, names=names)
        else:
            running = range(len(labels))  # what pandas gives where there are no names
            frame.columns = pandas.Index(running if tuple(running) == labels else list(labels))
    if label_names and not isinstance(frame.columns, pandas.MultiIndex):
        frame.columns.name = label_names[0]
    return frame


def pandas_column(values: np.ndarray, form: Form, drawn: bool = True, index: Any = None) -> Any:
    """The values (n) of a column as a series of the dtype that the column had.

    Where the dtype cannot hold them, they stay as they are.
    """
    import pandas

    numeric, dtype = values.dtype.kind in "iuf", form.dtype
    series = pandas.Series(values, index=index)
    if form.times and form.times.type not in ("string", "digits"):
        return _pandas_times(values, form, index)
    if dtype == "category":
        return pandas.Series(_categorical(values, form), index=index)
    kept = _numpy_name(dtype) if numeric else ""
    if not dtype or (numeric and not drawn and not kept.startswith("float")):
        return series
    try:
        if dtype.startswith("decimal"):
            texts = [f"{value:.{form.decimals or 0}f}" for value in values]
            series = pandas.Series([decimal.Decimal(text) for text in texts], index=index)
        elif numeric and kept.startswith(("int", "uint")):
            series = series.clip(np.iinfo(kept).min, np.iinfo(kept).max)
        return series if dtype == "decimal" else series.astype(_pandas_dtype(dtype))
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        return series


def _pandas_times(values: np.ndarray, form: Form, index: Any) -> Any:
    """Dates or times (n), see `Times.values`, as a series of the dtype that the column had."""
    import pandas
    import pyarrow

    dtype, times = form.dtype, form.times
    assert times is not None
    if dtype.endswith("[pyarrow]"):
        array = pyarrow.array(values, times.arrow_type())
        return pandas.Series(pandas.array(array, pandas.ArrowDtype(array.type)), index=index)
    if times.zone:
        moments = pandas.to_datetime(pandas.Series(values, index=index, dtype=object), utc=True)
        moments = moments.dt.tz_convert(times.zone)
        return moments.astype(dtype) if dtype.startswith("datetime") else moments
    if dtype == "object":
        plain = values if values.dtype == object else values.astype("M8[us]").astype(object)
        if times.type.startswith("date") and values.dtype != object:
            plain = values.astype("M8[D]").astype(object)
        return pandas.Series(plain, index=index, dtype=object)
    series = pandas.Series(values, index=index)
    if dtype.startswith("period"):
        return series.dt.to_period(dtype[7:-1])
    return series.astype(dtype) if dtype else series


def _numpy_name(dtype: str) -> str:
    """The type of numpy whose range a dtype of pandas has: int8 of Int8 and Sparse[int8]."""
    name = dtype.split("[pyarrow]")[0].removeprefix("Sparse[").split(",")[0].strip("]").lower()
    return {"double": "float64", "float": "float32"}.get(name, name)


def _pandas_dtype(name: str) -> Any:
    import pandas
    import pyarrow

    if name.startswith("Sparse["):
        of, fill = name[7:-1].split(", ")
        return pandas.SparseDtype(of, fill == "True" if of == "bool" else float(fill))
    if name.endswith("[pyarrow]"):
        name = name.removesuffix("[pyarrow]")
        digits = [int(digit) for digit in re.findall(r"\d+", name.partition("(")[2])]
        decimals = name.startswith("decimal")
        return pandas.ArrowDtype(
            pyarrow.decimal128(*digits) if decimals else pyarrow.type_for_alias(name)
        )
    return pandas.api.types.pandas_dtype(name)


def _categorical(values: np.ndarray, form: Form) -> Any:
    """Values (n) as a categorical of pandas with all its categories, in their order."""
    import pandas

    of, texts = form.of_categories, list(form.categories)
    if of.startswith("interval"):
        categories = _intervals(texts, closed=of.rstrip("]").rsplit(", ", 1)[1])
    elif of == "bool":
        categories = pandas.Index([text == "True" for text in texts])
    else:
        categories = pandas.Index(texts, dtype=object).astype(of)
    read: Any = float if form.levels != "text" else str
    place = {read(text): i for i, text in enumerate(texts)}
    codes = [-1 if value is None else place.get(read(value), -1) for value in values]
    dtype = pandas.CategoricalDtype(categories, ordered=form.ordered)
    return pandas.Categorical.from_codes(codes, dtype=dtype)


def _intervals(texts: Sequence[str], closed: str) -> Any:
    import pandas

    ends = [tuple(float(end) for end in text[1:-1].split(", ")) for text in texts]
    return pandas.IntervalIndex.from_tuples(ends, closed=closed)


def of_polars(table: Mapping[str, np.ndarray], forms: Sequence[Form], drawn: bool) -> Any:
    """Columns by name as a frame of polars; arguments as for `of_pandas`."""
    need("polars", "data")
    polars: Any = importlib.import_module("polars")
    columns = []
    for (name, values), form in zip(table.items(), forms, strict=True):
        if form.times and form.times.type not in ("string", "digits"):
            array = importlib.import_module("pyarrow").array(values, form.times.arrow_type())
            columns.append(polars.from_arrow(array).alias(name))
            continue
        column = polars.Series(name, values)
        numeric = values.dtype.kind in "iuf" and not form.dtype.startswith("Float")
        if form.dtype and (drawn or not numeric):
            column = _cast(polars, column, form)
        columns.append(column)
    return polars.DataFrame(columns)


def _cast(polars: Any, column: Any, form: Form) -> Any:
    if form.dtype.startswith("Decimal"):
        dtype = polars.Decimal(*map(int, re.findall(r"\d+", form.dtype)))
    elif form.dtype == "Enum":
        dtype = polars.Enum(form.categories)
    else:
        dtype = getattr(polars, form.dtype)
    try:
        return column.cast(dtype)
    except polars.exceptions.PolarsError:
        return column


# --- filling in ----------------------------------------------------------------------------------


def fill_missing(frame: Any, missing: np.ndarray, filling: Any) -> Any:
    """A frame of pandas or polars with its ``missing`` cells (n, f) taken from another one.

    Cells that are there stay as they are, to the last bit, and columns keep their dtypes.
    """
    names = [str(name) for name in filling.columns]
    places = list(range(len(names)))
    if set(names) <= set(map(str, frame.columns)):  # else they have none, and the place counts
        order = {name: place for place, name in enumerate(names)}
        places = [order.get(str(name), -1) for name in frame.columns]
    if package_of(frame) == "pandas":
        filled = frame.copy()
        for i, place in enumerate(places):
            if place >= 0 and missing[:, place].any():
                column = _filled(frame.iloc[:, i], missing[:, place], filling.iloc[:, place])
                filled.isetitem(i, column)
        return filled
    kept = (
        frame[name].zip_with(
            type(frame[name])(~missing[:, place]), filling[:, place].cast(frame[name].dtype)
        )
        for name, place in zip(frame.columns, places, strict=True)
        if place >= 0
    )
    return frame.with_columns(kept)


def _filled(column: Any, missing: np.ndarray, filling: Any) -> Any:
    """A series with its ``missing`` cells (n) taken from another one, in its own dtype."""
    import pandas

    rows = np.flatnonzero(missing)
    values, dtype = filling.iloc[rows], column.dtype
    if isinstance(dtype, pandas.SparseDtype):
        column, dtype = column.sparse.to_dense(), dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        new = [v for v in values.dropna().unique() if v not in dtype.categories]
        column = column.cat.add_categories(new) if new else column
    filled = column.copy()
    try:
        filled.iloc[rows] = values.astype(filled.dtype).array
    except (TypeError, ValueError):
        filled = column.astype(object)
        filled.iloc[rows] = values.to_numpy(dtype=object)
    return filled.astype(dtype) if isinstance(dtype, pandas.SparseDtype) else filled

"""The schema of a data source: what its columns are, and how they become numbers and text again.

A table is read as numbers (n, f): a column of text as the numbers of its categories ("levels"), a
boolean as 0 or 1, a missing value as NaN. A `Schema` knows names, levels and kinds of the columns
and the units they are standardised by. It is written to a run folder under one key, and whatever
reads new rows or writes generated ones does so through it.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpvae.data import arrays, cells, frames, ids, order
from cpvae.data.checks import check_finite, check_shares
from cpvae.data.columns import BOOLEAN, Form, texts_as_values
from cpvae.data.kinds import RULES, Kinds, check_kinds, column_kinds
from cpvae.data.limits import Limits, limits
from cpvae.data.units import origin_and_unit
from cpvae.extras import importable

MANY = 10  # levels of a column, from which on their number is told
Levels = dict[str, list[str]]  # categories of each column of text, by the column's name


@dataclasses.dataclass(frozen=True)
class Schema:
    """What one example consists of: the columns of a table, or the channels and pixels of an image.

    Arguments:
        shape: (f,) for a row of a table, (channels, height, width) for an image
        columns: names of the f columns of a table; None where they have none
        levels: categories of the columns of text, by name; `BOOLEAN` for booleans
        kinds: kind of each column, see `KINDS`, for a mixed likelihood; else empty
        missing: whether values were missing in the data, set by `splits.split`
        loc: mean of each column (of log(1 + x) for a count; of each channel of images), where they
            are standardised
        scale: standard deviation of the same
        limits: of each column that is a ``number``, see `limits.limits`; None for the others
        frame: package (``pandas`` or ``polars``) of the frame that the data came as
        forms: how the values of each column were written, see `Form`; () where that is not known
        labels: names of the columns in that frame, where they are not the text of ``columns``
        label_names: names of the levels of these, where they have some
        given_shape: of an example as it was handed in, where it is not ``shape``: (height, width),
            or (height, width, channels)
        dtype: of the array of a table that was handed in
        gaps: columns of which the model learns which cells are missing: for each of them the last
            columns have one of zeros and ones, see `gaps`
        left_out: columns that are not fitted, and why, see `ids`
        pixel_range: values of images that were read as 0 and 1, where they were not already
        less: pairs (start, end) of columns, of which rows have the difference as end, see `order`
    """

    shape: tuple[int, ...]
    columns: tuple[str, ...] | None = None
    levels: Levels = dataclasses.field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    missing: bool = False
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    limits: tuple[Limits | None, ...] = ()
    frame: str | None = None
    forms: tuple[Form, ...] = ()
    labels: tuple[Any, ...] = ()
    label_names: tuple[Any, ...] = ()
    given_shape: tuple[int, ...] = ()
    dtype: str | None = None
    gaps: tuple[str, ...] = ()
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    pixel_range: tuple[float, ...] = ()
    less: order.Pairs = ()

    @classmethod
    def of_array(cls, array: np.ndarray, x: np.ndarray) -> "Schema":
        """The schema of an array as it was handed in, and of its examples ``x`` (n, ...)."""
        shape = x.shape[1:]
        if len(shape) == 3:
            given = array.shape[1:] if array.shape[1:] != shape else ()
            return cls(shape, given_shape=given, pixel_range=arrays.BYTES * arrays.in_bytes(array))
        digits = 15 if array.dtype.itemsize > 4 or array.dtype.kind in "iu" else 7
        columns = array.reshape(len(array), *shape).T
        forms = tuple(Form.of_numbers(column, digits) for column in columns)
        return cls(shape, forms=forms, dtype=array.dtype.name)

    @property
    def names(self) -> list[str]:
        """Names of the columns of a table; "0", "1", ... where they have none."""
        return list(self.columns or map(str, range(self.shape[0])))

    @property
    def given_names(self) -> list[str]:
        """Names of the columns that data has, without those that say what is missing."""
        return self.names[: len(self.names) - len(self.gaps)]

    @property
    def n_features(self) -> int:
        """Numbers that an example has as it is handed in."""
        return int(np.prod(self.shape)) - len(self.gaps)

    @property
    def is_image(self) -> bool:
        """Whether examples are images."""
        return len(self.shape) == 3

    @property
    def is_grey(self) -> bool:
        """Whether values from 0 to 1 are greys, of which a model is to show means, not draws."""
        return self.is_image or not self.forms or any(form.decimals != 0 for form in self.forms)

    @property
    def ids(self) -> list[str]:
        """Columns of the table that say which row is which."""
        return [name for name, why in self.left_out.items() if why in (ids.DIFFERS, ids.NAMED)]

    def form_of(self, name: str) -> Form:
        """How the values of a column were written."""
        return self.forms[self.names.index(name)] if self.forms else Form()

    def in_words(self, name: str) -> str:
        """A column with what its numbers are, where that is not plain."""
        form, levels = self.form_of(name), self.levels.get(name, ())
        if start := {end: start for start, end in self.less}.get(name):
            return f"{name} (what it is beyond {start})"
        if form.times:
            return f"{name} ({form.times.in_words()})"
        return f"{name} ({len(levels)} levels)" if len(levels) > MANY else name

    def completed(self, x: np.ndarray) -> np.ndarray:
        """Rows as they are read (n, f), and the columns that say what is missing in them."""
        if not self.gaps or x.shape[1] != self.n_features:
            return x
        gone = np.isnan(x[:, [self.names.index(name) for name in self.gaps]])
        return np.column_stack([x, gone]).astype(np.float32)

    def _without_gaps(self, x: np.ndarray, drawn: bool) -> np.ndarray:
        """Rows of a model (n, f) as data has them: with gaps where they are ``drawn``."""
        kept, gone = np.split(x, [self.n_features], axis=1)
        if drawn and self.gaps:
            kept = kept.copy()
            for name, missing in zip(self.gaps, gone.T, strict=True):
                kept[missing > 0.5, self.names.index(name)] = np.nan
        return kept

    # --- a frame becomes numbers, and numbers become a frame -------------------------------------

    def encode(self, table: Any, called: str) -> np.ndarray:
        """New rows as numbers: columns by the names of this schema and in its order.

        Other columns are ignored. A table is taken by position if the schema has no names, or the
        numbers that pandas gives where there are none.

        Arguments:
            table: a table of pyarrow
            called: name of the data, for errors

        Returns:
            Rows (n, f) in single precision, NaN where a value is missing.

        Warns:
            UserWarning: categories that no row had which was fitted; they count as missing.

        Raises:
            ValueError: a column that is not there, or text in a column of numbers.
        """
        names = self.given_names
        nameless = self.columns is None or self.labels == tuple(range(len(names)))
        if nameless and set(table.column_names) != set(names) and table.num_columns == len(names):
            table = table.rename_columns(names)
        for name in names:
            if name not in table.column_names:
                raise ValueError(
                    f"{called} has no column {name!r}: it has {', '.join(table.column_names)}."
                )
        unseen: dict[str, list[str]] = {}
        forms = self.forms or (Form(),) * len(names)
        numbers = [
            cells.known(table[name], f"column {name}", self.levels.get(name), form, unseen)
            for name, form in zip(names, forms, strict=False)
        ]
        if unseen:
            place, new = next(iter(unseen.items()))
            n = sum(map(len, unseen.values()))
            warnings.warn(
                f"{called}: {n} cell{'s' * (n > 1)} with a level that the model has not seen, such "
                f"as {new[0]!r} in {place}, {'are' if n > 1 else 'is'} treated as missing",
                stacklevel=2,
            )
        x = np.column_stack(numbers)
        return self.completed(order.between(x, table, self, called) if self.less else x)

    def decode(self, x: np.ndarray, drawn: bool = True) -> dict[str, np.ndarray]:
        """Columns of a table (n, f) by name, categories as what they were, or None where missing.

        Arguments:
            x: rows of numbers
            drawn: whether they are like the data, and not means: then numbers have the decimals
                that the column has, and whole ones are integers
        """
        table = {}
        ends = order.ends_of(x, self, drawn) if self.less else {}
        x = self._without_gaps(x, drawn) if self.gaps else x
        kinds, forms = self.kinds or ("",) * len(x.T), self.forms or (Form(),) * len(x.T)
        for name, kind, form, column in zip(self.given_names, kinds, forms, x.T, strict=False):
            if name in ends:
                column = np.where(np.isnan(column), np.nan, ends[name])
            if name in self.levels:
                table[name] = texts_as_values(column, self.levels[name], form)
            elif form.times:
                table[name] = form.as_times(column)
            elif drawn and form.decimals is not None:
                table[name] = form.rounded(column, order.is_bounded(self, name))
            elif kind and RULES[kind].whole and np.array_equal(column, np.rint(column)):
                table[name] = column.astype(np.int64)
            else:
                table[name] = column
        return table

    def to_frame(self, x: np.ndarray, drawn: bool = True, like: Any = None) -> Any:
        """A table (n, f) as a frame of the package that the data came as; of pandas by default.

        Arguments:
            x: rows of numbers
            drawn: as for `decode`; then columns have the dtypes that they had
            like: a frame whose index the rows have, and whose package the frame is of
        """
        package = frames.package_of(like) or self.frame or "pandas"
        table, forms = self.decode(x, drawn), self.forms or (Form(),) * len(x.T)
        forms = forms[: len(table)]
        if package == "polars":
            return frames.of_polars(table, forms, drawn)
        labels = self.labels if self.columns else tuple(range(len(table)))
        return frames.of_pandas(table, forms, drawn, labels, self.label_names, like)

    def as_given(self, x: np.ndarray, drawn: bool = True, like: Any = None) -> Any:
        """Examples (n, ...) in the form of what was handed in: a frame, or an array of that layout.

        Arguments:
            x: examples of a model
            drawn: as for `decode`
            like: the data that they belong to; by default those that were fitted
        """
        if self.is_image:
            shape = self.given_shape or self.shape if like is None else np.shape(like)[1:]
            return arrays.laid_out(x, shape)
        named = self.frame or (self.columns and (self.levels or importable("pandas")))
        if frames.is_table(like) if like is not None else named:
            return self.to_frame(x, drawn, like)
        if not drawn and not self.levels:
            x = self._without_gaps(x, drawn) if self.gaps else x
            return x.reshape(np.shape(x) if like is None else np.shape(like))
        columns = list(self.decode(x, drawn).values())
        array = np.column_stack(columns)
        return array.astype(self.dtype) if drawn and self.dtype else array

    def filled(self, data: Any, x: np.ndarray, made: np.ndarray) -> Any:
        """A frame or an array with what is missing in its numbers filled in.

        Arguments:
            data: what the numbers were read from
            x: its numbers (n, f), NaN where a value is missing
            made: what to put there (n, f)
        """
        n = len(self.given_names)
        missing, made = np.isnan(x), np.where(np.arange(x.shape[1]) < n, made, 0)
        if self.less:
            missing, made = order.kept(x, made, frames.as_arrow(data), self)
        missing = missing[:, :n]
        if frames.package_of(data):
            return frames.fill_missing(data, missing, self.to_frame(made, like=data))
        if frames.is_table(data):
            return self.to_frame(np.where(np.isnan(x), made, x), drawn=False)
        array, filling = np.asarray(data), np.column_stack(list(self.decode(made).values()))
        dtype = array.dtype if array.dtype.kind == "f" else np.result_type(array, filling)
        return np.where(missing, filling, array).astype(dtype)

    def indicators(self, x: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """A table (n, f) with a column of zeros and ones for each category of text.

        Also the name of the column that each of them comes from.
        """
        shown, names = [], []
        for name, column in zip(self.names, x.T, strict=True):
            if name not in self.levels or self.levels[name] == BOOLEAN:
                shown.append(column)
                names.append(name)
                continue
            for i in range(len(self.levels[name])):
                shown.append(np.where(np.isnan(column), np.nan, column == i))
                names.append(name)
        return np.column_stack(shown), names

    # --- what a fit adds -------------------------------------------------------------------------

    def with_kinds_and_units(
        self, x: np.ndarray, likelihood: str, kinds: Kinds | None = None, as_numbers: bool = False
    ) -> "Schema":
        """The schema with kinds of columns and units of standardisation, from training data.

        Arguments:
            x: training examples (n, ...)
            likelihood: ``bernoulli`` needs neither, ``gaussian`` units alone, ``mixed`` both
            kinds: of columns, where `column_kinds` is not to choose
            as_numbers: see `column_kinds`

        Raises:
            ValueError: a constant column, one that hardly varies, or a kind that does not fit.
        """
        if likelihood == "bernoulli":
            return dataclasses.replace(self, kinds=(), loc=(), scale=())
        if likelihood == "gaussian":
            loc, scale = origin_and_unit(x, self.names)
            return dataclasses.replace(self, kinds=(), loc=_plain(loc), scale=_plain(scale))
        if x.ndim != 2:
            raise ValueError("likelihood='mixed' is for tables, and the data are images.")
        of_each = self.column_kinds(x, kinds, as_numbers)
        scaled = np.array(x, dtype=np.float64)
        for i, kind in enumerate(of_each):
            if transform := RULES[kind].transform:
                scaled[:, i] = transform(scaled[:, i])
        known = len(self.given_names)  # a gap may be in another part alone
        loc, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
        loc[:known], scale[:known] = origin_and_unit(scaled[:, :known], self.given_names)
        standardised = [RULES[kind].transform is not None for kind in of_each]
        return dataclasses.replace(
            self,
            kinds=tuple(of_each),
            loc=_plain(np.where(standardised, loc, 0.0)),
            scale=_plain(np.where(standardised, scale, 1.0)),
            limits=tuple(
                limits(x[:, i], self._has_ends(i)) if kind == "number" else None
                for i, kind in enumerate(of_each)
            ),
        )

    def _has_ends(self, place: int) -> bool:
        """Whether no value of a column may lie beyond the last one: of dates, not of durations."""
        times = order.number_forms(self)[place].times if self.forms else None
        return times is not None and not times.type.startswith("duration")

    def column_kinds(
        self, x: np.ndarray, given: Kinds | None = None, as_numbers: bool = False
    ) -> list[str]:
        """The kind of each column of a table (n, f), see `kinds.column_kinds`."""
        if isinstance(given, str):
            given = dict.fromkeys(self.given_names, given)
        return column_kinds(x, self.names, self.levels, order.number_forms(self), given, as_numbers)

    def features(self) -> dict[str, Any]:
        """What `models.build` needs to know of the data, as plain values."""
        features: dict[str, Any] = {"shape": list(self.shape)}
        if self.kinds:
            levels = [self.levels.get(name, ()) for name in self.names]
            pairs = zip(self.kinds, levels, strict=True)
            features["kinds"] = list(self.kinds)
            features["n_levels"] = [len(of) if kind == "categorical" else 0 for kind, of in pairs]
            features["limits"] = [each and list(each) for each in self.limits]
        if self.loc:
            pixels = int(np.prod(self.shape[1:]))  # of a channel; 1 for a column of a table
            features["loc"] = np.repeat(self.loc, pixels).tolist()
            features["scale"] = np.repeat(self.scale, pixels).tolist()
        return features

    def check_values(self, x: np.ndarray, missing: bool = False, shares: bool = False) -> None:
        """Refuses data (n, ...) that a model fitted to this schema cannot take.

        Arguments:
            x: new examples
            missing: whether the model takes missing values (NaN)
            shares: whether it takes values between 0 and 1 alone

        Raises:
            ValueError: another shape, empty, infinite values, NaN unless values may be ``missing``,
                or values that are no ``shares`` or that the kinds of the columns cannot have.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"The data has examples of shape {tuple(x.shape[1:])}, and the model was fitted to "
                f"shape {self.shape}: bring the same features in the same order."
            )
        if len(x) == 0:
            raise ValueError("The data is empty: it has no rows.")
        check_finite(x, None if self.is_image else self.names, missing and not self.is_image)
        if shares:
            check_shares(x, self.pixel_range == arrays.BYTES)
        if self.kinds:
            check_kinds(x, self.kinds, self.names)

    # --- to a run folder and back ----------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["forms"] = [form.as_json() for form in self.forms]
        return {key: _nested(list, value) for key, value in plain.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Schema":
        """The schema of what `as_json` gave."""
        plain = {key: _nested(tuple, value) for key, value in stored.items()}
        plain["forms"] = tuple(map(Form.from_json, stored.get("forms", ())))
        return cls(**plain)


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())


def _nested(kind: type, value: Any) -> Any:
    """A value with all tuples and lists in it as of one ``kind``."""
    if isinstance(value, tuple | list):
        return kind(_nested(kind, part) for part in value)
    return value

"""The schema of a data source: what its columns are, and how they become numbers and text again.

A table is read as numbers (n, f): a column of text as the numbers of its categories ("levels"), a
boolean as 0 or 1, a missing value as NaN. A `Schema` knows names, levels and kinds of the columns
and the units they are standardised by. It is written to a run folder under one key, and whatever
reads new rows or writes generated ones does so through it.
"""

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cpvae.choices import KINDS
from cpvae.data.checks import check_finite, check_varies, listed, single
from cpvae.data.limits import Limits, limits
from cpvae.extras import need

Levels = dict[str, list[str]]  # categories of each column of text, by the column's name
Kinds = str | Mapping[Any, str]  # kinds of columns by name, or one kind for all of them
MOST_LEVELS = 100  # categories that a column of text may have
BOOLEAN = ["false", "true"]  # levels of a column of booleans
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "?")  # texts that mean a missing value


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
        limits: how each column that is a ``number`` is rounded and where it ends, see
            `limits.limits`; None for the others
        frame: package (``pandas`` or ``polars``) of the frame that the data came as
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

    @property
    def names(self) -> list[str]:
        """Names of the columns of a table; "0", "1", ... where they have none."""
        return list(self.columns or map(str, range(self.shape[0])))

    @property
    def is_image(self) -> bool:
        """Whether examples are images."""
        return len(self.shape) == 3

    # --- a frame becomes numbers, and numbers become a frame -------------------------------------

    def encode(self, table: Any, called: str) -> np.ndarray:
        """New rows as numbers: columns by the names of this schema and in its order.

        Other columns are ignored. A table is taken by position if the schema has no names.

        Arguments:
            table: a table of pyarrow
            called: name of the data, for errors

        Returns:
            Rows (n, f) in single precision, NaN where a value is missing.

        Raises:
            ValueError: a column that is not there, or text that is no known category.
        """
        if self.columns is None and table.num_columns == len(self.names):
            table = table.rename_columns(self.names)
        for name in self.names:
            if name not in table.column_names:
                raise ValueError(
                    f"{called} has no column {name!r}: it has {', '.join(table.column_names)}."
                )
        return encode_table(table.select(self.names), called, self)[0]

    def decode(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of a table (n, f) by name, categories as text again, or None where missing.

        Counts, columns of zeros and ones, and numbers that were whole are integers if all their
        values are whole; booleans are booleans.
        """
        table = {}
        n = len(self.names)
        kinds, limits = self.kinds or ("",) * n, self.limits or (None,) * n
        for name, kind, limit, column in zip(self.names, kinds, limits, x.T, strict=True):
            whole = (kind and RULES[kind].whole) or (limit and limit[0] == 1)
            if name in self.levels:
                boolean = self.levels[name] == BOOLEAN
                labels: list[Any] = [False, True] if boolean else self.levels[name]
                index = np.rint(np.where(np.isnan(column), -1, column)).astype(int)
                column = np.array([*labels, None], dtype=object)[index]  # -1 is the last, None
                if boolean and (index >= 0).all():
                    column = column.astype(bool)
            elif whole and np.array_equal(column, np.rint(column)):
                column = column.astype(np.int64)
            table[name] = column
        return table

    def to_frame(self, x: np.ndarray) -> Any:
        """A table (n, f) as a frame of the package that the data came as; of pandas by default."""
        package = self.frame or "pandas"
        need(package, "data")
        return importlib.import_module(package).DataFrame(self.decode(x))

    def indicators(self, x: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """A table (n, f) with a column of zeros and ones for each category of text, and all names.

        This is how figures show columns of text.
        """
        shown, names = [], []
        for name, column in zip(self.names, x.T, strict=True):
            if name not in self.levels or self.levels[name] == BOOLEAN:
                shown.append(column)
                names.append(name)
                continue
            for i, level in enumerate(self.levels[name]):
                shown.append(np.where(np.isnan(column), np.nan, column == i))
                names.append(f"{name}={level}")
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
            loc, scale = _standardisation(x, self.names)
            return dataclasses.replace(self, kinds=(), loc=_plain(loc), scale=_plain(scale))
        if x.ndim != 2:
            raise ValueError("likelihood='mixed' is for tables, and the data are images.")
        of_each = self.column_kinds(x, kinds, as_numbers)
        scaled = np.array(x, dtype=np.float64)
        for i, kind in enumerate(of_each):
            if transform := RULES[kind].transform:
                scaled[:, i] = transform(scaled[:, i])
        loc, scale = _standardisation(scaled, self.names)
        standardised = [RULES[kind].transform is not None for kind in of_each]
        return dataclasses.replace(
            self,
            kinds=tuple(of_each),
            loc=_plain(np.where(standardised, loc, 0.0)),
            scale=_plain(np.where(standardised, scale, 1.0)),
            limits=tuple(
                limits(column) if kind == "number" else None
                for kind, column in zip(of_each, x.T, strict=True)
            ),
        )

    def column_kinds(
        self, x: np.ndarray, given: Kinds | None = None, as_numbers: bool = False
    ) -> list[str]:
        """The kind of each column of a table (n, f), see `KINDS`; ``given`` ones stay as they are.

        A column of text is ``categorical``, one of booleans or of zeros and ones ``binary``, one of
        whole numbers whose smallest is 0 a ``count``, and any other ``gaussian``; both of these are
        a ``number`` if they are to be read ``as_numbers``.

        Raises:
            ValueError: a kind for a column that is not there, or one that does not fit its column.
        """
        names, given = self.names, given or {}
        if isinstance(given, str):
            given = dict.fromkeys(names, given)
        if not isinstance(given, Mapping):
            raise ValueError(
                f"kinds={given!r}: use a dict from names of columns to kinds, or one kind for all."
            )
        given = {str(name): kind for name, kind in given.items()}
        for name, kind in given.items():
            if name not in names:
                raise ValueError(f"There is no column {name!r}: there are {', '.join(names)}.")
            if kind not in KINDS:
                raise ValueError(
                    f"kind {kind!r} of column {name!r} is unknown: choose from {', '.join(KINDS)}."
                )
        kinds = []
        for name, column in zip(names, x.T, strict=True):
            text = name in self.levels
            if not text:
                allowed = [kind for kind in KINDS if kind != "categorical"]
                fitting = _default_kind(column, as_numbers)
            else:  # booleans are text of two levels
                allowed = (
                    ["categorical"] if self.levels[name] != BOOLEAN else ["binary", "categorical"]
                )
                fitting = allowed[0]
            kind = given.get(name, fitting)
            if kind not in allowed:
                was = "was read as text" if text else "was not read as text"
                raise ValueError(
                    f"Column {name!r} cannot be {kind}: it {was}. Choose from {', '.join(allowed)}."
                )
            kinds.append(kind)
        _check_kinds(x, kinds, names)
        return kinds

    def features(self) -> dict[str, Any]:
        """What `models.build` needs to know of the data, as plain values."""
        features: dict[str, Any] = {"shape": list(self.shape)}
        if self.kinds:
            levels = [self.levels.get(name, ()) for name in self.names]
            pairs = zip(self.kinds, levels, strict=True)
            features["kinds"] = list(self.kinds)
            features["n_levels"] = [len(of) if kind == "categorical" else 0 for kind, of in pairs]
        if any(self.limits):
            features["limits"] = [list(each) if each else None for each in self.limits]
        if self.loc:
            pixels = int(np.prod(self.shape[1:]))  # of a channel; 1 for a column of a table
            features["loc"] = np.repeat(self.loc, pixels).tolist()
            features["scale"] = np.repeat(self.scale, pixels).tolist()
        return features

    def check_values(self, x: np.ndarray, missing: bool = False) -> None:
        """Refuses data (n, ...) that a model fitted to this schema cannot take.

        Arguments:
            x: new examples
            missing: whether the model takes missing values (NaN)

        Raises:
            ValueError: another shape, empty, infinite values, NaN unless values may be ``missing``,
                or values that the kinds of the columns cannot have.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"The data has examples of shape {tuple(x.shape[1:])}, and the model was fitted to "
                f"shape {self.shape}: bring the same features in the same order."
            )
        if len(x) == 0:
            raise ValueError("The data is empty: it has no rows.")
        check_finite(x, None if self.is_image else self.names, missing and not self.is_image)
        if self.kinds:
            _check_kinds(x, self.kinds, self.names)

    # --- to a run folder and back ----------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Schema":
        """The schema of what `as_json` gave."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        if "limits" in plain:
            plain["limits"] = tuple(each and tuple(each) for each in plain["limits"])
        return cls(**plain)


def encode_table(
    table: Any, called: str, known: Schema | None = None, categorical: Sequence[str] = ()
) -> tuple[np.ndarray, Schema]:
    """A table of pyarrow as numbers (n, f), and its schema.

    Arguments:
        table: of pyarrow, with the columns that are to be read
        called: what errors call it
        known: the schema of a fitted model, whose levels its text must be of; by default levels are
            those that occur
        categorical: columns of numbers to read as text

    Raises:
        ValueError: a column of another type, too many categories, or one that is not known.
    """
    import pyarrow as pa

    levels, cells = Levels(), []
    for name, column in zip(table.column_names, table.columns, strict=True):
        place = f"{called}: column {name}"
        known_levels = known.levels.get(name) if known else None
        learn_levels = known is None and (_is_text(column.type) or name in categorical)
        if known_levels or learn_levels:
            text = column.cast(pa.string()).to_pylist()
            cell, levels[name] = encode_text(text, place, known_levels)
        elif _is_numeric(column.type):
            cell = column.cast(pa.float64()).to_numpy()  # null becomes NaN
        elif known is not None:
            raise ValueError(
                f"{place} holds {_first_text(column)}, and the model was fitted to numbers there: "
                f"correct it, or leave the cell empty."
            )
        else:
            raise ValueError(
                f"{place} holds {column.type}, neither numbers nor text: leave it out (--drop)."
            )
        cells.append(single(cell, place))
    x = np.column_stack(cells)
    return x, known or Schema(x.shape[1:], tuple(table.column_names), levels)


def encode_text(
    text: Sequence[str | None], name: str, known: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """The number of each text's category (n), NaN for a missing one, and the categories.

    Arguments:
        text: a column
        name: of the column, for errors
        known: categories that a model was fitted to; by default those that occur, sorted

    Raises:
        ValueError: too many categories to learn from, or one that is not ``known``.
    """
    stripped = [None if t is None or t.strip() in MISSING else t.strip() for t in text]
    found = sorted({t for t in stripped if t is not None})
    levels = list(known) if known is not None else found
    if known is None and found and all(re.fullmatch(r"-?[\d.]*,\d+", t) for t in found):
        raise ValueError(
            f"{name} is text such as {found[0]!r}: write numbers with a decimal point, not a comma."
        )
    if known is None and len(found) > min(MOST_LEVELS, max(2, len(text) // 2)):
        raise ValueError(
            f"{name} is text with {len(found)} different values in {len(text)} rows, too many for "
            f"categories: leave it out (--drop), or name it as the label (--label) if it is one."
        )
    new = sorted(set(found) - set(levels))
    if new:
        raise ValueError(
            f"{name} has {new[0]!r}, which the model has not seen: it knows {', '.join(levels)}. "
            f"Leave the cell empty to have it treated as missing."
        )
    number = {level: i for i, level in enumerate(levels)} | {None: np.nan}
    return np.array([number[t] for t in stripped], dtype=np.float64), levels


def looks_like_number(text: str) -> bool:
    """Whether a cell reads as a number, quotes or not."""
    try:
        float(text.strip('"'))
    except ValueError:
        return False
    return True


def _first_text(column: Any) -> str:
    """The first cell that is no number, for a person to find it."""
    for row, value in enumerate(column.to_pylist(), start=1):
        text = "" if value is None else str(value).strip()
        if text not in MISSING and not looks_like_number(text):
            return f"{text!r} in row {row}"
    return str(column.type)


def _is_numeric(arrow_type: Any) -> bool:
    from pyarrow import types

    is_a = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, types.is_decimal)
    return any(test(arrow_type) for test in is_a)


def _is_text(arrow_type: Any) -> bool:
    """Whether a type of pyarrow is text, a dictionary or boolean: read as categories."""
    from pyarrow import types

    is_a = (types.is_string, types.is_large_string, types.is_string_view)
    return any(test(arrow_type) for test in (*is_a, types.is_dictionary, types.is_boolean))


class Rule(NamedTuple):
    """What a kind of column means for its numbers.

    Arguments:
        fits: which of the values (n) are allowed, a mask
        needs: the same in words, for errors
        transform: of values before they are standardised; None where they are not standardised
        whole: whether values are whole numbers
    """

    fits: Callable[[np.ndarray], np.ndarray]
    needs: str
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    whole: bool = False


RULES = {
    "number": Rule(np.isfinite, "finite numbers", np.asarray),
    "gaussian": Rule(np.isfinite, "finite numbers", np.asarray),
    "binary": Rule(lambda x: np.isin(x, (0, 1)), "zeros and ones", whole=True),
    "count": Rule(
        lambda x: (x == np.rint(x)) & (x >= 0), "whole numbers from 0 up", np.log1p, whole=True
    ),
    "categorical": Rule(np.isfinite, "text"),
}


def _default_kind(column: np.ndarray, as_numbers: bool) -> str:
    """The kind that is chosen for the numbers of a column (n)."""
    values = column[~np.isnan(column)]
    if as_numbers:
        return "binary" if len(values) and RULES["binary"].fits(values).all() else "number"
    if not len(values) or values.min() != 0:
        return "gaussian"
    return next(
        (kind for kind in ("binary", "count") if RULES[kind].fits(values).all()), "gaussian"
    )


def _check_kinds(x: np.ndarray, kinds: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a table (n, f) with values that the kind of their column cannot have."""
    for name, kind, column in zip(names, kinds, x.T, strict=True):
        misfit = np.flatnonzero(~np.isnan(column) & ~RULES[kind].fits(column))
        if len(misfit):
            raise ValueError(
                f"Column {name!r} cannot be {kind}, which needs {RULES[kind].needs}, and it has "
                f"{column[misfit[0]]:g}: leave such cells empty, or choose another kind."
            )


def _standardisation(x: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Origin and unit of every column of a table (n, f), or of every channel of images."""
    if x.ndim == 2:
        check_varies(x, names)
        loc = np.asarray(np.nanmean(x, 0, dtype=np.float64))
        scale = np.asarray(np.nanstd(x, 0, dtype=np.float64))
    else:
        names = [str(i) for i in range(x.shape[1])]
        loc, scale = (np.asarray(f(x, (0, 2, 3), dtype=np.float64)) for f in (np.mean, np.std))
    tiny = scale <= 1e-6 * np.abs(loc)  # variation too small for single precision
    if (scale <= 0).any() or tiny.any():
        bad = listed(np.flatnonzero((scale <= 0) | tiny)[:8], names)
        raise ValueError(
            f"Feature {bad} varies too little around its mean for single precision: subtract "
            f"its mean, or drop it."
        )
    return loc, scale


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())

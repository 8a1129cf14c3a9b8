"""What each component is: its share of the rows, the columns that set it apart, typical rows.

Rows count for the component that is their most probable one. How far a column sets a component
apart is its effect, from 0 to 1: the largest difference between the shares that the component's
rows and all others have below any one value (Kolmogorov-Smirnov), or, of levels, the share of rows
that would have to change theirs (total variation). On two values both are the difference of the
shares. Neither depends on the units of a column, on a few large values, or on its distribution. Few
rows differ by chance: columns are ordered by what the effect has beyond that.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cpvae.data.order import as_read
from cpvae.data.schema import Schema

KS_BY_CHANCE = 0.8687  # mean of Kolmogorov's distribution
TELLING = 0.1  # effect from which on a column is worth a word
SURE = 0.9  # probability from which on a row is in its component for certain
MIDDLE = (0.1, 0.5, 0.9)  # quantiles that say where the values of a column are
TYPICAL = 3  # rows of a component
MOST_LEVELS = 12  # that are told of a column, the most different ones
ZERO_OR_ONE = ["0", "1"]


@dataclasses.dataclass(frozen=True)
class LevelShare:
    """A level of a column: its share of a component's rows and of all, and their ratio."""

    level: str
    share: float
    share_of_all: float
    lift: float | None


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A column in a component, beside the same in all rows.

    Arguments:
        column: its name
        effect: how far it sets the component apart, from 0 to 1
        by_chance: what the effect is on average where nothing sets so many rows apart
        value: median of its numbers, None for a column of levels
        low: below which a tenth of them are
        high: above which a tenth of them are
        value_of_all: the same of all rows, and so on
        levels: of a column of levels, the most different ones first
        empty: share of rows without a value
        empty_of_all: the same of all rows
    """

    column: str
    effect: float
    by_chance: float
    value: Any
    low: Any
    high: Any
    value_of_all: Any
    low_of_all: Any
    high_of_all: Any
    levels: tuple[LevelShare, ...]
    empty: float
    empty_of_all: float

    @property
    def beyond_chance(self) -> float:
        """The effect less what chance has a part in."""
        return self.effect - self.by_chance

    @property
    def is_telling(self) -> bool:
        """Whether the column is worth a word."""
        return self.effect >= TELLING and self.effect > 2 * self.by_chance


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a component is.

    Arguments:
        component: its number
        name: the name that a person gave it, or its number
        n_rows: rows that most probably belong to it
        share: of all rows
        sure: share of its rows whose probability is at least `SURE`; None if it has no row
        columns: those that set it apart most first; of images none
        typical: numbers of typical rows, the most typical first
    """

    component: int
    name: str
    n_rows: int
    share: float
    sure: float | None
    columns: tuple[Contrast, ...]
    typical: tuple[int, ...]

    @property
    def telling(self) -> tuple[Contrast, ...]:
        """The columns that are worth a word."""
        return tuple(column for column in self.columns if column.is_telling)

    def as_json(self) -> dict[str, Any]:
        """Plain values, numbers and text; dates as ISO text."""
        return _plain(dataclasses.asdict(self))


def profiles(
    x: Float[np.ndarray, "n ..."],
    probs: Float[np.ndarray, "n k"],
    schema: Schema,
    names: Sequence[str] | None = None,
) -> list[Profile]:
    """The profile of each component, by number.

    Arguments:
        x: rows of a table (n, f) as the schema reads them, NaN where a value is missing; or images
        probs: of each row and component
        schema: what the columns are
        names: of the components
    """
    n, k = probs.shape
    schema, (x,) = as_read(schema, x)
    component, sure = probs.argmax(1), probs.max(1) >= SURE
    inside = [component == i for i in range(k)]
    columns: list[list[Contrast]] = [[] for _ in inside]
    typical: list[Sequence[int]] = [[] for _ in inside]
    if not schema.is_image:
        columns = _contrasts(x, inside, schema)
        low, _, high = _middle(x)
        typical = [_typical(x, mine, schema, high - low) for mine in inside]
    else:
        clearest = [np.argsort(-np.where(mine, probs.max(1), -1), kind="stable") for mine in inside]
        typical = [
            order[: min(TYPICAL, mine.sum())].tolist()
            for order, mine in zip(clearest, inside, strict=True)
        ]
    return [
        Profile(
            i,
            names[i] if names else str(i),
            int(mine.sum()),
            float(mine.sum() / max(n, 1)),
            float(sure[mine].mean()) if mine.any() else None,
            tuple(columns[i]),
            tuple(typical[i]),
        )
        for i, mine in enumerate(inside)
    ]


def levels_of(schema: Schema, name: str, values: Float[np.ndarray, " n"]) -> list[str]:
    """The levels of a column; of one that holds zeros and ones these two; of other numbers none."""
    if name in schema.levels:
        return list(map(str, schema.levels[name]))
    there = values[~np.isnan(values)]
    return ZERO_OR_ONE if len(there) and np.isin(there, (0, 1)).all() else []


def level_shares(values: Float[np.ndarray, " n"], n_levels: int) -> Float[np.ndarray, " l"]:
    """The share of each level among the values that are there; zeros where none is."""
    there = values[~np.isnan(values)].astype(int)
    counts = np.bincount(there, minlength=n_levels)[:n_levels]
    return counts / max(len(there), 1)


# --- columns -------------------------------------------------------------------------------------


def _contrasts(
    x: Float[np.ndarray, "n f"], inside: Sequence[Bool[np.ndarray, " n"]], schema: Schema
) -> list[list[Contrast]]:
    """The columns in each component, the most telling first."""
    parts = [np.ones(len(x), dtype=bool), *inside]
    in_units = _in_units(schema, np.concatenate([_middle(x[part]) for part in parts]))
    names = [f"column {name}" for name in schema.names] if not schema.columns else schema.names
    found: list[list[Contrast]] = [[] for _ in inside]
    for at, (name, shown) in enumerate(zip(schema.names, names, strict=True)):
        values = x[:, at].astype(np.float64)
        levels = levels_of(schema, name, values)
        gone, order = np.isnan(values), np.argsort(values, kind="stable")
        for i, mine in enumerate(inside):
            effect, chance = _effect(values, order, mine, len(levels))
            gap, gap_by_chance = _difference(gone, mine)
            if gone.any() and gap - gap_by_chance > effect - chance:
                effect, chance = gap, gap_by_chance
            number = [None] * 6
            if not levels:
                number = [*in_units[name][3 * i + 3 : 3 * i + 6], *in_units[name][:3]]
            low, value, high, low_of_all, value_of_all, high_of_all = number
            found[i].append(
                Contrast(
                    shown,
                    effect,
                    chance,
                    *(value, low, high, value_of_all, low_of_all, high_of_all),
                    _level_shares(values, mine, levels),
                    float(gone[mine].mean()) if mine.any() else 0.0,
                    float(gone.mean()) if len(gone) else 0.0,
                )
            )
    return [sorted(each, key=lambda contrast: -contrast.beyond_chance) for each in found]


def _effect(
    values: Float[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    mine: Bool[np.ndarray, " n"],
    n_levels: int,
) -> tuple[float, float]:
    """How far the values of some rows are from those of the others, and how far by chance.

    ``order`` sorts the values, missing ones last; ``n_levels`` is 0 for numbers.
    """
    there = ~np.isnan(values)
    n_mine, n_others = int((mine & there).sum()), int((~mine & there).sum())
    if not n_mine or not n_others:
        return 0.0, 0.0
    if n_levels:
        shares = [level_shares(values[part], n_levels) for part in (mine, ~mine)]
        pooled = level_shares(values, n_levels)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n_mine + 1 / n_others))
        apart = np.abs(shares[0] - shares[1]).sum() / 2
        return float(apart), float(np.sqrt(2 / np.pi) * spread.sum() / 2)
    order = order[: n_mine + n_others]
    is_mine = mine[order]
    last = np.append(np.diff(values[order]) > 0, True)  # of those that are equal
    below = np.cumsum(is_mine)[last] / n_mine - np.cumsum(~is_mine)[last] / n_others
    return float(np.abs(below).max()), KS_BY_CHANCE * (1 / n_mine + 1 / n_others) ** 0.5


def _difference(gone: Bool[np.ndarray, " n"], mine: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """The difference of the shares of missing values, and what it is by chance."""
    n_mine, n_others = int(mine.sum()), int((~mine).sum())
    if not n_mine or not n_others:
        return 0.0, 0.0
    pooled = gone.mean()
    spread = (pooled * (1 - pooled) * (1 / n_mine + 1 / n_others)) ** 0.5
    apart = abs(gone[mine].mean() - gone[~mine].mean())
    return float(apart), float((2 / np.pi) ** 0.5 * spread)


def _level_shares(
    values: Float[np.ndarray, " n"], mine: Bool[np.ndarray, " n"], levels: Sequence[str]
) -> tuple[LevelShare, ...]:
    if not levels:
        return ()
    of_mine, of_all = (level_shares(part, len(levels)) for part in (values[mine], values))
    order = np.argsort(-np.abs(of_mine - of_all), kind="stable")[:MOST_LEVELS]
    return tuple(
        LevelShare(
            levels[i],
            float(of_mine[i]),
            float(of_all[i]),
            float(of_mine[i] / of_all[i]) if of_all[i] else None,
        )
        for i in order
    )


def _middle(x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "q f"]:
    """The quantiles of each column, NaN for one without a value."""
    found = np.full((len(MIDDLE), x.shape[1]), np.nan)
    some = ~np.isnan(x).all(0)
    if len(x) and some.any():
        found[:, some] = np.nanquantile(x[:, some].astype(np.float64), MIDDLE, axis=0)
    return found


def _in_units(schema: Schema, rows: Float[np.ndarray, "q f"]) -> dict[str, list[Any]]:
    """Numbers as the data has them, by column: six digits, whole ones whole, dates dates."""
    decoded = schema.decode(rows, drawn=False)
    return {name: [_rounded(value) for value in column] for name, column in decoded.items()}


def _rounded(value: Any) -> Any:
    if not isinstance(value, float | np.floating):
        return None if value is None else value
    if not np.isfinite(value):
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


# --- rows ----------------------------------------------------------------------------------------


def _typical(
    x: Float[np.ndarray, "n f"],
    mine: Bool[np.ndarray, " n"],
    schema: Schema,
    widths: Float[np.ndarray, " f"],
) -> list[int]:
    """The rows of a component that are nearest to its medians and to its most frequent levels.

    Columns count alike: a number by its distance from the median in ``widths`` of the middle of all
    rows, at most 1; a level by the share of the component's rows that have another; a missing
    value by 1.
    """
    rows = np.flatnonzero(mine)
    away = np.zeros(len(rows))
    for name, values, width in zip(schema.names, x.T, widths, strict=True):
        levels = levels_of(schema, name, values)
        here = values[rows]
        there = ~np.isnan(here)
        if not there.any():
            continue
        if levels:
            others = 1 - level_shares(here, len(levels))
            distance = others[np.where(there, here, 0).astype(int).clip(0, len(levels) - 1)]
        else:
            middle = np.median(here[there])
            distance = np.minimum(np.abs(here - middle) / (width or 1.0), 1.0)
        away += np.where(there, distance, 1.0)
    return [int(row) for row in rows[np.argsort(away, kind="stable")[:TYPICAL]]]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if value is None or isinstance(value, str | int | bool) else str(value)

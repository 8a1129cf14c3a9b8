"""How good and how private the rows are that a model of a table draws.

Drawn rows are held beside rows that were held out, and each figure beside what chance alone makes
of it: the same between held-out and fitted rows. Where held-out rows have gaps, drawn ones get the
same, so that gaps tell nobody apart.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cpvae.data.order import as_read, is_bounded
from cpvae.data.schema import Schema
from cpvae.models.base import Model
from cpvae.streams import numpy_stream, torch_stream

TREES, FOLDS = 100, 5
FEWEST = 2 * FOLDS  # held-out rows
MOST_HELD_OUT, MOST_FITTED = 2_000, 10_000
BINS = 5  # of a column of numbers, for pairs
MOST_LEVELS = 10  # of a column, for pairs: others are one
SHOWN = 3  # columns and pairs that are named
COPY = 1e-6  # distance of a row that is another one, in standard deviations


class Line(NamedTuple):
    """A figure for people: what it is, its value, what chance makes of it, and how to read it."""

    what: str
    value: str
    by_chance: str
    reading: str


def quality(
    model: Model,
    schema: Schema,
    fitted: Float[np.ndarray, "n f"],
    held_out: Float[np.ndarray, "m f"],
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of rows that a model draws, as many as there are held-out ones; see `compared`.

    Raises:
        ValueError: images, or too few rows.
    """
    if schema.is_image:
        raise ValueError("Quality is of drawn rows of tables, and the data are images.")
    if len(held_out) < FEWEST:
        raise ValueError(
            f"{len(held_out)} held-out rows are too few to compare with: {FEWEST} are needed, and "
            f"some hundreds to be sure of anything. Name other DATA that was not fitted."
        )
    rng = numpy_stream(seed, "evaluation")
    held_out = held_out[rng.permutation(len(held_out))[:MOST_HELD_OUT]]
    fitted = fitted[rng.permutation(len(fitted))[:MOST_FITTED]]
    generator = torch_stream(seed, "sampling", device=model.aggregated.device)
    drawn, _ = model.sample(len(held_out), generator=generator)
    return compared(schema, fitted, held_out, as_written(schema, drawn), seed)


def compared(
    schema: Schema,
    fitted: Float[np.ndarray, "n f"],
    held_out: Float[np.ndarray, "m f"],
    made: Float[np.ndarray, "m f"],
    seed: int = 0,
    trees: int = TREES,
) -> dict[str, Any]:
    """Figures of made rows; each ``..._by_chance`` is the same of fitted rows.

    Arguments:
        schema: of the data
        fitted: rows that the model was fitted to, in the data's units
        held_out: rows that it was not fitted to
        made: rows that it drew
        seed: of the forest
        trees: of the forest

    Returns:
        ``n_held_out``; ``valid_share`` of the made values that the columns may have;
        ``column_distance`` by column, Kolmogorov-Smirnov for numbers and total variation for
        categories, and ``pair_distance`` by pair, total variation of a table of both, from 0 to 1,
        with their means; ``auc`` of a forest that tells made from held-out rows, out of fold;
        ``nearer_share``, how often a made row is nearer to a fitted one than a held-out row is;
        ``copies_share`` of the made rows that are a fitted row.
    """
    _, (made,) = as_read(schema, made, drawn=True)
    schema, (fitted, held_out) = as_read(schema, fitted, held_out)
    valid = float(1 - impossible(schema, fitted, made).mean())
    made = np.where(np.isnan(held_out), np.nan, made)
    some = fitted[: len(held_out)]
    columns, pairs = _by_column(schema, held_out, made), _by_pair(schema, fitted, held_out, made)
    return {
        "n_held_out": len(held_out),
        "valid_share": valid,
        "column_distance_mean": _mean(columns),
        "column_distance_mean_by_chance": _mean(_by_column(schema, held_out, some)),
        "pair_distance_mean": _mean(pairs),
        "pair_distance_mean_by_chance": _mean(_by_pair(schema, fitted, held_out, some)),
        "auc": told_apart(held_out, made, seed, trees),
        **_privacy(schema, fitted, held_out, made),
        "column_distance": columns,
        "pair_distance": pairs,
    }


def in_words(result: dict[str, Any]) -> list[Line]:
    """The figures with a sentence each on how to read them."""

    def worst(key: str) -> str:
        most = sorted(result[key].items(), key=lambda each: -each[1])[:SHOWN]
        return ", ".join(f"{name} {value:.2f}" for name, value in most)

    lines = [
        Line(
            "valid values",
            f"{100 * result['valid_share']:.1f} %",
            "100 %",
            "Share of drawn values that a column may have: its decimals, its limits, its "
            "categories.",
        ),
        Line(
            "distance of columns",
            f"{result['column_distance_mean']:.3f}",
            f"{result['column_distance_mean_by_chance']:.3f}",
            "0 is the same distribution, 1 has nothing in common. Beside it stands that of fitted "
            f"rows, the least there is. Farthest: {worst('column_distance')}.",
        ),
        Line(
            "told from real (AUC)",
            f"{result['auc']:.2f}",
            "0.50",
            "How well a random forest tells drawn from held-out rows: 0.5 is a coin, 1 is always.",
        ),
        Line(
            "nearer to fitted rows",
            f"{100 * result['nearer_share']:.0f} %",
            "50 %",
            "How often a drawn row is nearer to a fitted row than a held-out row is: well above 50 "
            "% the model repeats the rows it has seen.",
        ),
        Line(
            "copies of fitted rows",
            f"{100 * result['copies_share']:.1f} %",
            f"{100 * result['copies_share_by_chance']:.1f} %",
            "Drawn rows that are a fitted row, beside how many held-out rows are.",
        ),
    ]
    if result["pair_distance"]:
        pairs = Line(
            "distance of pairs",
            f"{result['pair_distance_mean']:.3f}",
            f"{result['pair_distance_mean_by_chance']:.3f}",
            f"The same of two columns together: how they go with one another. Farthest: "
            f"{worst('pair_distance')}.",
        )
        lines.insert(2, pairs)
    return lines


def as_written(schema: Schema, x: Float[Tensor, "n f"]) -> Float[np.ndarray, "n f"]:
    """Drawn rows with the decimals that the columns are written with, as numbers."""
    rows = x.double().cpu().numpy().copy()
    for i, (name, form) in enumerate(zip(schema.names, schema.forms, strict=False)):
        if name not in schema.levels:
            rows[:, i] = form.rounded(rows[:, i], is_bounded(schema, name))
    return rows


def impossible(
    schema: Schema, fitted: Float[np.ndarray, "n f"], made: Float[np.ndarray, "m f"]
) -> np.ndarray:
    """Which made values (m, f) no such table has.

    Numbers with more decimals than the column, beyond its limits, or negative where all fitted
    ones are not; and categories that it does not have.
    """
    bad = np.zeros(made.shape, bool)
    for i, name in enumerate(schema.names):
        values, there = made[:, i], fitted[:, i]
        if name in schema.levels:
            bad[:, i] = ~np.isin(values, np.arange(len(schema.levels[name])))
            continue
        known = schema.limits[i] if schema.limits else None
        width, low, high = known or (0.0, None, None)
        low = 0.0 if low is None and np.nanmin(there) >= 0 else low
        bad[:, i] = ~np.isfinite(values)
        slack = 1e-6 * np.maximum(1, np.abs(values))
        bad[:, i] |= (values < low - slack) if low is not None else False
        bad[:, i] |= (values > high + slack) if high is not None else False
        decimals = schema.forms[i].decimals if schema.forms else None
        if decimals is not None:
            bad[:, i] |= np.abs(values - np.round(values, decimals)) > slack
    return bad


def told_apart(
    truth: Float[np.ndarray, "n f"],
    made: Float[np.ndarray, "m f"],
    seed: int,
    trees: int = TREES,
    folds: int = FOLDS,
) -> float:
    """Area under the ROC curve of a forest that tells made rows from true ones, out of fold.

    Categories are their numbers.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    is_made = np.arange(len(truth) + len(made)) >= len(truth)
    forest = RandomForestClassifier(trees, random_state=seed)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    given = cross_val_predict(
        forest, np.concatenate([truth, made]), is_made, cv=parts, method="predict_proba"
    )
    return float(roc_auc_score(is_made, given[:, 1]))


def _mean(distances: dict[str, float]) -> float:
    return float(np.mean(list(distances.values()))) if distances else 0.0


def _by_column(
    schema: Schema, real: Float[np.ndarray, "n f"], made: Float[np.ndarray, "m f"]
) -> dict[str, float]:
    from scipy.stats import ks_2samp

    found = {}
    for i, name in enumerate(schema.names):
        a, b = (part[~np.isnan(part[:, i]), i] for part in (real, made))
        if not len(a) or not len(b):
            continue
        if name in schema.levels:
            counts = [
                np.bincount(c.astype(int), minlength=len(schema.levels[name])) for c in (a, b)
            ]
            distance = 0.5 * np.abs(counts[0] / len(a) - counts[1] / len(b)).sum()
        else:
            distance = ks_2samp(a, b, method="asymp").statistic
        found[name] = float(distance)
    return found


def _by_pair(
    schema: Schema,
    fitted: Float[np.ndarray, "n f"],
    real: Float[np.ndarray, "m f"],
    made: Float[np.ndarray, "m f"],
) -> dict[str, float]:
    """Total variation of the tables of all pairs of columns, numbers in bins of the fitted rows."""
    sides = [
        [_one_hot(schema, i, fitted[:, i], part[:, i]) for i in range(part.shape[1])]
        for part in (real, made)
    ]
    widths = [one.shape[1] for one in sides[0]]
    tables = []
    for side in sides:
        whole = np.concatenate(side, 1)
        there = np.stack([one.any(1) for one in side], 1).astype(float)
        both = np.repeat(np.repeat(there.T @ there, widths, 0), widths, 1)
        tables.append(whole.T @ whole / np.maximum(both, 1))
    off = 0.5 * np.abs(tables[0] - tables[1])
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    each = np.add.reduceat(np.add.reduceat(off, starts, 0), starts, 1)
    names = schema.names
    return {
        f"{names[i]} and {names[j]}": float(each[i, j])
        for i in range(len(names))
        for j in range(i + 1, len(names))
    }


def _one_hot(
    schema: Schema, i: int, fitted: Float[np.ndarray, " n"], column: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "m l"]:
    """Values of a column in bins of the fitted ones, rare categories in one; 0 where missing."""
    there, known = ~np.isnan(column), fitted[~np.isnan(fitted)]
    values = column[there]
    if (name := schema.names[i]) in schema.levels:
        counts = np.bincount(known.astype(int), minlength=len(schema.levels[name]))
        place = np.argsort(np.argsort(-counts, kind="stable"))  # 0 is the commonest
        n_bins = min(MOST_LEVELS, len(counts))
        number = np.minimum(place, n_bins - 1)[values.astype(int)]
    else:
        ends = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
        n_bins, number = len(ends) + 1, np.searchsorted(ends, values, side="right")
    one = np.zeros((len(column), n_bins))
    one[np.flatnonzero(there), number] = 1
    return one


def _privacy(
    schema: Schema,
    fitted: Float[np.ndarray, "n f"],
    held_out: Float[np.ndarray, "m f"],
    made: Float[np.ndarray, "m f"],
) -> dict[str, float]:
    """How near drawn and held-out rows are to their nearest fitted row."""
    from sklearn.neighbors import NearestNeighbors

    points = [schema.indicators(part)[0] for part in (fitted, held_out, made)]
    middle, spread = np.nanmean(points[0], 0), np.nanstd(points[0], 0)
    fitted, held_out, made = (
        np.nan_to_num((part - middle) / np.where(spread > 0, spread, 1.0)) for part in points
    )
    neighbours = NearestNeighbors(n_neighbors=1).fit(fitted)
    of_held_out, of_made = (neighbours.kneighbors(part)[0][:, 0] for part in (held_out, made))
    nearer = (of_made[:, None] < of_held_out).mean() + 0.5 * (
        of_made[:, None] == of_held_out
    ).mean()
    return {
        "nearer_share": float(nearer),
        "copies_share": float((of_made < COPY).mean()),
        "copies_share_by_chance": float((of_held_out < COPY).mean()),
    }

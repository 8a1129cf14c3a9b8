"""Where categories of a small or mixed table start: pieces of it, and groups of pieces that touch.

Pieces are components of a mixture. Where there are more of them than kinds, they cut a kind, and a
category that is held in a cut stays there. So pieces that touch soon share their categories, and
the objective says which of them are used.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpvae.clustering.mixture import Mixture, Rows, fit

EXAMPLES = 3_000  # that are looked at, at most: EM goes over them some thousand times
DONORS = 2_000  # of them, from which missing numbers are filled in
FEWEST = 10  # rows that make a piece
CORRELATED = 2_500  # numbers in all covariances up to which they are tried: more take long
STARTS = 3  # of K means for each number of means
CONFUSED = 0.1  # share of a piece that is given to another one above which the two touch


class Table(NamedTuple):
    """Rows as networks see them: numbers (n, w), NaN where missing, and one-hot categories (n, v).

    ``n_levels`` says how many of the v belong to each column of categories.
    """

    numbers: Float[np.ndarray, "n w"]
    one_hot: Float[np.ndarray, "n v"]
    n_levels: Sequence[int]


class Pieces(NamedTuple):
    """A `Mixture`, and of each of its components what `start.start` tells (k, 2, 2).

    ``middle`` (w) lies between the two values of a number that has only two, and so is a category
    as well; of other numbers it is NaN.
    """

    middle: Float[Tensor, " w"]
    log_weights: Float[Tensor, " k"]
    means: Float[Tensor, "k a"]
    precision: Float[Tensor, "k a *a"]
    log_chances: Float[Tensor, "k b"]
    between: Int[Tensor, "k 2 2"]

    def of(self, table: Table) -> Int[Tensor, "n 2 2"]:
        """Where rows start, also those that were not there before."""
        middle, *mixture = [each.numpy() for each in self[:-1]]
        rows = _rows(table, middle)
        n = len(rows.numbers)
        parts = zip(*(np.array_split(each, 1 + n // EXAMPLES) for each in rows[:2]), strict=True)
        own = [Mixture(*mixture).log_prob(*part).argmax(1) for part in parts]
        return self.between[np.concatenate(own)]


def pieces(table: Table, n_components: int, seed: int) -> Pieces:
    """The pieces of a table, found in `EXAMPLES` of its rows, and the groups of those that touch.

    Arguments:
        table: as the networks see it, see `start.table_of`
        n_components: pieces at most; categories beyond their number go with the last group
        seed: of the rows that are looked at, and of K means
    """
    from scipy.sparse.csgraph import connected_components

    some = np.random.default_rng(seed).permutation(len(table.numbers))[:EXAMPLES]
    table = Table(table.numbers[some], table.one_hot[some], table.n_levels)
    middle = np.array([_middle(column) for column in table.numbers.T])
    rows = _rows(table, middle)
    rows = rows._replace(numbers=_dequantised(rows.numbers, seed))
    mixture = _best_mixture(rows, n_components, seed)
    _, group = connected_components(_touch(rows, mixture), directed=False)
    category = np.argsort(np.argsort(group, kind="stable"))  # those of a group side by side
    last = np.bincount(group).cumsum() - 1
    first = np.append(0, last[:-1] + 1)
    last[-1] = n_components - 1  # with those for which there are no pieces
    between = np.stack([category, category, first[group], last[group]], 1).reshape(-1, 2, 2)
    return Pieces(*(torch.tensor(each) for each in (middle, *mixture, between)))


def _middle(column: Float[np.ndarray, " n"]) -> float:
    values = np.unique(column[~np.isnan(column)])
    return values.mean() if len(values) == 2 else np.nan


def _rows(table: Table, middle: Float[np.ndarray, " w"]) -> Rows:
    """Rows for a mixture: missing numbers as the mean of those of the nearest rows."""
    from sklearn.impute import KNNImputer  # takes a second

    numbers = table.numbers
    if np.isnan(numbers).any():
        donors = numbers[:: 1 + (len(numbers) - 1) // DONORS]
        numbers = KNNImputer(keep_empty_features=True).fit(donors).transform(numbers)
    two = ~np.isnan(middle)
    above = numbers[:, two] > middle[two]
    one_hot = np.concatenate([above, ~above, table.one_hot], 1).astype(np.float64)
    n_two = two.sum()
    after = n_two + np.repeat(np.arange(len(table.n_levels)), table.n_levels)
    column = np.concatenate([np.arange(n_two), np.arange(n_two), after])
    return Rows(numbers[:, ~two].astype(np.float64), one_hot, column)


def _dequantised(numbers: Float[np.ndarray, "n a"], seed: int) -> Float[np.ndarray, "n a"]:
    """Each number anywhere as near to its value as half the way to the next (Uria et al. 2013).

    A Gaussian on a value that many rows share, as a count of 0, would be as likely as it is thin.
    """
    random, spread = np.random.default_rng(seed), np.empty_like(numbers)
    for i, column in enumerate(numbers.T):
        values, place = np.unique(column, return_inverse=True)
        gap = np.pad(np.diff(values), 1, constant_values=np.inf if len(values) > 1 else 0)
        width = np.minimum(gap[:-1], gap[1:])[place]
        spread[:, i] = column + width * random.uniform(-0.5, 0.5, len(column))
    return spread


def _best_mixture(rows: Rows, n_components: int, seed: int) -> Mixture:
    """The best mixture for `Pieces` by integrated completed likelihood.

    K means asks for pieces of one size, and cuts a large or a long kind before it finds a small
    one. So EM goes on from K means, and from more means of which the nearest were joined, `STARTS`
    times each, with covariances of four forms; those with correlations only where numbers are few.
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans  # takes a second

    points = np.concatenate([rows.numbers, rows.one_hot], 1)
    n, n_numbers = rows.numbers.shape
    most = min(max(n_components, n // 8), len(np.unique(points, axis=0)))
    at_least = max(1, min(FEWEST, n // (2 * n_components)))
    diagonals = (True, False) if n_components * n_numbers**2 <= CORRELATED else (True,)
    tries = []
    n_means = sorted({min(times * n_components, most) for times in (1, 2, 3, 4, 6)})
    for m, again in product(n_means, range(STARTS)):
        found = KMeans(m, random_state=seed + again).fit(points)
        piece = found.labels_
        if m > n_components:
            join = AgglomerativeClustering(n_components, linkage="average")
            piece = join.fit_predict(found.cluster_centers_)[piece]
        member = np.eye(piece.max() + 1)[piece]
        tries += [
            fit(rows, member, tied, diagonal, at_least)
            for tied in (True, False)
            for diagonal in diagonals
        ]
    return max(tries, key=lambda each: each[0])[1]


def _touch(rows: Rows, mixture: Mixture) -> Bool[np.ndarray, "k k"]:
    """Whether a tenth of a piece, less what chance takes away, is rather of another one.

    Row by row the largest responsibility names the piece that a row is given to (Hennig 2010, who
    joins components by how often this errs).
    """
    from scipy.special import softmax

    responsibility = softmax(mixture.log_prob(rows.numbers, rows.one_hot), axis=1)
    given_to = np.eye(responsibility.shape[1])[responsibility.argmax(1)]
    expected = CONFUSED * responsibility.sum(0)
    at_least = np.maximum(0.5, expected - np.sqrt(expected))
    return responsibility.T @ given_to > at_least[:, None]

"""Initial clusters of a small or mixed table: components of a mixture, and those that overlap.

A mixture with more components than the data has clusters cuts a cluster, and categories that are
held to such a cut stay there. So components that overlap are taken together as one merged cluster:
at first every category learns its own component, later all categories of a merged cluster may share
its examples, and the objective alone decides which of them are used.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpvae.clustering.mixture import Mixture, Rows, fit_mixture

EXAMPLES = 3_000  # that are looked at, at most: EM goes over them some thousand times
DONORS = 2_000  # of them, from which missing numbers are filled in
FEWEST = 10  # rows of a component
CORRELATED = 2_500  # numbers in all covariances up to which they are tried: more take long
STARTS = 3  # of K means for each number of means
CONFUSED = 0.1  # share of a component assigned to another one above which the two overlap


class Table(NamedTuple):
    """Rows as networks read them: numbers (n, w), NaN where missing, and one-hot categories (n, v).

    ``n_levels`` says how many of the v belong to each column of categories.
    """

    numbers: Float[np.ndarray, "n w"]
    one_hot: Float[np.ndarray, "n v"]
    n_levels: Sequence[int]


class OverlapMixture(NamedTuple):
    """A `Mixture`, and the ``ranges`` (k, 2, 2) of categories that its components may be.

    The first of the two is the component's own category, from it to itself; the second goes from
    the first to the last category of its merged cluster.

    ``middle`` (w) lies between the two values of a number that has only two, and so is a category
    as well; of other numbers it is NaN.
    """

    middle: Float[Tensor, " w"]
    log_weights: Float[Tensor, " k"]
    means: Float[Tensor, "k a"]
    precision: Float[Tensor, "k a *a"]
    log_chances: Float[Tensor, "k b"]
    ranges: Int[Tensor, "k 2 2"]

    def assign(self, table: Table) -> Int[Tensor, "n 2 2"]:
        """The ranges of the most probable component of each row, new ones too."""
        return self.ranges[self.log_prob(table).argmax(1)]

    def log_prob(self, table: Table) -> Float[np.ndarray, "n k"]:
        """Log p(x, c) in nats of each row, new ones too, and each component."""
        middle, *mixture = [each.numpy() for each in self[:-1]]
        rows = _rows(table, middle)
        n = len(rows.numbers)
        parts = zip(*(np.array_split(each, 1 + n // EXAMPLES) for each in rows[:2]), strict=True)
        return np.concatenate([Mixture(*mixture).log_prob(*part) for part in parts])


def overlap_mixture(table: Table, n_components: int, seed: int) -> OverlapMixture:
    """A mixture fitted to `EXAMPLES` rows of a table, and which of its components overlap.

    Arguments:
        table: as the networks read it, see `initialise.as_table`
        n_components: components at most; categories beyond their number go with the last cluster
        seed: of the rows that are looked at, and of K means
    """
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(seed)
    some = rng.permutation(len(table.numbers))[:EXAMPLES]
    table = Table(table.numbers[some], table.one_hot[some], table.n_levels)
    middle = np.array([_middle(column) for column in table.numbers.T])
    rows = _rows(table, middle)
    rows = rows._replace(numbers=_dequantised(rows.numbers, rng))
    mixture = _best_mixture(rows, n_components, seed)
    _, merged = connected_components(_overlapping(rows, mixture), directed=False)
    category = np.argsort(np.argsort(merged, kind="stable"))  # side by side within a cluster
    last = np.bincount(merged).cumsum() - 1
    first = np.append(0, last[:-1] + 1)
    last[-1] = n_components - 1  # with the categories that have no component
    ranges = np.stack([category, category, first[merged], last[merged]], 1).reshape(-1, 2, 2)
    return OverlapMixture(*(torch.tensor(each) for each in (middle, *mixture, ranges)))


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


def _dequantised(
    numbers: Float[np.ndarray, "n a"], rng: np.random.Generator
) -> Float[np.ndarray, "n a"]:
    """Each number anywhere as near to its value as half the way to the next (Uria et al. 2013).

    The density of a Gaussian on a value that many rows share, as a count of 0, has no limit.
    """
    spread = np.empty_like(numbers)
    for i, column in enumerate(numbers.T):
        values, place = np.unique(column, return_inverse=True)
        gap = np.pad(np.diff(values), 1, constant_values=np.inf if len(values) > 1 else 0)
        width = np.minimum(gap[:-1], gap[1:])[place]
        spread[:, i] = column + width * rng.uniform(-0.5, 0.5, len(column))
    return spread


def _best_mixture(rows: Rows, n_components: int, seed: int) -> Mixture:
    """The best mixture by integrated completed likelihood, of several that EM ends in.

    K means likes clusters of one size, and cuts a large or a long one before it finds a small one.
    So EM begins at K means, and at more means of which the nearest were joined, `STARTS` times
    each, with covariances of four forms; those with correlations only where columns are few.
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans  # takes a second

    points = np.concatenate([rows.numbers, rows.one_hot], 1)
    n, n_numbers = rows.numbers.shape
    most = min(max(n_components, n // 8), len(np.unique(points, axis=0)))
    at_least = max(1, min(FEWEST, n // (2 * n_components)))
    diagonals = (True, False) if n_components * n_numbers**2 <= CORRELATED else (True,)
    tries, seen = [], set()
    n_means = sorted({min(times * n_components, most) for times in (1, 2, 3, 4, 6)})
    for m, again in product(n_means, range(STARTS)):
        found = KMeans(m, random_state=seed + again).fit(points)
        member = found.labels_
        if m > n_components:
            join = AgglomerativeClustering(n_components, linkage="average")
            member = join.fit_predict(found.cluster_centers_)[member]
        _, first, same = np.unique(member, return_index=True, return_inverse=True)
        if (partition := first[same].tobytes()) in seen:  # EM would end where it did
            continue
        seen.add(partition)
        responsibilities = np.eye(member.max() + 1)[member]
        tries += [
            fit_mixture(rows, responsibilities, tied, diagonal, at_least)
            for tied in (True, False)
            for diagonal in diagonals
        ]
    return max(tries, key=lambda each: each[0])[1]


def _overlapping(rows: Rows, mixture: Mixture) -> Bool[np.ndarray, "k k"]:
    """Whether more than a tenth of a component, less a standard deviation, is assigned to another.

    Rows are assigned by their largest responsibility; Hennig (2010) merges components by how often
    that is wrong.
    """
    from scipy.special import softmax

    responsibilities = softmax(mixture.log_prob(rows.numbers, rows.one_hot), axis=1)
    assigned = np.eye(responsibilities.shape[1])[responsibilities.argmax(1)]
    expected = CONFUSED * responsibilities.sum(0)
    at_least = np.maximum(0.5, expected - np.sqrt(expected))
    return responsibilities.T @ assigned > at_least[:, None]

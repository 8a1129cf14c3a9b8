"""Where categories of a small table start: pieces of the data, and groups of pieces that touch.

Pieces belong to spherical Gaussians of one variance, of which each has its share. Where there are
more of them than kinds, they cut a kind, and a category that is held in a cut stays there. So
pieces that touch soon share their categories, and the objective says which of them are used.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EXAMPLES = 10_000  # that are looked at, at most
FEWEST = 10  # points that make a piece
NEAR = 0.1  # share of a piece near another one above which the two touch


class Pieces(NamedTuple):
    """Means of points (m, d + 1), and of each what `start.start` tells (m, 2, 2).

    The last coordinate is how much further off a mean is because it has fewer points.
    """

    means: Float[Tensor, "m d_1"]
    between: Int[Tensor, "m 2 2"]

    def of(self, points: Float[np.ndarray, "n d"]) -> Int[Tensor, "n 2 2"]:
        """Where points start, by their nearest mean, also those that were not there before."""
        return self.between[_nearest(points, self.means.numpy())]


def pieces(points: Float[np.ndarray, "n d"], n_components: int, seed: int) -> Pieces:
    """The pieces of ``points``, found on `EXAMPLES` of them, and the groups of those that touch.

    Arguments:
        points: as the networks see them, see `start.seen_by`
        n_components: pieces at most; categories beyond their number go with the last group
        seed: of the points that are looked at, and of K means
    """
    from scipy.sparse.csgraph import connected_components

    some = points[np.random.default_rng(seed).permutation(len(points))[:EXAMPLES]]
    means = _means(some, n_components, seed)
    _, group = connected_components(_touch(some, means), directed=False)
    category = np.argsort(np.argsort(group, kind="stable"))  # those of a group side by side
    last = np.bincount(group).cumsum() - 1
    first = np.append(0, last[:-1] + 1)
    last[-1] = n_components - 1  # with those for which there are no means
    between = np.stack([category, category, first[group], last[group]], 1).reshape(-1, 2, 2)
    return Pieces(torch.from_numpy(means), torch.from_numpy(between).long())


def _means(
    points: Float[np.ndarray, "n d"], n_components: int, seed: int
) -> Float[np.ndarray, "k d_1"]:
    """Means of spherical Gaussians of one variance, for `Pieces`; few points make none.

    K means asks for pieces of one size, and cuts a large kind before it finds a small one. The
    classification EM (Celeux & Govaert 1992) learns their shares too. It goes on from K means, and
    from more means of which the nearest were joined, and the likeliest end is taken.
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans  # takes a second

    most = min(max(n_components, len(points) // 8), len(np.unique(points, axis=0)))
    at_least = max(1, min(FEWEST, len(points) // (2 * n_components)))
    tries = []
    for n_means in sorted({min(times * n_components, most) for times in (1, 2, 3, 4, 6)}):
        found = KMeans(n_means, random_state=seed).fit(points)
        piece = found.labels_
        if n_means > n_components:
            join = AgglomerativeClustering(n_components, linkage="average")
            piece = join.fit_predict(found.cluster_centers_)[piece]
        tries.append(_improved(points, piece, at_least))
    return max(tries, key=lambda each: each[0])[1]


def _improved(
    points: Float[np.ndarray, "n d"], piece: Int[np.ndarray, " n"], at_least: int
) -> tuple[float, Float[np.ndarray, "k d_1"]]:
    """The log-likelihood (up to a constant) of points and pieces that the EM ends in, and means."""
    for _ in range(100):
        before, member = piece, np.eye(piece.max() + 1)[piece]
        member = member[:, member.sum(0) >= at_least]
        size = member.sum(0)
        means = member.T @ points / size[:, None]
        inside = member.any(1)
        variance = np.square(points[inside] - member[inside] @ means).mean() + 1e-12
        charge = np.sqrt(2 * variance * np.log(size.max() / size))
        means = np.column_stack([means, charge])
        piece = _nearest(points, means)
        if np.array_equal(before, piece):
            break
    share = size / size.sum()
    return share @ np.log(share) - points.shape[1] / 2 * np.log(variance), means


def _touch(
    points: Float[np.ndarray, "n d"], means: Float[np.ndarray, "k d_1"]
) -> Bool[np.ndarray, "k k"]:
    """Whether more than a tenth of a piece, less what chance takes away, lies near another one.

    Near is the first quarter of the way from the border to the own mean. Of a Gaussian that is cut
    in halves 16 % lie there, of an even density 12.5 %, of two Gaussians whose means are four
    standard deviations apart 6 %, however many dimensions there are.
    """
    off, of_means = _off(points, means), _off(means[:, :-1], means)
    member = np.eye(len(means))[off.argmin(1)]
    further = off - (member * off).sum(1, keepdims=True)
    apart = of_means - np.diag(of_means)[:, None] + np.eye(len(means))
    way = further / (member @ apart)  # 0 at the border, 1 at the own mean
    expected = NEAR * member.sum(0)
    at_least = np.maximum(0, expected - np.sqrt(expected))
    return member.T @ (way < 0.25) > at_least[:, None]


def _nearest(
    points: Float[np.ndarray, "n d"], means: Float[np.ndarray, "k d_1"]
) -> Int[np.ndarray, " n"]:
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(_with_charge(points), means)


def _off(
    points: Float[np.ndarray, "n d"], means: Float[np.ndarray, "k d_1"]
) -> Float[np.ndarray, "n k"]:
    from sklearn.metrics import pairwise_distances

    return pairwise_distances(_with_charge(points), means, metric="sqeuclidean")


def _with_charge(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d_1"]:
    """Points where `Pieces` has means: they are charged nothing."""
    return np.column_stack([points, np.zeros(len(points))])

"""A mixture of Gaussians with full covariances and of categories, from given clusters.

Covariances are shrunk towards their diagonal by as much as predicts rows that were left out best:
where a cluster has few rows for its columns, correlations that it seems to have are chance. Numbers
that are missing (NaN) are integrated out, as EM does it (Ghahramani & Jordan 1994).
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SHRINKAGE = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # that are tried
FLOOR = 1e-3  # variance that is added to every column, in units of its own
FOLDS = 5
STARTS = 4  # of EM
EM_STEPS = 100  # at most
FEWEST_STEPS = 5  # where numbers are missing


class Points(NamedTuple):
    """Rows for a mixture: standardised numbers (n, d), NaN where missing, and categories one-hot.

    ``column`` (l) says to which column each of the l categories belongs; all are 0 in a row where
    one is missing.
    """

    numbers: Float[np.ndarray, "n d"]
    chances: Float[np.ndarray, "n l"]
    column: Int[np.ndarray, " l"]

    def take(self, rows: np.ndarray | slice) -> "Points":
        """Some of the rows."""
        return Points(self.numbers[rows], self.chances[rows], self.column)


def numbers_alone(x: Float[np.ndarray, "n d"]) -> Points:
    """Rows that have no categories."""
    return Points(x, np.zeros((len(x), 0)), np.zeros(0, int))


class Gaussians(NamedTuple):
    """K components: log-weights (k), means (k, d), covariances (k, d, d), log-chances (k, l)."""

    log_weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]
    log_chances: Float[np.ndarray, "k l"]

    def log_prob(self, points: Points) -> Float[np.ndarray, "n k"]:
        """Log p(x, c) in nats: of what is there in a row, and each component."""
        x, d = points.numbers, self.means.shape[1]
        lower = np.linalg.cholesky(self.covariances)
        scale = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1)
        pairs = zip(self.means, np.linalg.inv(lower), strict=True)
        squares = [np.square((x - mean) @ whiten.T).sum(1) for mean, whiten in pairs]
        log_prob = -scale - 0.5 * d * np.log(2 * np.pi) - 0.5 * np.stack(squares, 1)
        rows = np.isnan(x).any(1)
        if rows.any():
            n_there = d - np.isnan(x[rows]).sum(1)
            for k, pair in enumerate(zip(self.means, self.covariances, strict=True)):
                off, lower, solved = _known_part(x[rows], *pair)
                scale = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1)
                square = (off * solved).sum(1)
                log_prob[rows, k] = -0.5 * (square + n_there * np.log(2 * np.pi)) - scale
        return self.log_weights + log_prob + points.chances @ self.log_chances.T


def fit_gaussians(
    points: Points,
    responsibilities: Float[np.ndarray, "n k"],
    steps: int = 0,
    weight: Float[np.ndarray, " n"] | None = None,
) -> Gaussians:
    """The mixture of clusters, shrunk, and moved by EM where ``steps`` asks for it.

    Arguments:
        points: rows
        responsibilities: of the clusters for each row; a cluster may be empty
        steps: of EM, at most
        weight: of the rows: one that weighs 2 counts as two; by default each counts once
    """
    before, found = -np.inf, None
    weight = np.ones(len(points.numbers)) if weight is None else weight
    responsibilities = responsibilities * weight[:, None]
    if np.isnan(points.numbers).any():  # EM for what is missing needs a mixture to begin with
        steps, found = max(steps, FEWEST_STEPS), _likeliest(points, responsibilities, 1.0)
    shrinkage = _best_shrinkage(points, responsibilities, found, weight)
    found = _likeliest(points, responsibilities, shrinkage, found)
    for _ in range(steps):
        joint = found.log_prob(points)
        log_prob = np.logaddexp.reduce(joint, axis=1)
        mean = np.average(log_prob, weights=weight)
        if mean - before < 1e-4:
            break
        before, of = mean, np.exp(joint - log_prob[:, None]) * weight[:, None]
        found = _likeliest(points, of, shrinkage, found)
    return found


def stability_under_em(points: Points, member: Float[np.ndarray, "n k"]) -> float:
    """Adjusted Rand index of clusters with those that EM makes of them: 1 where it leaves them."""
    from sklearn.metrics import adjusted_rand_score

    moved = fit_gaussians(points, member, EM_STEPS).log_prob(points).argmax(1)
    return float(adjusted_rand_score(member.argmax(1), moved))


def stable_gaussians(
    x: Float[np.ndarray, "n d"], n_components: int, seed: int
) -> tuple[float, Gaussians]:
    """The likeliest of a few mixtures, and how well their clusters agree.

    The latter is the mean adjusted Rand index of all pairs: 1 where EM finds the same clusters from
    wherever it starts (von Luxburg 2010 on such stability).

    Arguments:
        x: standardised rows, none missing
        n_components: of a mixture
        seed: of the starts, `STARTS` numbers from it on
    """
    from sklearn.metrics import adjusted_rand_score
    from sklearn.mixture import GaussianMixture  # takes a second

    tries = [
        GaussianMixture(n_components, reg_covar=FLOOR, random_state=seed + start).fit(x)
        for start in range(STARTS)
    ]
    found = [mixture.predict(x) for mixture in tries]
    agree = [adjusted_rand_score(*pair) for pair in itertools.combinations(found, 2)]
    best = max(tries, key=lambda mixture: mixture.lower_bound_)
    of = best.predict_proba(x)
    return float(np.mean(agree)), fit_gaussians(numbers_alone(x), of, EM_STEPS)


def _best_shrinkage(
    points: Points,
    responsibilities: Float[np.ndarray, "n k"],
    before: Gaussians | None,
    weight: Float[np.ndarray, " n"],
) -> float:
    """The shrinkage under which rows are likeliest that a mixture of the others has not seen."""
    fold = np.random.default_rng(0).permutation(len(points.numbers)) % FOLDS
    total = np.zeros(len(SHRINKAGE))
    for held_out in range(FOLDS):
        rest, mine = fold != held_out, points.take(fold == held_out)
        whole = _likeliest(points.take(rest), responsibilities[rest], 0.0, before)
        for i, shrinkage in enumerate(SHRINKAGE):
            joint = _shrunk(whole, shrinkage).log_prob(mine)
            total[i] += weight[~rest] @ np.logaddexp.reduce(joint, axis=1)
    return SHRINKAGE[int(total.argmax())]


def _likeliest(
    points: Points,
    responsibilities: Float[np.ndarray, "n k"],
    shrinkage: float,
    before: Gaussians | None = None,
) -> Gaussians:
    """The likeliest mixture for given responsibilities; an empty cluster is like all rows.

    ``before`` says what to expect of numbers that are missing; without it each is taken to be the
    mean of its column.
    """
    x, d = points.numbers, points.numbers.shape[1]
    size = responsibilities.sum(0)
    weight = np.where(size < 1e-6, 1.0, responsibilities)
    means, covariances = [], []
    for k, of in enumerate(weight.T):
        filled, unsure = x, np.zeros((d, d))
        if np.isnan(x).any():
            filled, unsure = _expected(x, of, before, k)
        mean = of @ filled / of.sum()
        scatter = (filled - mean).T * of @ (filled - mean) + unsure
        means.append(mean)
        covariances.append(scatter / of.sum() + FLOOR * np.eye(d))
    log_weights = np.log(np.maximum(size, 1e-6) / size.sum())
    seen = weight.T @ points.chances + 0.5  # half a row of each category, so that none has 0
    same = points.column[:, None] == points.column
    log_chances = np.log(seen / (seen @ same))
    found = Gaussians(log_weights, np.stack(means), np.stack(covariances), log_chances)
    return _shrunk(found, shrinkage)


def _expected(
    x: Float[np.ndarray, "n d"], of: Float[np.ndarray, " n"], before: Gaussians | None, k: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "d d"]]:
    """Rows with what component k expects where they lack a number, and how unsure that is.

    The latter is the sum over rows, weighted by ``of``, of the covariances of what is missing.
    """
    gone = np.isnan(x)
    if before is None:
        there = (~gone * of[:, None]).sum(0)
        mean = (np.nan_to_num(x) * of[:, None]).sum(0) / np.maximum(there, 1e-12)
        return np.where(gone, mean, x), np.zeros((x.shape[1],) * 2)
    rows = gone.any(1)
    mean, covariance = before.means[k], before.covariances[k]
    _, lower, solved = _known_part(x[rows], mean, covariance)
    filled = x.copy()
    filled[rows] = np.where(gone[rows], mean + solved @ covariance, x[rows])
    there = ~gone[rows]
    to_known = covariance * (gone[rows][:, :, None] & there[:, None, :])
    whitened = np.linalg.solve(lower, to_known.transpose(0, 2, 1))
    explained = whitened.transpose(0, 2, 1) @ whitened
    unsure = covariance * (gone[rows][:, :, None] & gone[rows][:, None, :]) - explained
    return filled, np.tensordot(of[rows], unsure, 1)


def _known_part(
    x: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d d"], Float[np.ndarray, "n d"]]:
    """Of what is there: x - mean, the Cholesky factor of its covariance, and S^-1 (x - mean).

    In rows and columns of what is missing they are 0, those of the identity, and 0.
    """
    gone = np.isnan(x)
    off = np.where(gone, 0.0, x - mean)
    known = np.where(gone[:, :, None] | gone[:, None, :], np.eye(x.shape[1]), covariance)
    solved = np.linalg.solve(known, off[:, :, None])[:, :, 0]
    return off, np.linalg.cholesky(known), solved


def _shrunk(found: Gaussians, shrinkage: float) -> Gaussians:
    diagonal = found.covariances * np.eye(found.means.shape[1])
    covariances = (1 - shrinkage) * found.covariances + shrinkage * diagonal
    return found._replace(covariances=covariances)

"""A Gaussian mixture with full covariances from given clusters, for tables of numbers.

Covariances are shrunk towards their diagonal by as much as predicts rows that were left out best:
where a cluster has few rows for its columns, correlations that it seems to have are chance.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SHRINKAGE = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # that are tried
FLOOR = 1e-3  # variance that is added to every column, in units of its own
FOLDS = 5
STARTS = 4  # of EM
EM_STEPS = 100  # at most


class Gaussians(NamedTuple):
    """K components: log-weights (k), means (k, d) and covariances (k, d, d)."""

    log_weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]

    def log_prob(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Log p(x, c) in nats: of a row and each component."""
        lower = np.linalg.cholesky(self.covariances)
        scale = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1)
        pairs = zip(self.means, np.linalg.inv(lower), strict=True)
        squares = [np.square((x - mean) @ whiten.T).sum(1) for mean, whiten in pairs]
        constant = self.log_weights - scale - 0.5 * x.shape[1] * np.log(2 * np.pi)
        return constant - 0.5 * np.stack(squares, 1)


def fit_gaussians(
    x: Float[np.ndarray, "n d"], responsibilities: Float[np.ndarray, "n k"], steps: int = 0
) -> Gaussians:
    """The mixture of clusters, shrunk, and moved by EM where ``steps`` asks for it.

    Arguments:
        x: standardised rows, none missing
        responsibilities: of the clusters for each row; a cluster may be empty
        steps: of EM, at most
    """
    before, shrinkage = -np.inf, _best_shrinkage(x, responsibilities)
    found = _likeliest(x, responsibilities, shrinkage)
    for _ in range(steps):
        joint = found.log_prob(x)
        log_prob = np.logaddexp.reduce(joint, axis=1)
        if log_prob.mean() - before < 1e-4:
            break
        before = log_prob.mean()
        found = _likeliest(x, np.exp(joint - log_prob[:, None]), shrinkage)
    return found


def stability_under_em(x: Float[np.ndarray, "n d"], member: Float[np.ndarray, "n k"]) -> float:
    """Adjusted Rand index of clusters with those that EM makes of them: 1 where it leaves them."""
    from sklearn.metrics import adjusted_rand_score

    moved = fit_gaussians(x, member, EM_STEPS).log_prob(x).argmax(1)
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
    return float(np.mean(agree)), fit_gaussians(x, best.predict_proba(x), EM_STEPS)


def _best_shrinkage(
    x: Float[np.ndarray, "n d"], responsibilities: Float[np.ndarray, "n k"]
) -> float:
    """The shrinkage under which rows are likeliest that a mixture of the others has not seen."""
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS
    total = np.zeros(len(SHRINKAGE))
    for held_out in range(FOLDS):
        rest, mine = fold != held_out, fold == held_out
        whole = _likeliest(x[rest], responsibilities[rest], 0.0)
        for i, shrinkage in enumerate(SHRINKAGE):
            joint = _shrunk(whole, shrinkage).log_prob(x[mine])
            total[i] += np.logaddexp.reduce(joint, axis=1).sum()
    return SHRINKAGE[int(total.argmax())]


def _likeliest(
    x: Float[np.ndarray, "n d"], responsibilities: Float[np.ndarray, "n k"], shrinkage: float
) -> Gaussians:
    """The likeliest mixture for given responsibilities; an empty cluster is like all rows."""
    size = responsibilities.sum(0)
    empty = size < 1e-6
    weight = np.where(empty, 1.0, responsibilities)
    means = weight.T @ x / weight.sum(0)[:, None]
    each = zip(means, weight.T, strict=True)
    scatter = np.stack([(x - mean).T * of @ (x - mean) for mean, of in each])
    covariances = scatter / weight.sum(0)[:, None, None] + FLOOR * np.eye(x.shape[1])
    log_weights = np.log(np.maximum(size, 1e-6) / size.sum())
    return _shrunk(Gaussians(log_weights, means, covariances), shrinkage)


def _shrunk(found: Gaussians, shrinkage: float) -> Gaussians:
    diagonal = found.covariances * np.eye(found.means.shape[1])
    covariances = (1 - shrinkage) * found.covariances + shrinkage * diagonal
    return found._replace(covariances=covariances)

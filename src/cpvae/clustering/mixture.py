"""A mixture of Gaussians and of categories, fitted by EM, see `overlap`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

FLOOR = 0.05  # least standard deviation, in units of a column's own, as of the likelihood's noise
STEPS = 100  # of EM, at most


class Rows(NamedTuple):
    """Rows of a table (n): numbers (n, a), none missing, and one-hot categories (n, b).

    ``column`` (b) says to which column of categories each of the b belongs.
    """

    numbers: Float[np.ndarray, "n a"]
    one_hot: Float[np.ndarray, "n b"]
    column: Int[np.ndarray, " b"]


class Mixture(NamedTuple):
    """K components: log-weights (k), Gaussians, and log-probabilities of categories (k, b).

    ``precision`` is the inverse of the standard deviations (k, a), or of the lower Cholesky factor
    of the covariances (k, a, a).
    """

    log_weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k a"]
    precision: Float[np.ndarray, "k a *a"]
    log_chances: Float[np.ndarray, "k b"]

    def log_prob(
        self, numbers: Float[np.ndarray, "n a"], one_hot: Float[np.ndarray, "n b"]
    ) -> Float[np.ndarray, "n k"]:
        """Log p(x, c) in nats: of a row and each component."""
        if self.precision.ndim == 2:
            scale, square = self.precision, self.precision**2
            mixed = numbers**2 @ square.T - 2 * numbers @ (self.means * square).T
            distance = mixed + (self.means**2 * square).sum(1)
        else:
            scale = np.diagonal(self.precision, axis1=1, axis2=2)
            off = (numbers - self.means[:, None]) @ self.precision.transpose(0, 2, 1)
            distance = np.square(off).sum(2).T
        constant = self.log_weights + np.log(scale / np.sqrt(2 * np.pi)).sum(1)
        return constant - distance / 2 + one_hot @ self.log_chances.T


def fit_mixture(
    rows: Rows,
    responsibilities: Float[np.ndarray, "n k"],
    tied: bool,
    diagonal: bool,
    at_least: int,
) -> tuple[float, Mixture]:
    """A mixture by EM from given responsibilities, and how good it is.

    Arguments:
        rows: of a table
        responsibilities: of the components for each row, to begin with
        tied: one covariance for all components
        diagonal: no correlations (Celeux & Govaert 1995 compare covariances of these forms)
        at_least: rows of a component; one that has fewer is left out

    Returns:
        The integrated completed likelihood in nats per row (Biernacki, Celeux & Govaert 2000):
        log p(x) less the entropy of the responsibilities and less BIC's penalty for free
        parameters, those of components that were left out too, so that fewer components are no
        gain. And the mixture.
    """
    from scipy.special import xlogy

    n, a = rows.numbers.shape
    k = responsibilities.shape[1]
    before = -np.inf
    for _ in range(STEPS):
        responsibilities = responsibilities[:, responsibilities.sum(0) >= at_least]
        responsibilities = responsibilities / np.maximum(
            responsibilities.sum(1, keepdims=True), 1e-12
        )
        found = _likeliest(rows, responsibilities, tied, diagonal)
        joint = found.log_prob(rows.numbers, rows.one_hot)
        log_prob, responsibilities = _normalised(joint)
        if log_prob.mean() - before < 1e-4 and responsibilities.sum(0).min() >= at_least:
            break
        before = log_prob.mean()
    of_covariance = (a if diagonal else a * (a + 1) // 2) * (1 if tied else k)
    of_categories = len(rows.column) - len(np.unique(rows.column))
    free = k - 1 + k * a + of_covariance + k * of_categories
    entropy = -xlogy(responsibilities, responsibilities).sum(1).mean()
    return log_prob.mean() - entropy - free * np.log(n) / (2 * n), found


def _normalised(
    joint: Float[np.ndarray, "n k"],
) -> tuple[Float[np.ndarray, "n 1"], Float[np.ndarray, "n k"]]:
    """Log p(x) of log p(x, c), and the responsibilities; scipy's takes longer than a step of EM."""
    highest = joint.max(1, keepdims=True)
    share = np.exp(joint - highest)
    total = share.sum(1, keepdims=True)
    return highest + np.log(total), share / total


def _likeliest(
    rows: Rows, responsibilities: Float[np.ndarray, "n k"], tied: bool, diagonal: bool
) -> Mixture:
    """The likeliest mixture for given responsibilities, with half a row added to each category."""
    size = responsibilities.sum(0)
    means = responsibilities.T @ rows.numbers / size[:, None]
    floor = FLOOR**2 * rows.numbers.var(0) + 1e-12
    if diagonal:
        scatter = np.maximum(0, responsibilities.T @ rows.numbers**2 - size[:, None] * means**2)
    else:
        off = rows.numbers - means[:, None]
        scatter = off.transpose(0, 2, 1) @ (responsibilities.T[:, :, None] * off)
        floor = np.diag(floor)
    each = size.reshape(-1, *[1] * (scatter.ndim - 1))
    covariance = (scatter.sum(0) / size.sum() if tied else scatter / each) + floor
    root = np.sqrt(covariance) if diagonal else np.linalg.cholesky(covariance)
    precision = 1 / root if diagonal else np.linalg.inv(root)
    same = rows.column[:, None] == rows.column
    seen = responsibilities.T @ rows.one_hot + 0.5
    log_chances = np.log(seen / (seen @ same))
    precision = np.broadcast_to(precision, scatter.shape)
    return Mixture(np.log(size / size.sum()), means, precision, log_chances)

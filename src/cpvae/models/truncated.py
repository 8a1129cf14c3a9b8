"""Normal variables between two values: how probable that is, and draws of them.

All is in double precision and by logarithms, so that it holds far out in the tails too.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtri_exp

TINY = 1e-300
DRAWS = 500  # for the share of a component inside several ends
LOG_2PI = float(np.log(2 * np.pi))


def log_mass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Log of the standard normal probability between two values; minus infinity where none is."""
    low, high = np.broadcast_arrays(low, high)
    flip = low > 0  # to the side where the distribution function is not near 1
    lower, upper = np.where(flip, -high, low), np.where(flip, -low, high)
    below, above = log_ndtr(lower), log_ndtr(upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = above + np.log1p(-np.exp(below - above))
    return np.where(upper > lower, mass, -np.inf)


def draw(low: np.ndarray, high: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Standard normal variables between two values, by uniform ones (inverse distribution)."""
    low, high = np.broadcast_arrays(low, high)
    flip = low > 0
    lower, upper = np.where(flip, -high, low), np.where(flip, -low, high)
    inside = np.log(np.maximum(uniform, TINY)) + log_mass(lower, upper)
    drawn = ndtri_exp(np.minimum(np.logaddexp(log_ndtr(lower), inside), 0.0))
    return np.clip(np.where(flip, -drawn, drawn), low, high)


class Box:
    """Gaussians of r numbers, one a component, some of which are to lie in a box.

    Points are drawn one number after the other, each given those before it and inside its ends
    (Geweke, Hajivassiliou and Keane). Where one number has ends at most, they are exact draws.

    Arguments:
        mean: (k, r)
        covariance: (k, r, r)
        low: lower ends, (r), those of the ``n_ends`` first that have some
        high: upper ends
        n_ends: how many numbers have ends
    """

    def __init__(
        self,
        mean: np.ndarray,
        covariance: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        n_ends: int,
    ):
        self.mean, self.low, self.high, self.n_ends = mean, low, high, n_ends
        self.lower = np.linalg.cholesky(covariance)

    def draw(self, component: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Points (n, r) of components (n)."""
        noise = rng.standard_normal((len(component), self.mean.shape[1]))
        uniform = rng.random((len(component), self.n_ends))
        points = np.zeros_like(noise)
        for k, mine in self._of_each(component):
            for i in range(self.n_ends):
                low, high = self._ends(k, i, noise[mine])
                noise[mine, i] = np.nan_to_num(draw(low, high, uniform[mine, i]))
            points[mine] = self.mean[k] + noise[mine] @ self.lower[k].T
        first = slice(self.n_ends)
        points[:, first] = np.clip(points[:, first], self.low[first], self.high[first])
        return points

    def log_prob(self, component: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Log-density of points (n, r) of components (n) that `draw` may have drawn."""
        found = np.zeros(len(points))
        for k, mine in self._of_each(component):
            noise = np.linalg.solve(self.lower[k], (points[mine] - self.mean[k]).T).T
            scale = np.log(np.diagonal(self.lower[k])).sum()
            found[mine] = -0.5 * np.square(noise).sum(1) - scale
            found[mine] -= 0.5 * noise.shape[1] * LOG_2PI + self._log_mass(k, noise)
        return found

    def log_share(self, rng: np.random.Generator) -> np.ndarray:
        """Log of the share of each component that is in the box, (k), by draws."""
        found = []
        for k in range(len(self.mean)):
            noise = np.zeros((DRAWS if self.n_ends > 1 else 1, self.mean.shape[1]))
            uniform = rng.random((len(noise), self.n_ends))
            for i in range(self.n_ends):
                low, high = self._ends(k, i, noise)
                noise[:, i] = np.nan_to_num(draw(low, high, uniform[:, i]))
            found.append(logsumexp(self._log_mass(k, noise)) - np.log(len(noise)))
        return np.array(found)

    def _of_each(self, component: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for k in np.unique(component).tolist():
            yield k, np.flatnonzero(component == k)

    def _ends(self, k: int, i: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ends of number i as standard normal ones, given those before it (n, r)."""
        middle = self.mean[k, i] + noise[:, :i] @ self.lower[k, i, :i]
        scale = self.lower[k, i, i]
        return (self.low[i] - middle) / scale, (self.high[i] - middle) / scale

    def _log_mass(self, k: int, noise: np.ndarray) -> np.ndarray:
        """Log of the product of what lies between the ends of each number, given those before."""
        each = [log_mass(*self._ends(k, i, noise)) for i in range(self.n_ends)]
        return np.sum(each, axis=0) if each else np.zeros(len(noise))

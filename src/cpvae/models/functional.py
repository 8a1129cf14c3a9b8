r"""The maths: Gaussians, mixtures of Gaussians, and the divergences between them.

Everything here is a pure function of tensors, per example, in nats. One letter an axis: b batch,
s samples, k components, d latent.

A component of a mixture is

.. math:: p(z | c=k) = N(z | \mu_k, L_k L_k^T), \quad L_k = T_k \, diag(\sigma_k)

with :math:`T_k` unit lower triangular, or the identity for a diagonal component. Both the
log-density and the KL from a diagonal Gaussian need only the expected square

.. math:: E_q (z - \mu_k)^T P_k (z - \mu_k)
          = \langle P_k, E_q z z^T \rangle - 2 \mu_k^T P_k E_q z + \mu_k^T P_k \mu_k,
          \quad P_k = (L_k L_k^T)^{-1}

which is two matrix products for all pairs of example and component. No tensor of shape (b, k, d)
is ever made, so the cost stays flat in the number of components.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpvae.models.fused import diagonal_kl

LOG_2PI = math.log(2 * math.pi)
REACH = 5.0  # standard deviations up to which networks read values as they are
LOGVARS = (-8.0, 4.0)  # between which log-variances are as networks give them
MOST_GAMMA = 100.0  # from which on a ratio of gamma functions is taken by their series
MORE_LOGVAR = 2.0  # by which they go beyond at most


class Gaussian(NamedTuple):
    """A batch of Gaussians with diagonal covariance: ``mean`` and ``logvar`` of shape (..., d)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, normal: Tensor) -> Tensor:
        """Moves standard normal noise of shape (..., d) to a sample; differentiable (sec. 3.3)."""
        return torch.addcmul(self.mean, torch.exp(0.5 * self.logvar), normal)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats at ``z`` of shape (..., d), summed over d."""
        square = (z - self.mean) ** 2 * torch.exp(-self.logvar)
        return -0.5 * (square + self.logvar + LOG_2PI).sum(-1)


def soft_reach(x: Tensor) -> Tensor:
    """Values as networks read them: the identity up to `REACH`, and from there like a logarithm.

    So what a network does with a value a million standard deviations off is what it has learned to
    do with one some seventy off.
    """
    near = x.clamp(-REACH, REACH)
    return near + REACH * torch.asinh((x - near) / REACH)


def bounded(change: Tensor, most: float) -> Tensor:
    """A change of at most ``most`` in size; the identity where it is small."""
    return most * torch.tanh(change / most)


def soft_logvar(logvar: Tensor) -> Tensor:
    """Log-variances as networks give them, that end at `MORE_LOGVAR` beyond `LOGVARS`."""
    near = logvar.clamp(*LOGVARS)
    return near + bounded(logvar - near, MORE_LOGVAR)


class Mixture(NamedTuple):
    """What every prior returns: a mixture of Gaussians (CP-VAE reads it by row, eq. 5).

    ``logits`` (k) are unnormalised log-weights, ``mean`` and ``logvar`` are (k, d), and
    ``unit_tril`` is (k, d, d), unit lower triangular, or None for diagonal covariance.
    """

    logits: Tensor
    mean: Tensor
    logvar: Tensor
    unit_tril: Tensor | None = None

    def sample(self, component: Int[Tensor, " n"], normal: Float[Tensor, "n d"]) -> Tensor:
        """Samples of shape (n, d), row i from component ``component[i]``."""
        scaled = torch.exp(0.5 * self.logvar[component]) * normal
        if self.unit_tril is not None:
            scaled = torch.einsum("nij,nj->ni", self.unit_tril[component], scaled)
        return self.mean[component] + scaled


def expected_square(
    mean: Float[Tensor, "b d"], var: Float[Tensor, "b d"], mixture: Mixture
) -> Float[Tensor, "b k"]:
    """Mahalanobis square from each component, expected under N(mean, diag var): two matmuls.

    The origin is moved to the middle of the components first, because in single precision the
    three terms cancel badly when the means lie far from zero.
    """
    centre = mixture.mean.mean(0).detach()
    mean, mu = mean - centre, mixture.mean - centre
    if mixture.unit_tril is None:
        precision = torch.exp(-mixture.logvar)
        weighted_mu = mu * precision
        second = (mean**2 + var) @ precision.T
    else:
        identity = torch.eye(mu.shape[1], dtype=mu.dtype, device=mu.device)
        inverse = torch.linalg.solve_triangular(
            mixture.unit_tril,
            identity.expand_as(mixture.unit_tril),
            upper=False,
            unitriangular=True,
        )
        whiten = torch.exp(-0.5 * mixture.logvar).unsqueeze(-1) * inverse  # L^-1, (k, d, d)
        full_precision = whiten.mT @ whiten
        weighted_mu = torch.einsum("kij,kj->ki", full_precision, mu)
        moment = mean.unsqueeze(-1) * mean.unsqueeze(-2) + torch.diag_embed(var)
        second = moment.flatten(1) @ full_precision.flatten(1).T
    return second - 2 * mean @ weighted_mu.T + (mu * weighted_mu).sum(-1)


def component_log_prob(z: Float[Tensor, "b d"], mixture: Mixture) -> Float[Tensor, "b k"]:
    """Log p(z | c=k) in nats for every example and component (eq. 5)."""
    square = expected_square(z, torch.zeros_like(z), mixture)
    return -0.5 * (square + mixture.logvar.sum(-1) + z.shape[1] * LOG_2PI)


def mixture_log_prob(
    z: Float[Tensor, "b d"], mixture: Mixture
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b k"]]:
    """Log p(z) in nats, (b), and the log-responsibilities log p(c=k | z), (b, k)."""
    joint = component_log_prob(z, mixture) + torch.log_softmax(mixture.logits, -1)
    log_pz = torch.logsumexp(joint, -1)
    return log_pz, joint - log_pz.unsqueeze(-1)


def gaussian_log_prob(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log N(x; mean, exp(logvar)) in nats, each."""
    return -0.5 * ((x - mean) ** 2 * torch.exp(-logvar) + logvar + LOG_2PI)


def known_part(
    y: Float[Tensor, "b d"], mean: Float[Tensor, "*#b d"], covariance: Float[Tensor, "*#b d d"]
) -> tuple[Float[Tensor, "b d d"], Float[Tensor, "b d 1"]]:
    """The Cholesky factor of the covariance of what is there in y, and S^-1 (y - mean) of it.

    In rows and columns of what is missing (NaN) the factor is that of the identity, and the other
    is 0: so a batch has one shape whatever is missing.
    """
    gone = y.isnan()
    out = gone.unsqueeze(-1) | gone.unsqueeze(-2)
    identity = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    lower = torch.linalg.cholesky(torch.where(out, identity, covariance))
    off = torch.where(gone, 0.0, y - mean).unsqueeze(-1)
    return lower, torch.cholesky_solve(off, lower)


def marginal_log_prob(
    y: Float[Tensor, "b d"], mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " b"]:
    """Log-density in nats of what is there in y (NaN: missing), but for its powers of 2 pi."""
    lower, solved = known_part(y, mean, covariance)
    off = torch.where(y.isnan(), 0.0, y - mean)
    scale = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (off * solved.squeeze(-1)).sum(-1) - scale


def gaussian_kl(q: Gaussian, p: Gaussian) -> Float[Tensor, "*b"]:
    """KL(q || p) in nats between diagonal Gaussians row by row, each (*b, d)."""
    ratio = q.logvar - p.logvar
    square = (q.mean - p.mean) ** 2 * torch.exp(-p.logvar)
    return 0.5 * (torch.exp(ratio) + square - 1 - ratio).sum(-1)


def component_kl(q: Gaussian, mixture: Mixture) -> Float[Tensor, "b k"]:
    """KL(q(z|x) || p(z|c=k)) in nats for every example and component, closed form (eq. 8, B2)."""
    if mixture.unit_tril is None:
        return diagonal_kl(q.mean, q.logvar, mixture.mean, mixture.logvar)
    square = expected_square(q.mean, q.logvar.exp(), mixture)
    entropy = q.logvar.sum(-1, keepdim=True) + q.mean.shape[1]
    return 0.5 * (square + mixture.logvar.sum(-1) - entropy)


def categorical_kl(log_q: Float[Tensor, "b k"], log_p: Float[Tensor, " k"]) -> Float[Tensor, " b"]:
    """KL(q(c|x) || p(c)) in nats, from log-probabilities (eq. 9)."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel(0, 1) noise from uniform noise in [0, 1), kept finite at both ends in float32."""
    noise = uniform.clamp(torch.finfo(torch.float32).tiny, 1 - torch.finfo(torch.float32).eps)
    return noise.log_().neg_().log_().neg_()


def negative_binomial_log_prob(
    x: Float[Tensor, "*#b f"], log_mean: Float[Tensor, "*#b f"], log_dispersion: Float[Tensor, " f"]
) -> Float[Tensor, "*b f"]:
    """Log-probability in nats of counts with a mean m and a variance m + m^2 / dispersion."""
    r = torch.exp(log_dispersion)
    ways = _log_gamma_ratio(x + 1, r - 1) - torch.lgamma(r)
    ratio = log_mean - log_dispersion
    return ways - r * F.softplus(ratio) - x * F.softplus(-ratio)


def _log_gamma_ratio(x: Tensor, more: Tensor) -> Tensor:
    """Log of Gamma(x + more) / Gamma(x); for large x by Stirling, since the two would cancel."""
    small, large = x.clamp_max(MOST_GAMMA), x.clamp_min(MOST_GAMMA)
    exact = torch.lgamma(small + more) - torch.lgamma(small)
    ratio = (large - 0.5) * torch.log1p(more / large) + more * (torch.log(large + more) - 1)
    ratio = ratio + (1 / (large + more) - 1 / large) / 12
    return torch.where(x > MOST_GAMMA, ratio, exact)


def shares_in_groups(
    log_qc: Float[Tensor, "n k"], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "g k"]:
    """Share of each category in the group that it belongs to, by the q(c|x) of examples."""
    log_shares = log_qc.logsumexp(0)
    share = torch.zeros(len(groups), log_qc.shape[1], device=log_qc.device)
    for row, group in enumerate(groups):
        share[row, group] = log_shares[group].softmax(0)
    return share


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    """Log of the mean of exp(x) over ``dim``, without overflow."""
    return torch.logsumexp(x, dim) - math.log(x.shape[dim])


def marginal_entropy(log_qc: Float[Tensor, "b k"], usage: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Cross entropy in nats of the batch's mean q(c|x) to ``usage``, a running mean over batches.

    Its gradient is that of the entropy of the running mean. The entropy of the batch's own mean
    would ask every batch to hold all categories evenly, which batches of even data do not.
    """
    return -(log_qc.exp().mean(0) * usage.clamp_min(torch.finfo(usage.dtype).tiny).log()).sum()


def conditional_entropy(log_qc: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean H(q(c|x)) in nats: 0 where every example is sure of its category."""
    return -(log_qc.exp() * log_qc).sum(-1).mean()


def mutual_information(log_qc: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """I(c; x) in nats over the examples given: entropy of the mean less the mean entropy."""
    mean = log_qc.exp().mean(0)
    return marginal_entropy(log_qc, mean) - conditional_entropy(log_qc)

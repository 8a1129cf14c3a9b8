"""Covariances as factors and noise: x = mean + root u + noise, u ~ N(0, I), and q(u|x) of that."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Factors(NamedTuple):
    """Each covariance (k, d, d) as root root^T + diag(noise), and the posterior of u.

    q(u|x) has the mean ``maps`` (x - mean) and no correlations, its log-variances are ``logvar``.
    """

    roots: Float[Tensor, "k d d"]
    noise: Float[Tensor, "k d"]
    maps: Float[Tensor, "k d d"]
    logvar: Float[Tensor, "k d"]


def split_covariances(covariances: Float[Tensor, "k d d"]) -> Factors:
    """Covariances as factors and noise, with the one root whose posterior is diagonal.

    The noise of a component takes half of the conditional variances of its columns, divided by the
    largest eigenvalue of its precision scaled to a unit diagonal: what is left of its covariance is
    positive definite for every covariance.

    Raises:
        torch.linalg.LinAlgError: a covariance that is not positive definite.
    """
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariances))
    conditional = 1 / precision.diagonal(dim1=-2, dim2=-1)
    unit = conditional.sqrt()
    scaled = unit.unsqueeze(-1) * precision * unit.unsqueeze(-2)
    noise = 0.5 * conditional / torch.linalg.eigvalsh(scaled).amax(-1, keepdim=True)
    noise_root = noise.sqrt()
    left = covariances - torch.diag_embed(noise)
    signal, vectors = torch.linalg.eigh(left / noise_root.unsqueeze(-1) / noise_root.unsqueeze(-2))
    root = signal.clamp_min(0).sqrt()
    to_u = (root / (1 + root**2)).unsqueeze(-1) * vectors.mT
    return Factors(
        roots=noise_root.unsqueeze(-1) * vectors * root.unsqueeze(-2),
        noise=noise,
        maps=to_u / noise_root.unsqueeze(-2),
        logvar=-torch.log1p(root**2),
    )


def inverse_of_lower(lower: Float[Tensor, "k d d"]) -> Float[Tensor, "k d d"]:
    """Inverses of lower triangular matrices."""
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)

"""Priors over z. Each is a module whose forward returns a `Mixture`."""

import torch
from torch import Tensor, nn

from cpvae.functional import Mixture


class GaussianMixture(nn.Module):
    """K Gaussians with learned means and covariances (eq. 5; full covariance: footnote 3).

    CP-VAE reads the components one by one as p(z | c=k). Everything learned here is a parameter:
    it moves with the optimizer and is saved with the model.

    Arguments:
        n_components: K
        latent_dim: d
        covariance: ``diag``, or ``full`` for a learned Cholesky factor per component
        scale: standard deviation of the starting means around zero. Small values keep every
            component in reach of every example, so that none starts out dead.
    """

    logits: Tensor

    def __init__(
        self,
        n_components: int,
        latent_dim: int,
        covariance: str = "diag",
        scale: float = 0.05,
    ):
        super().__init__()
        self.mean = nn.Parameter(scale * torch.randn(n_components, latent_dim))
        self.logvar = nn.Parameter(torch.zeros(n_components, latent_dim))
        self.register_buffer("logits", torch.zeros(n_components))
        self.below_diagonal = None
        if covariance == "full":
            self.below_diagonal = nn.Parameter(torch.zeros(n_components, latent_dim, latent_dim))

    def forward(self) -> Mixture:
        """The mixture as it stands: equal weights 1/K, (k, d) means and log-variances."""
        unit_tril = None
        if self.below_diagonal is not None:
            identity = torch.eye(self.mean.shape[1], device=self.mean.device)
            unit_tril = torch.tril(self.below_diagonal, -1) + identity
        return Mixture(self.logits, self.mean, self.logvar, unit_tril)

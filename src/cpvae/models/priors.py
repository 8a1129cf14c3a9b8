"""Priors over z. Each is a module whose forward takes the encoder and returns a `Mixture`."""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpvae.choices import COVARIANCES, MIXING_WEIGHTS, PSEUDO_INPUTS, choose
from cpvae.models.functional import Gaussian, Mixture

Encoder = Callable[[Tensor], Gaussian]  # observed data (b, f) -> q(z | x)


class StandardNormal(nn.Module):
    """N(0, I), the prior of the plain VAE: a mixture of one component, with nothing to learn."""

    mean: Tensor
    n_components = 1
    starts_from_data = False

    def __init__(self, latent_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, latent_dim))

    def forward(self, encoder: Encoder | None = None) -> Mixture:
        """One component with zero mean and unit variance; the encoder is not used."""
        return Mixture(self.mean[:, 0], self.mean, self.mean)


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
        mixing_weights: ``uniform``, 1/K each as in the paper, or ``learned``

    Raises:
        ValueError: an unknown ``covariance`` or ``mixing_weights``.
    """

    logits: Tensor
    starts_from_data = False

    def __init__(
        self,
        n_components: int,
        latent_dim: int,
        covariance: str = "diag",
        scale: float = 0.05,
        mixing_weights: str = "uniform",
    ):
        super().__init__()
        choose("covariance", covariance, COVARIANCES)
        choose("mixing_weights", mixing_weights, MIXING_WEIGHTS)
        self.n_components = n_components
        self.mean = nn.Parameter(scale * torch.randn(n_components, latent_dim))
        self.logvar = nn.Parameter(torch.zeros(n_components, latent_dim))
        if mixing_weights == "learned":
            self.logits = nn.Parameter(torch.zeros(n_components))
        else:
            self.register_buffer("logits", torch.zeros(n_components))
        self.below_diagonal = None
        if covariance == "full":
            self.below_diagonal = nn.Parameter(torch.zeros(n_components, latent_dim, latent_dim))

    def forward(self, encoder: Encoder | None = None) -> Mixture:
        """The mixture as it stands: (k) weights, (k, d) means and log-variances.

        The encoder is not used.
        """
        unit_tril = None
        if self.below_diagonal is not None:
            identity = torch.eye(self.mean.shape[1], device=self.mean.device)
            unit_tril = torch.tril(self.below_diagonal, -1) + identity
        return Mixture(self.logits, self.mean, self.logvar, unit_tril)

    @torch.no_grad()
    def merged(self, share: Float[Tensor, "m k"], logits: Float[Tensor, " m"]) -> "GaussianMixture":
        """The mixture with fewer components, each with the moments of several of these.

        Arguments:
            share: of each component in the mixture that becomes one; rows sum to 1
            logits: of the new mixing weights, which are learned
        """
        small, mixture = copy.deepcopy(self), self()
        mean = share @ mixture.mean
        apart = mixture.mean.unsqueeze(0) - mean.unsqueeze(1)  # (m, k, d)
        scale = torch.exp(0.5 * mixture.logvar)
        if mixture.unit_tril is None:
            var = share @ scale**2 + torch.einsum("mk,mkd->md", share, apart**2)
            small.logvar = nn.Parameter(var.log())
        else:
            root = mixture.unit_tril * scale.unsqueeze(1)  # (k, d, d)
            covariance = torch.einsum("mk,kij->mij", share, root @ root.mT)
            covariance = covariance + torch.einsum("mk,mki,mkj->mij", share, apart, apart)
            tril = torch.linalg.cholesky(covariance)
            diagonal = tril.diagonal(dim1=1, dim2=2)
            small.logvar = nn.Parameter(2 * diagonal.log())
            small.below_diagonal = nn.Parameter(torch.tril(tril / diagonal.unsqueeze(1), -1))
        small.n_components, small.mean = len(mean), nn.Parameter(mean)
        del small.logits  # it may be a buffer
        small.logits = nn.Parameter(logits)
        return small


class VampPrior(nn.Module):
    """The mixture of the posteriors of K learned pseudo-inputs (Tomczak and Welling 2018).

    Arguments:
        n_components: K
        n_features: f, as the encoder takes them
        bounded: keep pseudo-inputs in [0, 1], for data that lies there
        pseudo_inputs: ``data``, to be started at examples by `start_from`, or ``random``

    Raises:
        ValueError: unknown ``pseudo_inputs``.
    """

    logits: Tensor

    def __init__(
        self, n_components: int, n_features: int, bounded: bool, pseudo_inputs: str = "data"
    ):
        super().__init__()
        choose("pseudo_inputs", pseudo_inputs, PSEUDO_INPUTS)
        self.n_components, self.bounded = n_components, bounded
        self.starts_from_data = pseudo_inputs == "data"
        start = torch.rand if bounded else torch.randn
        self.pseudo_inputs = nn.Parameter(start(n_components, n_features))
        self.register_buffer("logits", torch.zeros(n_components))

    @torch.no_grad()
    def start_from(self, inputs: Float[Tensor, "n f"], generator: torch.Generator) -> None:
        """Starts the pseudo-inputs at examples drawn at random, as the networks read them, plus
        a little noise; once.
        """
        shape = self.pseudo_inputs.shape
        row = torch.randint(len(inputs), shape[:1], generator=generator, device=inputs.device)
        noise = torch.randn(shape, generator=generator, device=inputs.device)
        self.pseudo_inputs.copy_(inputs[row] + 0.01 * noise)
        self.starts_from_data = False  # they have been started

    def forward(self, encoder: Encoder) -> Mixture:
        """Equal weights 1/K, and the means and log-variances (k, d) of q(z | pseudo-input)."""
        inputs = self.pseudo_inputs.clamp(0, 1) if self.bounded else self.pseudo_inputs
        return Mixture(self.logits, *encoder(inputs))


Prior = StandardNormal | GaussianMixture | VampPrior

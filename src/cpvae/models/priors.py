"""Priors over z. Each is a module whose forward takes the encoder and returns a `Mixture`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpvae.models.functional import Gaussian, Mixture

Encoder = Callable[[Tensor], Gaussian]  # observed data (b, f) -> q(z | x)


class StandardNormal(nn.Module):
    """N(0, I), the prior of the plain VAE: a mixture of one component, with nothing to learn."""

    mean: Tensor
    n_components = 1

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
        weights: ``uniform``, 1/K each as in the paper, or ``learned``

    Raises:
        ValueError: an unknown ``covariance`` or ``weights``.
    """

    logits: Tensor

    def __init__(
        self,
        n_components: int,
        latent_dim: int,
        covariance: str = "diag",
        scale: float = 0.05,
        weights: str = "uniform",
    ):
        super().__init__()
        if covariance not in ("diag", "full"):
            raise ValueError(f"covariance={covariance!r} is unknown: choose from diag, full.")
        if weights not in ("uniform", "learned"):
            raise ValueError(f"weights={weights!r} is unknown: choose from uniform, learned.")
        self.n_components = n_components
        self.mean = nn.Parameter(scale * torch.randn(n_components, latent_dim))
        self.logvar = nn.Parameter(torch.zeros(n_components, latent_dim))
        self.learned = weights == "learned"
        if self.learned:
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
        if pseudo_inputs not in ("data", "random"):
            raise ValueError(
                f"pseudo_inputs={pseudo_inputs!r} is unknown: choose from data, random."
            )
        self.n_components, self.bounded = n_components, bounded
        self.from_data = pseudo_inputs == "data"
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
        self.from_data = False  # they have been started

    def forward(self, encoder: Encoder) -> Mixture:
        """Equal weights 1/K, and the means and log-variances (k, d) of q(z | pseudo-input)."""
        inputs = self.pseudo_inputs.clamp(0, 1) if self.bounded else self.pseudo_inputs
        return Mixture(self.logits, *encoder(inputs))


Prior = StandardNormal | GaussianMixture | VampPrior

"""The plain VAE: one layer of latents under a mixture of Gaussians."""

import abc
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpvae.models.base import Model, Noise, Terms, normal_like, trunk_and_decoder
from cpvae.models.functional import Gaussian, Mixture, component_kl, mixture_log_prob
from cpvae.models.likelihoods import Likelihood
from cpvae.models.networks import glorot
from cpvae.models.priors import Prior


class WithoutCategories(Model):
    """A model with no q(c|x): its components are those of the prior over the z that it encodes."""

    @abc.abstractmethod
    def encode(self, inputs: Float[Tensor, "b i"]) -> Gaussian:
        """The posterior of the latents that the prior is over, of what the networks read."""

    def mixture(self) -> Mixture:
        """The prior as it stands."""
        return self.prior(self.encode)

    def log_responsibilities(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Log p(c=k | z) of the prior's components."""
        return mixture_log_prob(z, self.mixture())[1]

    def log_qc(self, observed: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Log-responsibilities of the prior's components at the posterior mean."""
        return self.log_responsibilities(self.encode(self.read(observed)).mean)

    @torch.no_grad()
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b e"]) -> Terms:
        """The same as `terms`, which has nothing to enumerate."""
        return self.terms(x, Noise(normal, normal[:, :0]))

    def draw_code(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        """A value from each of the prior's components given."""
        mixture = self.mixture()
        return mixture.sample(component, normal_like(mixture.mean[component], generator))


class VAE(WithoutCategories):
    """x | z with z from a mixture of Gaussians: N(0, I), a learned one, or a VampPrior.

    Arguments:
        shape: shape of one example, (f,) or (channels, height, width)
        likelihood: p(x | decoder output), see `likelihoods`
        prior: p(z)
        latent_dim: dimensions of z
        hidden: widths of the hidden layers of trunk and decoder
        network: ``mlp``, or ``conv`` for images

    Raises:
        ValueError: an unknown name, or ``conv`` for examples that are not images.
    """

    def __init__(
        self,
        shape: Sequence[int],
        likelihood: Likelihood,
        prior: Prior,
        latent_dim: int = 40,
        hidden: Sequence[int] = (300, 300),
        network: str = "mlp",
    ):
        super().__init__(shape, likelihood, prior.n_components)
        trunk, decoder = trunk_and_decoder(network, shape)
        read = likelihood.inputs_shape(shape)
        self.latent_dim = latent_dim
        self.normal_dim, self.gumbel_dim = latent_dim, 0
        self.trunk = trunk(read, hidden)
        self.posterior = glorot(nn.Linear(hidden[-1], 2 * latent_dim), halves=2)
        self.prior = prior
        self.decoder = decoder(latent_dim, likelihood.params_shape(shape), hidden)

    def encode(self, inputs: Float[Tensor, "b i"]) -> Gaussian:
        """q(z | x) of what the networks read of observed data, (b, d)."""
        return self.gaussian_of(self.posterior(self.trunk(inputs)))

    def decode(self, *latent: Tensor) -> Float[Tensor, "b p"]:
        """Parameters of p(x | z) of z (b, d), as the likelihood reads them."""
        return self.decoder(*latent)

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        expectation: str = "straight_through",
    ) -> Terms:
        """The terms of the bound, nats per example, one sample of z each.

        Temperature and expectation are there because every model has them: there is no c to draw.
        KL(z) is closed form under a standard prior and log q(z|x) - log p(z) at the sample of z
        under a mixture.
        """
        q = self.encode(self.read(x))
        z = q.sample(noise.normal)
        kl_z, log_qc = kl_of_mixture(q, z, self.mixture())
        log_px = self.likelihood.log_prob(x, self.decode(z))
        return Terms(log_px, kl_z, torch.zeros_like(kl_z), log_qc)

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z) - log q(z|x) in nats for z drawn from q(z|x), (s, b)."""
        q = Gaussian(*(t.repeat(n_samples, 1) for t in self.encode(self.read(x))))
        z = q.sample(normal_like(q.mean, generator))
        log_pz, _ = mixture_log_prob(z, self.mixture())
        log_px = self.likelihood.log_prob(x, self.decode(z).view(n_samples, len(x), -1))
        return log_px + (log_pz - q.log_prob(z)).view(n_samples, len(x))

    def code(self, observed: Float[Tensor, "n f"]) -> tuple[tuple[Tensor], Float[Tensor, "n k"]]:
        """Posterior mean of z, and the log-responsibilities of the components there."""
        z = self.encode(self.read(observed)).mean
        return (z,), self.log_responsibilities(z)

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"]]:
        """A z from each of the components given."""
        return (self.draw_code(component, generator),)


def kl_of_mixture(
    q: Gaussian, z: Float[Tensor, "b d"], mixture: Mixture
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b k"]]:
    """KL(q || mixture), closed form for one component, and log-responsibilities at ``z``."""
    if len(mixture.mean) == 1:
        kl = component_kl(q, mixture)
        return kl.squeeze(-1), torch.zeros_like(kl)
    log_pz, log_qc = mixture_log_prob(z, mixture)
    return q.log_prob(z) - log_pz, log_qc

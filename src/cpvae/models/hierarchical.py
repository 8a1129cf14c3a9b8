"""The two-layer VAE of the VampPrior paper (Tomczak and Welling 2018, section 4)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpvae.models.base import Noise, Terms, normal_like, trunk_and_decoder
from cpvae.models.functional import Gaussian, gaussian_kl, mixture_log_prob
from cpvae.models.likelihoods import Likelihood
from cpvae.models.networks import gated_mlp, glorot
from cpvae.models.priors import Prior
from cpvae.models.vae import WithoutCategories, kl_of_mixture


class HierarchicalVAE(WithoutCategories):
    """Two layers of latents, x | z1, z2 and z1 | z2, as in the VampPrior paper (section 4).

    q(z1, z2 | x) = q(z2 | x) q(z1 | x, z2), and the prior over z2 is N(0, I) or a VampPrior.

    Arguments:
        shape: shape of one example, (f,) or (channels, height, width)
        likelihood: p(x | decoder output), see `likelihoods`
        prior: p(z2)
        latent_dim: dimensions of each of z1 and z2
        hidden: widths of the hidden layers
        network: ``mlp``, or ``conv`` for images

    Raises:
        ValueError: as for `VAE`.
    """

    latent_names = ("z2", "z1")

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
        self.normal_dim, self.gumbel_dim = 2 * latent_dim, 0
        width = hidden[-1]
        self.trunk2 = trunk(read, hidden)
        self.posterior2 = glorot(nn.Linear(width, 2 * latent_dim), halves=2)
        self.trunk1 = trunk(read, hidden[-1:])
        self.from_z2 = gated_mlp([latent_dim, width])
        self.joint1 = gated_mlp([2 * width, width])
        self.posterior1 = glorot(nn.Linear(width, 2 * latent_dim), halves=2)
        self.prior = prior
        self.prior1 = nn.Sequential(
            gated_mlp([latent_dim, *hidden]), glorot(nn.Linear(width, 2 * latent_dim), halves=2)
        )
        self.decode1 = gated_mlp([latent_dim, width])
        self.decode2 = gated_mlp([latent_dim, width])
        self.decoder = decoder(2 * width, likelihood.params_shape(shape), hidden[-1:])

    def encode(self, inputs: Float[Tensor, "b i"]) -> Gaussian:
        """q(z2 | x) of what the networks read of observed data, (b, d)."""
        return self.gaussian_of(self.posterior2(self.trunk2(inputs)))

    def encode_lower(self, features: Float[Tensor, "b h"], z2: Float[Tensor, "b d"]) -> Gaussian:
        """q(z1 | x, z2) of the features ``trunk1`` finds in x, (b, d)."""
        joint = self.joint1(torch.cat([features, self.from_z2(z2)], dim=-1))
        return self.gaussian_of(self.posterior1(joint))

    def lower_prior(self, z2: Float[Tensor, "b d"]) -> Gaussian:
        """p(z1 | z2), (b, d)."""
        return self.gaussian_of(self.prior1(z2))

    def decode(self, *latent: Tensor) -> Float[Tensor, "b p"]:
        """Parameters of p(x | z1, z2) of z2 and z1 (b, d), as the likelihood reads them."""
        z2, z1 = latent
        return self.decoder(torch.cat([self.decode1(z1), self.decode2(z2)], dim=-1))

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        expectation: str = "straight_through",
    ) -> Terms:
        """The terms of the bound, nats per example, one sample of (z1, z2) each; see `VAE.terms`.

        ``kl_z`` is KL(z2) + KL(z1 given z2), the second in closed form at the sample of z2.
        """
        normal2, normal1 = noise.normal.chunk(2, dim=-1)
        inputs = self.read(x)
        q2 = self.encode(inputs)
        z2 = q2.sample(normal2)
        q1 = self.encode_lower(self.trunk1(inputs), z2)
        kl_2, log_qc = kl_of_mixture(q2, z2, self.mixture())
        kl_z = kl_2 + gaussian_kl(q1, self.lower_prior(z2))
        log_px = self.likelihood.log_prob(x, self.decode(z2, q1.sample(normal1)))
        return Terms(log_px, kl_z, torch.zeros_like(kl_z), log_qc)

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z1,z2) - log q(z1,z2|x) in nats for both drawn from q, (s, b)."""
        inputs = self.read(x)
        features = self.trunk1(inputs).repeat(n_samples, 1)
        q2 = Gaussian(*(t.repeat(n_samples, 1) for t in self.encode(inputs)))
        z2 = q2.sample(normal_like(q2.mean, generator))
        q1 = self.encode_lower(features, z2)
        z1 = q1.sample(normal_like(q1.mean, generator))
        log_pz = mixture_log_prob(z2, self.mixture())[0] + self.lower_prior(z2).log_prob(z1)
        log_px = self.likelihood.log_prob(x, self.decode(z2, z1).view(n_samples, len(x), -1))
        log_qz = q2.log_prob(z2) + q1.log_prob(z1)
        return log_px + (log_pz - log_qz).view(n_samples, len(x))

    def code(
        self, observed: Float[Tensor, "n f"]
    ) -> tuple[tuple[Tensor, Tensor], Float[Tensor, "n k"]]:
        """Posterior means of z2 and z1, and the log-responsibilities of the components of z2."""
        inputs = self.read(observed)
        z2 = self.encode(inputs).mean
        z1 = self.encode_lower(self.trunk1(inputs), z2).mean
        return (z2, z1), self.log_responsibilities(z2)

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """z2 from the components given, and z1 from p(z1 | z2)."""
        z2 = self.draw_code(component, generator)
        lower = self.lower_prior(z2)
        return z2, lower.sample(normal_like(lower.mean, generator))

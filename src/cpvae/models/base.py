"""Generative models: how x comes from z and c, and how both are inferred from x.

Data flows trunk -> classifier q(c|x) and posterior q(z|x, c) -> decoder -> likelihood. Models hold
no schedule and draw no noise in training: temperature and noise are arguments, so a step is a pure
function of parameters, data and noise.

Six systems are three classes times three priors, see `MODELS`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.models.functional import (
    Gaussian,
    Mixture,
    categorical_kl,
    component_kl,
    component_log_prob,
    gaussian_kl,
    gumbel,
    mixture_log_prob,
)
from cpvae.models.fused import straight_through
from cpvae.models.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixedLikelihood,
)
from cpvae.models.networks import NETWORKS, gated_mlp, glorot
from cpvae.models.priors import GaussianMixture, Prior, StandardNormal, VampPrior

GATES = ("probabilities", "category")
ESTIMATORS = ("relaxed", "straight_through", "exact")
NEGLIGIBLE = 1e-9  # categories below this probability are left out of an enumeration


class Noise(NamedTuple):
    """What a pass consumes: ``normal`` (b, normal_dim) for z, ``gumbel`` (b, gumbel_dim) for c."""

    normal: Tensor
    gumbel: Tensor


class Terms(NamedTuple):
    """The bound taken apart (eq. 7-9), nats per example, each (b); ``log_qc`` is (b, k).

    For a model without a category ``kl_c`` is 0, and ``log_qc`` are the log-responsibilities
    log p(c=k | z) of its prior's components.
    """

    log_px: Tensor
    kl_z: Tensor
    kl_c: Tensor
    log_qc: Tensor

    def elbo(self) -> Float[Tensor, " b"]:
        """Log p(x|z,c) - KL(c) - KL(z), nats per example (eq. 7)."""
        return self.log_px - self.kl_z - self.kl_c


class Generative(nn.Module):
    """What users ask of a model, in their own units; data in and out has shape ``(n, *shape)``.

    A model brings four methods: ``mixture`` (the prior as it stands), ``code`` (the latent values
    of observed data, z first, and log q(c|x)), ``draw`` (latent values from given components of the
    prior) and ``decode``.
    """

    drawn_from = "uniform"  # where `sample` draws components: the weights the prior is trained with
    aggregated: Tensor
    normal_dim: int  # noise that an example consumes, see `Noise`
    gumbel_dim: int
    mixture: Callable[[], Mixture]
    code: Callable[..., tuple[tuple[Tensor, ...], Tensor]]
    draw: Callable[..., tuple[Tensor, ...]]
    decode: Callable[..., Tensor]

    def __init__(self, shape: Sequence[int], likelihood: Likelihood, n_components: int):
        super().__init__()
        self.shape, self.likelihood, self.n_components = tuple(shape), likelihood, n_components
        self.register_buffer("aggregated", torch.full((n_components,), 1 / n_components))

    @torch.no_grad()
    def cluster_probs(self, x: Tensor) -> Float[Tensor, "n k"]:
        """q(c|x) of data (n, ...); grey values are read as they are, nothing is drawn.

        For a model without a category: the responsibilities of its prior's components at the
        posterior mean of z.
        """
        return self.code(self.likelihood.observe(x.flatten(1)))[1].exp()

    @torch.no_grad()
    def embed(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Posterior mean of z of data (n, ...), given its most probable category."""
        return self.code(self.likelihood.observe(x.flatten(1)))[0][0]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z, c) at the posterior mean of z and the most probable category."""
        latent, _ = self.code(self.likelihood.observe(x.flatten(1)))
        return self.likelihood.mean(self.decode(*latent)).unflatten(-1, self.shape)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        component: int | None = None,
        from_: str | None = None,
        generator: torch.Generator | None = None,
        mean: bool = False,
    ) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Generates data: c, then z | c, then x | z, c (section 3.1 and 5).

        Arguments:
            n: number of examples
            component: draw all from this one, or None to draw c too
            from_: draw c from the ``aggregated`` posterior of the training data (eq. 14), or each
                as often as another, ``uniform``; by default `drawn_from`. Not used when
                ``component`` is given
            generator: source of randomness on the model's device; a fixed one by default
            mean: give E[x | z, c] instead of a draw from p(x | z, c). For grey images under a
                Bernoulli likelihood this is the grey image.

        Returns:
            x of shape ``(n, *shape)`` in the data's units, and the component (n) each came from.

        Raises:
            ValueError: n below 1, no such component, or an unknown ``from_``.
        """
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one example.")
        if component is not None and not 0 <= component < self.n_components:
            last = self.n_components - 1
            raise ValueError(f"component={component} does not exist: choose one from 0 to {last}.")
        from_ = from_ or self.drawn_from
        if from_ not in ("aggregated", "uniform"):
            raise ValueError(f"from_={from_!r} is unknown: use 'aggregated' or 'uniform'.")
        device = self.aggregated.device
        if generator is None:
            generator = torch.Generator(device).manual_seed(0)
        if component is not None:
            drawn = torch.full((n,), component, device=device)
        else:
            uniform = torch.full_like(self.aggregated, 1 / self.n_components)
            weights = self.aggregated if from_ == "aggregated" else uniform
            drawn = torch.multinomial(weights, n, replacement=True, generator=generator)
        params = self.decode(*self.draw(drawn, generator))
        x = self.likelihood.mean(params) if mean else self.likelihood.sample(params, generator)
        return x.unflatten(-1, self.shape), drawn

    def rows_at_once(self) -> int:
        """Rows to decode at once in evaluation: 64 MB on a CPU, 1 GB on a GPU, roughly."""
        limit = 2**30 if self.aggregated.is_cuda else 2**26  # more leaves the cache: half the speed
        widest = max(weight.shape[0] for weight in self.parameters() if weight.ndim > 1)
        floats = 8 * math.prod(self.shape) + 4 * (self.n_components + widest)
        return max(1, limit // (4 * floats))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


class ConditionalPriorVAE(Generative):
    r"""CP-VAE (section 3): c ~ Cat, z | c=k ~ N(mu_k, Sigma_k) learned, x | z, c.

    Arguments:
        shape: shape of one example, (f,) or (channels, height, width)
        likelihood: p(x | decoder output), see `likelihoods`
        prior: p(z | c), component by component
        latent_dim: dimensions of z
        hidden: widths of the hidden layers of trunk and decoder
        network: ``mlp``, or ``conv`` for images
        gate: what q(z | x, .) reads: ``probabilities`` is the vector q(c|x), one Gaussian shared by
            all categories; ``category`` is the category itself, one Gaussian for each (eq. 6)

    Raises:
        ValueError: an unknown name, or ``conv`` for examples that are not images.
    """

    drawn_from = "aggregated"

    def __init__(
        self,
        shape: Sequence[int],
        likelihood: Likelihood,
        prior: GaussianMixture,
        latent_dim: int = 40,
        hidden: Sequence[int] = (300, 300),
        network: str = "mlp",
        gate: str = "probabilities",
    ):
        super().__init__(shape, likelihood, prior.n_components)
        _choose("gate", gate, GATES)
        trunk, decoder, seen = _networks(network, shape, likelihood)
        n_components = prior.n_components
        self.latent_dim, self.gate = latent_dim, gate
        self.normal_dim, self.gumbel_dim = latent_dim, n_components
        self.trunk = trunk(seen, hidden)
        self.classifier = glorot(nn.Linear(hidden[-1], n_components))
        self.posterior_gate = glorot(nn.Linear(n_components, hidden[-1]))
        self.posterior = glorot(nn.Linear(hidden[-1] + n_components, 2 * latent_dim), halves=2)
        self.prior = prior
        self.decoder = decoder(latent_dim + n_components, seen, hidden)

    # --- inference -------------------------------------------------------------------------------

    def infer(self, x: Float[Tensor, "b f"]) -> tuple[Tensor, Float[Tensor, "b k"]]:
        """Features (b, h) and log q(c|x) (b, k) of observed data (eq. 6)."""
        features = self.trunk(self.likelihood.inputs(x))
        return features, F.log_softmax(self.classifier(features), dim=-1)

    def encode(self, features: Float[Tensor, "b h"], gate: Float[Tensor, "b k"]) -> Gaussian:
        """q(z | x, .) of features, each gated by the category or its probabilities (fig. 2)."""
        opened = features * (2 * torch.sigmoid(self.posterior_gate(gate)))
        mean, logvar = self.posterior(torch.cat([opened, gate], dim=-1)).chunk(2, dim=-1)
        return Gaussian(mean, logvar)

    def mixture(self) -> Mixture:
        """The prior as it stands: component k is p(z | c=k)."""
        return self.prior()

    def log_pc(self) -> Float[Tensor, " k"]:
        """Log p(c): -log K each, as in the paper, unless the weights are learned."""
        return F.log_softmax(self.prior.logits, dim=0)

    def _gate(self, log_qc: Float[Tensor, "b k"], c: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        return log_qc.exp() if self.gate == "probabilities" else c

    def decode(self, z: Float[Tensor, "b d"], c: Float[Tensor, "b k"]) -> Float[Tensor, "b f"]:
        """Parameters of p(x | z, c), as the likelihood reads them."""
        return self.decoder(torch.cat([z, c], dim=-1))

    # --- the bound -------------------------------------------------------------------------------

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        estimator: str = "straight_through",
    ) -> Terms:
        """The terms of the bound for observed data, differentiable, nats per example (eq. 7-9).

        Arguments:
            x: observed data (binarised or standardised by the likelihood), (b, f)
            noise: normal (b, d) and Gumbel (b, k) noise
            temperature: of the Gumbel-Softmax sample; ``exact`` has no use for it
            estimator: how the expectation over c is taken. ``relaxed`` decodes a continuous
                relaxation (eq. 11): the paper's value, and not a bound. ``straight_through``
                decodes a one-hot sample with the relaxed gradient: a one-sample estimate of the
                bound. ``exact`` decodes all K categories: the bound with no noise from c.
        """
        features, log_qc = self.infer(x)
        b, k = log_qc.shape
        kl_c = categorical_kl(log_qc, self.log_pc())
        if estimator == "exact":
            every = torch.eye(k, dtype=x.dtype, device=x.device).repeat(b, 1)
            x, features, log_q, normal = (
                t.repeat_interleave(k, 0) for t in (x, features, log_qc, noise.normal)
            )
            log_px, kl_z = self._given(x, features, log_q, normal, every)
            qc = log_qc.exp()
            log_px, kl_z = ((qc * t.view(b, k)).sum(-1) for t in (log_px, kl_z))
            return Terms(log_px, kl_z, kl_c, log_qc)
        perturbed = (log_qc + noise.gumbel) / temperature
        relaxed = estimator == "relaxed"
        c = F.softmax(perturbed, dim=-1) if relaxed else straight_through(perturbed)
        return Terms(*self._given(x, features, log_qc, noise.normal, c), kl_c, log_qc)

    def _given(
        self,
        x: Float[Tensor, "r f"],
        features: Float[Tensor, "r h"],
        log_qc: Float[Tensor, "r k"],
        normal: Float[Tensor, "r d"],
        c: Float[Tensor, "r k"],
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
        """Log p(x|z,c) and KL(z) of examples, each with its own category ``c``."""
        gate = self._gate(log_qc, c)
        q = self.encode(features, gate)
        kl_z = (gate * component_kl(q, self.mixture())).sum(-1)
        return self.likelihood.log_prob(x, self.decode(q.sample(normal), c)), kl_z

    @torch.no_grad()
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b d"]) -> Terms:
        """The same as ``terms(..., estimator="exact")``, for evaluation at any K.

        Only pairs of example and category with q(c|x) above 1e-9 are decoded. Most examples have
        one or two, so this costs about one pass instead of K, and what is left out is worth less
        than 1e-6 nats a category.
        """
        features, log_qc = self.infer(x)
        qc = log_qc.exp()
        pairs = (qc > NEGLIGIBLE).nonzero()
        log_px, kl_z = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for row, component in (part.T for part in pairs.split(self.rows_at_once())):
            c = F.one_hot(component, self.n_components).to(x.dtype)
            given = self._given(x[row], features[row], log_qc[row], normal[row], c)
            weight = qc[row, component]
            log_px.index_add_(0, row, weight * given[0])
            kl_z.index_add_(0, row, weight * given[1])
        return Terms(log_px, kl_z, categorical_kl(log_qc, self.log_pc()), log_qc)

    @torch.no_grad()
    def given_each(
        self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b k"]:
        """E log p(x|z,c) - KL(q(z|x,c) || p(z|c)) for every category, nats (eq. 7), one z each."""
        features, log_qc = self.infer(x)
        k = self.n_components
        row = torch.arange(len(x), device=x.device).repeat_interleave(k)
        every = torch.eye(k, dtype=x.dtype, device=x.device).repeat(len(x), 1)
        log_px, kl_z = self._given(x[row], features[row], log_qc[row], normal[row], every)
        if self.gate == "probabilities":  # `_given` weighs all categories by the gate
            q = self.encode(features, log_qc.exp())
            return log_px.view(-1, k) - component_kl(q, self.mixture())
        return (log_px - kl_z).view(-1, k)

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z,c) - log q(z,c|x) in nats for one-hot c and z drawn from q(z,c|x), (s, b).

        The mean over s estimates the bound; `functional.log_mean_exp` over s estimates log p(x)
        from below (importance weighting, Burda et al. 2016).
        """
        features, log_qc = self.infer(x)
        b = x.shape[0]
        draw = torch.multinomial(log_qc.exp(), n_samples, replacement=True, generator=generator)
        component = draw.T.flatten()
        row = torch.arange(b, device=x.device).repeat(n_samples)
        c = F.one_hot(component, self.n_components).to(x.dtype)
        if self.gate == "probabilities":  # one Gaussian for all categories, so one for all samples
            q = Gaussian(*(t[row] for t in self.encode(features, log_qc.exp())))
        else:
            q = self.encode(features[row], c)
        z = q.sample(_normal(q.mean, generator))
        log_px = self.likelihood.log_prob(x, self.decode(z, c).view(n_samples, b, -1)).flatten()
        pick = component.unsqueeze(-1)
        log_pz = component_log_prob(z, self.mixture()).gather(1, pick).squeeze(-1)
        log_pc = self.log_pc()[component]
        log_q = q.log_prob(z) + log_qc[row].gather(1, pick).squeeze(-1)
        return (log_px + log_pz + log_pc - log_q).view(n_samples, b)

    @torch.no_grad()
    def posterior_given(self, x: Float[Tensor, "b f"], component: int) -> Gaussian:
        """q(z | x, c=component) of observed data: mean and log-variance, (b, d) each."""
        features, log_qc = self.infer(x)
        c = torch.zeros_like(log_qc)
        c[:, component] = 1
        return self.encode(features, self._gate(log_qc, c))

    def code(
        self, observed: Float[Tensor, "n f"]
    ) -> tuple[tuple[Tensor, Tensor], Float[Tensor, "n k"]]:
        """Posterior mean of z and one-hot c at the most probable category, and log q(c|x)."""
        features, log_qc = self.infer(observed)
        c = F.one_hot(log_qc.argmax(-1), self.n_components).to(log_qc.dtype)
        return (self.encode(features, self._gate(log_qc, c)).mean, c), log_qc

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        """A z from p(z | c) for each of the components given, and c one-hot."""
        c = F.one_hot(component, self.n_components).to(self.aggregated.dtype)
        mixture = self.mixture()
        return mixture.sample(component, _normal(mixture.mean[component], generator)), c


class VAE(Generative):
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
        trunk, decoder, seen = _networks(network, shape, likelihood)
        self.latent_dim = latent_dim
        self.normal_dim, self.gumbel_dim = latent_dim, 0
        self.trunk = trunk(seen, hidden)
        self.posterior = glorot(nn.Linear(hidden[-1], 2 * latent_dim), halves=2)
        self.prior = prior
        self.decoder = decoder(latent_dim, seen, hidden)

    def encode(self, inputs: Float[Tensor, "b w"]) -> Gaussian:
        """q(z | x) of what the networks read of observed data, (b, d)."""
        return Gaussian(*self.posterior(self.trunk(inputs)).chunk(2, dim=-1))

    def decode(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b f"]:
        """Parameters of p(x | z), as the likelihood reads them."""
        return self.decoder(z)

    def mixture(self) -> Mixture:
        """The prior as it stands, p(z)."""
        return self.prior(self.encode)

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        estimator: str = "straight_through",
    ) -> Terms:
        """The terms of the bound, nats per example, one sample of z each.

        Temperature and estimator are there because every model has them: there is no c to draw.
        KL(z) is closed form under a standard prior and log q(z|x) - log p(z) at the sample of z
        under a mixture.
        """
        q = self.encode(self.likelihood.inputs(x))
        z = q.sample(noise.normal)
        kl_z, log_qc = _kl_of_mixture(q, z, self.mixture())
        log_px = self.likelihood.log_prob(x, self.decode(z))
        return Terms(log_px, kl_z, torch.zeros_like(kl_z), log_qc)

    @torch.no_grad()
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b d"]) -> Terms:
        """The same as `terms`, which has nothing to enumerate."""
        return self.terms(x, Noise(normal, normal[:, :0]))

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z) - log q(z|x) in nats for z drawn from q(z|x), (s, b)."""
        q = Gaussian(*(t.repeat(n_samples, 1) for t in self.encode(self.likelihood.inputs(x))))
        z = q.sample(_normal(q.mean, generator))
        log_pz, _ = mixture_log_prob(z, self.mixture())
        log_px = self.likelihood.log_prob(x, self.decode(z).view(n_samples, len(x), -1))
        return log_px + (log_pz - q.log_prob(z)).view(n_samples, len(x))

    def code(self, observed: Float[Tensor, "n f"]) -> tuple[tuple[Tensor], Float[Tensor, "n k"]]:
        """Posterior mean of z, and the log-responsibilities of the components there."""
        z = self.encode(self.likelihood.inputs(observed)).mean
        return (z,), mixture_log_prob(z, self.mixture())[1]

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"]]:
        """A z from each of the components given."""
        mixture = self.mixture()
        return (mixture.sample(component, _normal(mixture.mean[component], generator)),)


class HierarchicalVAE(Generative):
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
        trunk, decoder, seen = _networks(network, shape, likelihood)
        self.latent_dim = latent_dim
        self.normal_dim, self.gumbel_dim = 2 * latent_dim, 0
        width = hidden[-1]
        self.trunk2 = trunk(seen, hidden)
        self.posterior2 = glorot(nn.Linear(width, 2 * latent_dim), halves=2)
        self.trunk1 = trunk(seen, hidden[-1:])
        self.from_z2 = gated_mlp([latent_dim, width])
        self.joint1 = gated_mlp([2 * width, width])
        self.posterior1 = glorot(nn.Linear(width, 2 * latent_dim), halves=2)
        self.prior = prior
        self.prior1 = nn.Sequential(
            gated_mlp([latent_dim, *hidden]), glorot(nn.Linear(width, 2 * latent_dim), halves=2)
        )
        self.decode1 = gated_mlp([latent_dim, width])
        self.decode2 = gated_mlp([latent_dim, width])
        self.decoder = decoder(2 * width, seen, hidden[-1:])

    def encode(self, inputs: Float[Tensor, "b w"]) -> Gaussian:
        """q(z2 | x) of what the networks read of observed data, (b, d)."""
        return Gaussian(*self.posterior2(self.trunk2(inputs)).chunk(2, dim=-1))

    def encode_lower(self, features: Float[Tensor, "b h"], z2: Float[Tensor, "b d"]) -> Gaussian:
        """q(z1 | x, z2) of the features ``trunk1`` finds in x, (b, d)."""
        joint = self.joint1(torch.cat([features, self.from_z2(z2)], dim=-1))
        return Gaussian(*self.posterior1(joint).chunk(2, dim=-1))

    def lower_prior(self, z2: Float[Tensor, "b d"]) -> Gaussian:
        """p(z1 | z2), (b, d)."""
        return Gaussian(*self.prior1(z2).chunk(2, dim=-1))

    def decode(self, z2: Float[Tensor, "b d"], z1: Float[Tensor, "b d"]) -> Float[Tensor, "b f"]:
        """Parameters of p(x | z1, z2), as the likelihood reads them."""
        return self.decoder(torch.cat([self.decode1(z1), self.decode2(z2)], dim=-1))

    def mixture(self) -> Mixture:
        """The prior as it stands, p(z2)."""
        return self.prior(self.encode)

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        estimator: str = "straight_through",
    ) -> Terms:
        """The terms of the bound, nats per example, one sample of (z1, z2) each; see `VAE.terms`.

        ``kl_z`` is KL(z2) + KL(z1 given z2), the second in closed form at the sample of z2.
        """
        normal2, normal1 = noise.normal.chunk(2, dim=-1)
        inputs = self.likelihood.inputs(x)
        q2 = self.encode(inputs)
        z2 = q2.sample(normal2)
        q1 = self.encode_lower(self.trunk1(inputs), z2)
        kl_2, log_qc = _kl_of_mixture(q2, z2, self.mixture())
        kl_z = kl_2 + gaussian_kl(q1, self.lower_prior(z2))
        log_px = self.likelihood.log_prob(x, self.decode(z2, q1.sample(normal1)))
        return Terms(log_px, kl_z, torch.zeros_like(kl_z), log_qc)

    @torch.no_grad()
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b e"]) -> Terms:
        """The same as `terms`, which has nothing to enumerate."""
        return self.terms(x, Noise(normal, normal[:, :0]))

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z1,z2) - log q(z1,z2|x) in nats for both drawn from q, (s, b)."""
        inputs = self.likelihood.inputs(x)
        features = self.trunk1(inputs).repeat(n_samples, 1)
        q2 = Gaussian(*(t.repeat(n_samples, 1) for t in self.encode(inputs)))
        z2 = q2.sample(_normal(q2.mean, generator))
        q1 = self.encode_lower(features, z2)
        z1 = q1.sample(_normal(q1.mean, generator))
        log_pz = mixture_log_prob(z2, self.mixture())[0] + self.lower_prior(z2).log_prob(z1)
        log_px = self.likelihood.log_prob(x, self.decode(z2, z1).view(n_samples, len(x), -1))
        log_qz = q2.log_prob(z2) + q1.log_prob(z1)
        return log_px + (log_pz - log_qz).view(n_samples, len(x))

    def code(
        self, observed: Float[Tensor, "n f"]
    ) -> tuple[tuple[Tensor, Tensor], Float[Tensor, "n k"]]:
        """Posterior means of z2 and z1, and the log-responsibilities of the components of z2."""
        inputs = self.likelihood.inputs(observed)
        z2 = self.encode(inputs).mean
        z1 = self.encode_lower(self.trunk1(inputs), z2).mean
        return (z2, z1), mixture_log_prob(z2, self.mixture())[1]

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """z2 from the components given, and z1 from p(z1 | z2)."""
        mixture = self.mixture()
        z2 = mixture.sample(component, _normal(mixture.mean[component], generator))
        lower = self.lower_prior(z2)
        return z2, lower.sample(_normal(lower.mean, generator))


def draw_noise(model: Generative, n: int, generator: torch.Generator) -> Noise:
    """Fresh noise for ``n`` examples."""
    device = generator.device
    normal = torch.randn(n, model.normal_dim, generator=generator, device=device)
    uniform = torch.rand(n, model.gumbel_dim, generator=generator, device=device)
    return Noise(normal, gumbel(uniform))


def _kl_of_mixture(
    q: Gaussian, z: Float[Tensor, "b d"], mixture: Mixture
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b k"]]:
    """KL(q || mixture), closed form for one component, and log-responsibilities at ``z``."""
    if len(mixture.mean) == 1:
        kl = component_kl(q, mixture)
        return kl.squeeze(-1), torch.zeros_like(kl)
    log_pz, log_qc = mixture_log_prob(z, mixture)
    return q.log_prob(z) - log_pz, log_qc


def _choose(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: choose from {', '.join(allowed)}.")


def _networks(
    network: str, shape: Sequence[int], likelihood: Likelihood
) -> tuple[Any, Any, tuple[int, ...]]:
    """Trunk, decoder, and the shape of what they take and give."""
    _choose("network", network, tuple(NETWORKS))
    if network == "conv" and len(shape) != 3:
        raise ValueError(f"network='conv' needs images, and examples have shape {tuple(shape)}.")
    return *NETWORKS[network], likelihood.network_shape(shape)


Model = ConditionalPriorVAE | VAE | HierarchicalVAE


class System(NamedTuple):
    """A model of the paper's comparison: a class, its prior, and settings that only it has."""

    model: type[Model]
    prior: type[Prior]
    settings: tuple[str, ...] = ()


MODELS = {
    "vae": System(VAE, StandardNormal),
    "mog": System(VAE, GaussianMixture, ("covariance", "prior_scale")),
    "vamp": System(VAE, VampPrior, ("pseudo_inputs",)),
    "hvae": System(HierarchicalVAE, StandardNormal),
    "hvamp": System(HierarchicalVAE, VampPrior, ("pseudo_inputs",)),
    "cpvae": System(
        ConditionalPriorVAE, GaussianMixture, ("gate", "covariance", "prior_scale", "weights")
    ),
}
PRIOR_SCALE = {"mog": 1.0, "cpvae": 0.05}  # spread of the starting means of the components


def build(
    model: str = "cpvae",
    *,
    shape: Sequence[int],
    likelihood: str = "bernoulli",
    loc: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
    kinds: Sequence[str] = (),
    n_levels: Sequence[int] = (),
    noise_scale: float | None = None,
    n_components: int | None = None,
    latent_dim: int = 40,
    hidden: Sequence[int] = (300, 300),
    network: str = "mlp",
    seed: int = 0,
    **settings: Any,
) -> Model:
    """Builds a model from plain values, the same that a run folder keeps in ``run.json``.

    Arguments:
        model: a name in `MODELS`
        shape: shape of one example
        likelihood: ``bernoulli``, ``gaussian``, or ``mixed`` for a table of several kinds
        loc: origin of each feature, for the last two; zeros by default
        scale: unit of each feature, for the last two; ones by default
        kinds: of each column, for ``mixed``, see `MixedLikelihood`
        n_levels: categories of each column, for ``mixed``
        noise_scale: fixed noise of a Gaussian likelihood in the data's units; None learns it
        n_components: components of the prior; by default 10, and 1 where the prior is N(0, I)
        latent_dim: dimensions of z
        hidden: widths of the hidden layers
        network: ``mlp``, or ``conv`` for images
        seed: of the starting weights
        **settings: what only some models have, see `MODELS`: ``gate`` of `ConditionalPriorVAE`,
            its ``weights``, uniform or learned; ``covariance`` and ``prior_scale`` of a
            `GaussianMixture`; ``pseudo_inputs`` of a `VampPrior`

    Raises:
        ValueError: an unknown name, or a setting that the model does not have.
    """
    _choose("model", model, tuple(MODELS))
    _choose("likelihood", likelihood, ("bernoulli", "gaussian", "mixed"))
    system = MODELS[model]
    for name in settings:
        if name not in system.settings:
            having = ", ".join(other for other in MODELS if name in MODELS[other].settings)
            raise ValueError(
                f"{name} is no setting of the model {model!r}"
                + (f" (it is one of {having}): leave it out." if having else ".")
            )
    if likelihood == "bernoulli":
        p_x: Likelihood = BernoulliLikelihood()
    else:
        n_features = math.prod(shape)
        loc_ = torch.zeros(n_features) if loc is None else torch.tensor(loc, dtype=torch.float32)
        scale_ = (
            torch.ones(n_features) if scale is None else torch.tensor(scale, dtype=torch.float32)
        )
        if likelihood == "gaussian":
            p_x = GaussianLikelihood(loc_, scale_, noise_scale)
        else:
            p_x = MixedLikelihood(kinds, n_levels, loc_, scale_)
    gate = {"gate": settings.pop("gate")} if "gate" in settings else {}
    with torch.random.fork_rng(devices=[]):  # layers start from torch's global generator
        torch.manual_seed(seed)
        if system.prior is StandardNormal:
            if n_components not in (None, 1):
                raise ValueError(
                    f"n_components={n_components}: the prior of the model {model!r} is N(0, I), "
                    f"which is one component. Leave it out, or take a model with a mixture."
                )
            prior: Prior = StandardNormal(latent_dim)
        elif system.prior is GaussianMixture:
            spread = settings.pop("prior_scale", PRIOR_SCALE[model])
            prior = GaussianMixture(n_components or 10, latent_dim, scale=spread, **settings)
        else:
            bounded = likelihood == "bernoulli"
            width = math.prod(p_x.network_shape(shape))
            prior = VampPrior(n_components or 10, width, bounded, **settings)
        return system.model(shape, p_x, prior, latent_dim, hidden, network, **gate)  # type: ignore[arg-type]

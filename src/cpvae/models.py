"""Generative models: how x comes from z and c, and how both are inferred from x.

Data flows trunk -> classifier q(c|x) and posterior q(z|x, c) -> decoder -> likelihood. Models hold
no schedule and draw no noise in training: temperature and noise are arguments, so a step is a pure
function of parameters, data and noise.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.functional import Gaussian, categorical_kl, component_kl, component_log_prob
from cpvae.likelihoods import BernoulliLikelihood, GaussianLikelihood, Likelihood
from cpvae.nets import NETWORKS, glorot
from cpvae.priors import GaussianMixture

GATES = ("probabilities", "category")
ESTIMATORS = ("relaxed", "straight_through", "exact")
NEGLIGIBLE = 1e-9  # categories below this probability are left out of an enumeration
ROWS = 4000  # rows decoded at once in evaluation: some tens of MB for images


class Noise(NamedTuple):
    """What one pass consumes: ``normal`` (b, d) for z, ``gumbel`` (b, k) for c."""

    normal: Tensor
    gumbel: Tensor


class Terms(NamedTuple):
    """The bound taken apart (eq. 7-9), nats per example, each (b); ``log_qc`` is (b, k)."""

    log_px: Tensor
    kl_z: Tensor
    kl_c: Tensor
    log_qc: Tensor

    def elbo(self) -> Float[Tensor, " b"]:
        """Log p(x|z,c) - KL(c) - KL(z), nats per example (eq. 7)."""
        return self.log_px - self.kl_z - self.kl_c


class ConditionalPriorVAE(nn.Module):
    r"""CP-VAE (section 3): c ~ Cat(1/K), z | c=k ~ N(mu_k, Sigma_k) learned, x | z, c.

    Arguments:
        shape: shape of one example, (f,) or (channels, height, width)
        likelihood: p(x | decoder output), see `likelihoods`
        n_components: number of categories K
        latent_dim: dimensions of z
        hidden: widths of the hidden layers of trunk and decoder
        network: ``mlp``, or ``conv`` for images
        covariance: ``diag`` or ``full`` covariance of p(z | c)
        prior_scale: spread of the prior's starting means
        gate: what q(z | x, .) reads: ``probabilities`` is the vector q(c|x), one Gaussian shared by
            all categories; ``category`` is the category itself, one Gaussian for each (eq. 6)

    Raises:
        ValueError: an unknown name, or ``conv`` for examples that are not images.
    """

    aggregated: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        likelihood: Likelihood,
        n_components: int = 10,
        latent_dim: int = 40,
        hidden: Sequence[int] = (300, 300),
        network: str = "mlp",
        covariance: str = "diag",
        prior_scale: float = 0.05,
        gate: str = "probabilities",
    ):
        super().__init__()
        choices = (("network", network, NETWORKS), ("covariance", covariance, ("diag", "full")))
        for name, value, allowed in (*choices, ("gate", gate, GATES)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is unknown: choose from {', '.join(allowed)}.")
        if network == "conv" and len(shape) != 3:
            raise ValueError(
                f"network='conv' needs images, and examples have shape {tuple(shape)}."
            )
        trunk, decoder = NETWORKS[network]
        self.shape, self.n_components, self.latent_dim = tuple(shape), n_components, latent_dim
        self.gate = gate
        self.likelihood = likelihood
        self.trunk = trunk(shape, hidden)
        self.classifier = glorot(nn.Linear(hidden[-1], n_components))
        self.posterior_gate = glorot(nn.Linear(n_components, hidden[-1]))
        self.posterior = glorot(nn.Linear(hidden[-1] + n_components, 2 * latent_dim), halves=2)
        self.prior = GaussianMixture(n_components, latent_dim, covariance, prior_scale)
        self.decoder = decoder(latent_dim + n_components, shape, hidden)
        self.register_buffer("aggregated", torch.full((n_components,), 1 / n_components))

    # --- inference -------------------------------------------------------------------------------

    def infer(self, x: Float[Tensor, "b f"]) -> tuple[Tensor, Float[Tensor, "b k"]]:
        """Features (b, h) and log q(c|x) (b, k) of observed data (eq. 6)."""
        features = self.trunk(x)
        return features, F.log_softmax(self.classifier(features), dim=-1)

    def encode(self, features: Float[Tensor, "b h"], gate: Float[Tensor, "b k"]) -> Gaussian:
        """q(z | x, .) of features, each gated by the category or its probabilities (fig. 2)."""
        opened = features * (2 * torch.sigmoid(self.posterior_gate(gate)))
        mean, logvar = self.posterior(torch.cat([opened, gate], dim=-1)).chunk(2, dim=-1)
        return Gaussian(mean, logvar)

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
        temperature: float = 0.5,
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
        kl_c = categorical_kl(log_qc)
        if estimator == "exact":
            row = torch.arange(b, device=x.device).repeat_interleave(k)
            c = torch.eye(k, dtype=x.dtype, device=x.device).repeat(b, 1)
            log_px, kl_z = self._given(x, features, log_qc, noise.normal, row, c)
            qc = log_qc.exp()
            log_px, kl_z = ((qc * t.view(b, k)).sum(-1) for t in (log_px, kl_z))
            return Terms(log_px, kl_z, kl_c, log_qc)
        perturbed = log_qc + noise.gumbel
        c = F.softmax(perturbed / temperature, dim=-1)
        if estimator == "straight_through":
            c = F.one_hot(perturbed.argmax(-1), k).to(c.dtype) + c - c.detach()
        return Terms(*self._given(x, features, log_qc, noise.normal, slice(None), c), kl_c, log_qc)

    def _given(
        self,
        x: Tensor,
        features: Tensor,
        log_qc: Tensor,
        normal: Tensor,
        row: Tensor | slice,
        c: Float[Tensor, "r k"],
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
        """Log p(x|z,c) and KL(z) of the examples ``row``, each with its own category ``c``."""
        gate = self._gate(log_qc[row], c)
        q = self.encode(features[row], gate)
        kl_z = (gate * component_kl(q, self.prior())).sum(-1)
        params = self.decode(q.sample(normal[row]), c)
        return self.likelihood.log_prob(x[row], params), kl_z

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
        for row, component in (part.T for part in pairs.split(ROWS)):
            c = F.one_hot(component, self.n_components).to(x.dtype)
            given = self._given(x, features, log_qc, normal, row, c)
            weight = qc[row, component]
            log_px.index_add_(0, row, weight * given[0])
            kl_z.index_add_(0, row, weight * given[1])
        return Terms(log_px, kl_z, categorical_kl(log_qc), log_qc)

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
        q = self.encode(features[row], self._gate(log_qc[row], c))
        z = q.sample(torch.randn(q.mean.shape, generator=generator, device=x.device))
        log_px = self.likelihood.log_prob(x[row], self.decode(z, c))
        pick = component.unsqueeze(-1)
        log_pz = component_log_prob(z, self.prior()).gather(1, pick).squeeze(-1)
        log_pc = -math.log(self.n_components)
        log_q = q.log_prob(z) + log_qc[row].gather(1, pick).squeeze(-1)
        return (log_px + log_pz + log_pc - log_q).view(n_samples, b)

    @torch.no_grad()
    def posterior_given(self, x: Float[Tensor, "b f"], component: int) -> Gaussian:
        """q(z | x, c=component) of observed data: mean and log-variance, (b, d) each."""
        features, log_qc = self.infer(x)
        c = torch.zeros_like(log_qc)
        c[:, component] = 1
        return self.encode(features, self._gate(log_qc, c))

    # --- what users ask for: data in their own units, shape (n, *shape) --------------------------

    @torch.no_grad()
    def cluster_probs(self, x: Tensor) -> Float[Tensor, "n k"]:
        """q(c|x) of data (n, ...); grey values are read as they are, nothing is drawn."""
        return self.infer(self.likelihood.observe(x.flatten(1)))[1].exp()

    @torch.no_grad()
    def embed(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Posterior mean of z of data (n, ...), given its most probable category."""
        return self._code(x)[0]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z, c) at the posterior mean of z and the most probable category."""
        params = self.decode(*self._code(x))
        return self.likelihood.mean(params).unflatten(-1, self.shape)

    def _code(self, x: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        features, log_qc = self.infer(self.likelihood.observe(x.flatten(1)))
        c = F.one_hot(log_qc.argmax(-1), self.n_components).to(log_qc.dtype)
        return self.encode(features, self._gate(log_qc, c)).mean, c

    @torch.no_grad()
    def sample(
        self,
        n: int,
        component: int | None = None,
        from_: str = "aggregated",
        generator: torch.Generator | None = None,
        mean: bool = False,
    ) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Generates data: c, then z | c, then x | z, c (section 3.1).

        Arguments:
            n: number of examples
            component: draw all from this one, or None to draw c too
            from_: draw c from the aggregated posterior of the training data (eq. 14) or from the
                uniform prior; not used when ``component`` is given
            generator: source of randomness on the model's device; a fixed one by default
            mean: give E[x | z, c] instead of a draw from p(x | z, c). For grey images under a
                Bernoulli likelihood this is the grey image.

        Returns:
            x of shape (n, *shape) in the data's units, and the component (n) each came from.

        Raises:
            ValueError: n below 1, no such component, or an unknown ``from_``.
        """
        if n < 1:
            raise ValueError(f"n={n}: ask for at least one example.")
        if component is not None and not 0 <= component < self.n_components:
            last = self.n_components - 1
            raise ValueError(f"component={component} does not exist: choose one from 0 to {last}.")
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
        normal = torch.randn(n, self.latent_dim, generator=generator, device=device)
        z = self.prior().sample(drawn, normal)
        params = self.decode(z, F.one_hot(drawn, self.n_components).to(z.dtype))
        x = self.likelihood.mean(params) if mean else self.likelihood.sample(params, generator)
        return x.unflatten(-1, self.shape), drawn


MODELS = {"cpvae": ConditionalPriorVAE}
Model = ConditionalPriorVAE


def build(
    model: str = "cpvae",
    *,
    shape: Sequence[int],
    likelihood: str = "bernoulli",
    loc: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
    noise_scale: float | None = None,
    seed: int = 0,
    **settings: Any,
) -> Model:
    """Builds a model from plain values, the same that a run folder keeps in ``run.json``.

    Arguments:
        model: a name in `MODELS`
        shape: shape of one example
        likelihood: ``bernoulli`` or ``gaussian``
        loc: origin of each feature, for ``gaussian``; zeros by default
        scale: unit of each feature, for ``gaussian``; ones by default
        noise_scale: fixed noise of a Gaussian likelihood in the data's units; None learns it
        seed: of the starting weights
        **settings: keywords of the model's class

    Raises:
        ValueError: an unknown name.
    """
    if model not in MODELS:
        raise ValueError(f"model={model!r} is unknown: choose from {', '.join(MODELS)}.")
    if likelihood not in ("bernoulli", "gaussian"):
        raise ValueError(f"likelihood={likelihood!r} is unknown: use 'bernoulli' or 'gaussian'.")
    n_features = math.prod(shape)
    if likelihood == "bernoulli":
        p_x: Likelihood = BernoulliLikelihood()
    else:
        loc_ = torch.zeros(n_features) if loc is None else torch.tensor(loc, dtype=torch.float32)
        scale_ = (
            torch.ones(n_features) if scale is None else torch.tensor(scale, dtype=torch.float32)
        )
        p_x = GaussianLikelihood(loc_, scale_, noise_scale)
    with torch.random.fork_rng(devices=[]):  # layers start from torch's global generator
        torch.manual_seed(seed)
        return MODELS[model](shape, p_x, **settings)

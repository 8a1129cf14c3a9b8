"""CP-VAE: a category c, and a Gaussian z whose prior p(z|c) is learned (section 3)."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.choices import GATES, choose
from cpvae.models.base import Model, Noise, Terms, normal_like, trunk_and_decoder
from cpvae.models.functional import (
    Gaussian,
    Mixture,
    categorical_kl,
    component_kl,
    component_log_prob,
    shares_in_groups,
)
from cpvae.models.fused import straight_through
from cpvae.models.likelihoods import Likelihood
from cpvae.models.networks import glorot, merge_categories, replace_weights
from cpvae.models.priors import GaussianMixture

NEGLIGIBLE = 1e-9  # categories below this probability are left out of an enumeration


class ConditionalPriorVAE(Model):
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

    has_categories = True
    drawn_from = "aggregated"
    latent_names = ("z", "c")
    prior: GaussianMixture

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
        choose("gate", gate, GATES)
        trunk, decoder = trunk_and_decoder(network, shape)
        n_components = prior.n_components
        self.latent_dim, self.gate = latent_dim, gate
        self.normal_dim, self.gumbel_dim = latent_dim, n_components
        self.trunk = trunk(likelihood.inputs_shape(shape), hidden)
        self.classifier = glorot(nn.Linear(hidden[-1], n_components))
        self.posterior_gate = glorot(nn.Linear(n_components, hidden[-1]))
        self.posterior = glorot(nn.Linear(hidden[-1] + n_components, 2 * latent_dim), halves=2)
        self.prior = prior
        self.decoder = decoder(latent_dim + n_components, likelihood.params_shape(shape), hidden)

    # --- inference -------------------------------------------------------------------------------

    def infer(self, x: Float[Tensor, "b f"]) -> tuple[Tensor, Float[Tensor, "b k"]]:
        """Features (b, h) and log q(c|x) (b, k) of observed data (eq. 6)."""
        features = self.trunk(self.read(x))
        return features, F.log_softmax(self.classifier(features), dim=-1)

    def log_qc(self, observed: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Log q(c|x) of observed data."""
        return self.infer(observed)[1]

    def encode(self, features: Float[Tensor, "b h"], gate: Float[Tensor, "b k"]) -> Gaussian:
        """q(z | x, .) of features, each gated by the category or its probabilities (fig. 2)."""
        opened = features * (2 * torch.sigmoid(self.posterior_gate(gate)))
        return self.gaussian_of(self.posterior(torch.cat([opened, gate], dim=-1)))

    def mixture(self) -> Mixture:
        """The prior as it stands: component k is p(z | c=k)."""
        return self.prior()

    def log_pc(self) -> Float[Tensor, " k"]:
        """Log p(c): -log K each, as in the paper, unless the weights are learned."""
        return F.log_softmax(self.prior.logits, dim=0)

    def _gate(self, log_qc: Float[Tensor, "b k"], c: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """What q(z | x, .) reads: the probabilities of the categories, or the category."""
        return log_qc.exp() if self.gate == "probabilities" else c

    def decode(self, *latent: Tensor) -> Float[Tensor, "b p"]:
        """Parameters of p(x | z, c) of z (b, d) and c (b, k), as the likelihood reads them."""
        return self.decoder(torch.cat(latent, dim=-1))

    # --- the bound -------------------------------------------------------------------------------

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        expectation: str = "straight_through",
    ) -> Terms:
        """The terms of the bound for observed data, differentiable, nats per example (eq. 7-9).

        Arguments:
            x: observed data (binarised or standardised by the likelihood), (b, f)
            noise: normal (b, d) and Gumbel (b, k) noise
            temperature: of the Gumbel-Softmax sample; ``exact`` has no use for it
            expectation: how the expectation over c is taken. ``relaxed`` decodes a continuous
                relaxation (eq. 11): the paper's value, and not a bound. ``straight_through``
                decodes a one-hot sample with the relaxed gradient: a one-sample estimate of the
                bound. ``exact`` decodes all K categories: the bound with no noise from c.
        """
        features, log_qc = self.infer(x)
        b, k = log_qc.shape
        kl_c = categorical_kl(log_qc, self.log_pc())
        if expectation == "exact":
            every = torch.eye(k, dtype=x.dtype, device=x.device).repeat(b, 1)
            x, features, log_q, normal = (
                t.repeat_interleave(k, 0) for t in (x, features, log_qc, noise.normal)
            )
            log_px, kl_z = self._given(x, features, log_q, normal, every)
            qc = log_qc.exp()
            log_px, kl_z = ((qc * t.view(b, k)).sum(-1) for t in (log_px, kl_z))
            return Terms(log_px, kl_z, kl_c, log_qc)
        perturbed = (log_qc + noise.gumbel) / temperature
        relaxed = expectation == "relaxed"
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
        """The same as ``terms(..., expectation="exact")``, for evaluation at any K.

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
        z = q.sample(normal_like(q.mean, generator))
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
        return mixture.sample(component, normal_like(mixture.mean[component], generator)), c

    # --- fewer categories ------------------------------------------------------------------------

    @torch.no_grad()
    def merged(
        self,
        groups: Sequence[Sequence[int]],
        features: Float[Tensor, "n h"],
        log_qc: Float[Tensor, "n k"],
    ) -> "ConditionalPriorVAE":
        """The model with one category for each group of categories; nothing is trained.

        What the networks know of a merged category is the mean of what they know of its members,
        weighted by their shares of the examples given; its p(z|c) has the mean and covariance of
        their mixture; its p(c) is the share of the training data that they hold (eq. 14). Its logit
        is shifted so that it gets their joint probability. Categories in no group are dropped.

        Arguments:
            groups: categories that become one, by their numbers
            features: of examples, from `infer`
            log_qc: of the same examples
        """
        small = copy.deepcopy(self)
        share = shares_in_groups(log_qc, groups)
        weight = share @ self.classifier.weight
        logits = self.classifier(features)
        joint, log_q = (
            torch.stack([t[:, g].logsumexp(1) for g in groups], 1) for t in (logits, log_qc)
        )
        shift = (log_q.softmax(0) * (joint - features @ weight.T)).sum(0)
        small.n_components = small.gumbel_dim = len(groups)
        replace_weights(small.classifier, weight, shift)
        replace_weights(small.posterior_gate, self.posterior_gate.weight @ share.T)
        layers: list[nn.Linear] = [small.posterior, small.decoder.first_layer()]
        for layer in layers:
            merge_categories(layer, share)
        aggregated = torch.stack([self.aggregated[g].sum() for g in groups])
        small.aggregated = aggregated / aggregated.sum()
        small.prior = self.prior.merged(share, small.aggregated.clamp_min(1e-6).log())
        return small

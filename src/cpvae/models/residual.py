r"""A CP-VAE that starts as a Gaussian mixture of the data and learns what the mixture leaves out.

For tables of numbers. z has as many dimensions as x, p(z|c) has a full covariance (the paper's
footnote 3), and the decoder adds to z:

.. math:: x \mid z, c \sim N(z + g(z, c),\ D_c \exp h(z, c)),
          \quad z \mid c \sim N(\mu_c, L_c L_c^T)

With g = h = 0 and :math:`D_c + L_c L_c^T = \Sigma_c` this is the mixture
:math:`\sum_c p(c) N(\mu_c, \Sigma_c)`, q(z|x, c) and q(c|x) can be its exact posteriors, and the
bound is the mixture's log-likelihood, whatever the draw of z. `start_from` sets the model so, and
training moves all but q(c|x): the categories stay those of the mixture, and densities learn.

:math:`L_c` is the one square root for which the posterior of u, z = mu_c + L_c u, has no
correlations, so that q(u|x, c) is a `Gaussian` and its prior N(0, I). KL(z) is taken at the draw,
log q(u|x, c) - log p(u), and not in closed form: then its noise and that of log p(x|z, c) cancel.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.models.base import Model, Noise, Terms, normal_like
from cpvae.models.cpvae import NEGLIGIBLE
from cpvae.models.functional import Gaussian, Mixture, categorical_kl, shares_in_groups
from cpvae.models.likelihoods import Likelihood
from cpvae.models.networks import MLPDecoder, merge_categories
from cpvae.models.priors import GaussianMixture

MOST_NOISE = 3.0  # of the logarithm of what networks change a variance by


class Pairs(NamedTuple):
    """Examples with each of the categories that they may be of, a category after the other.

    ``row`` (p) and ``component`` (p) are a pair, ``weight`` (p) is q(c|x), and ``counts`` (k) says
    how many pairs each category has: so a product with its matrix is one product.
    """

    row: Int[Tensor, " p"]
    component: Int[Tensor, " p"]
    weight: Float[Tensor, " p"]
    counts: list[int]


def pairs_of(qc: Float[Tensor, "b k"], at_least: float = NEGLIGIBLE) -> Pairs:
    """The pairs of examples and categories whose probability is ``at_least`` so much.

    The weights of each example sum to one, so a bound over fewer categories is a bound.
    """
    component, row = (at_least < qc.T).nonzero().T
    weight = qc[row, component]
    total = torch.zeros_like(qc[:, 0]).index_add_(0, row, weight)
    counts = component.bincount(minlength=qc.shape[1]).tolist()
    return Pairs(row, component, weight / total[row], counts)


class ResidualCPVAE(Model):
    """A CP-VAE that starts as a Gaussian mixture, see above.

    Arguments:
        shape: shape of one example, (f,)
        likelihood: of numbers, whose heads take a mean and a log-variance from the decoder
        prior: says how many components there are; `start_from` sets what they are
        latent_dim: that of the data
        hidden: widths of the hidden layers of each network
        network: ``mlp``

    Raises:
        ValueError: images, or a number of latent dimensions that is not that of the data.
    """

    has_categories = True
    drawn_from = "aggregated"
    latent_names = ("z", "c")
    start_means: Tensor
    start_whiten: Tensor
    start_log_weights: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        likelihood: Likelihood,
        prior: GaussianMixture,
        latent_dim: int,
        hidden: Sequence[int] = (100, 100),
        network: str = "mlp",
    ):
        super().__init__(shape, likelihood, prior.n_components)
        d, k = math.prod(shape), prior.n_components
        if len(shape) > 1 or network != "mlp" or latent_dim != d:
            raise ValueError(
                f"The model 'residual' is for tables, with z of as many dimensions as there are "
                f"columns ({d}) and the network 'mlp': leave latent_dim and network out."
            )
        self.latent_dim = self.normal_dim = d
        self.gumbel_dim = k
        self.weights = nn.Parameter(torch.zeros(k))  # logits of p(c)
        self.means = nn.Parameter(torch.zeros(k, d))
        self.roots = nn.Parameter(torch.eye(d).repeat(k, 1, 1))
        self.log_noise = nn.Parameter(torch.zeros(k, d))
        self.posterior_maps = nn.Parameter(torch.zeros(k, d, d))
        self.posterior_logvar = nn.Parameter(torch.zeros(k, d))
        self.posterior = _zero(MLPDecoder(d + k, (2 * d,), hidden))
        self.decoder = _zero(MLPDecoder(d + k, (2 * d,), hidden))
        self.register_buffer("start_log_weights", torch.full((k,), -math.log(k)))
        self.register_buffer("start_means", torch.zeros(k, d))
        self.register_buffer("start_whiten", torch.eye(d).repeat(k, 1, 1))

    @torch.no_grad()
    def start_from(
        self,
        log_weights: Float[Tensor, " k"],
        means: Float[Tensor, "k d"],
        covariances: Float[Tensor, "k d d"],
    ) -> None:
        """Makes the model a Gaussian mixture of the standardised data; in double precision.

        The noise of component c takes half of the conditional variances of its columns, divided by
        the largest eigenvalue of its precision scaled to a unit diagonal: what is left of its
        covariance is positive definite for every covariance.

        Raises:
            torch.linalg.LinAlgError: a covariance that is not positive definite.
        """
        lower = torch.linalg.cholesky(covariances)
        precision = torch.cholesky_inverse(lower)
        conditional = 1 / precision.diagonal(dim1=-2, dim2=-1)
        unit = conditional.sqrt()
        scaled = unit.unsqueeze(-1) * precision * unit.unsqueeze(-2)
        noise = 0.5 * conditional / torch.linalg.eigvalsh(scaled).amax(-1, keepdim=True)
        noise_root = noise.sqrt()
        left = covariances - torch.diag_embed(noise)
        signal, vectors = torch.linalg.eigh(
            left / noise_root.unsqueeze(-1) / noise_root.unsqueeze(-2)
        )
        root = signal.clamp_min(0).sqrt()
        self.weights.copy_(log_weights)
        self.means.copy_(means)
        self.roots.copy_(noise_root.unsqueeze(-1) * vectors * root.unsqueeze(-2))
        self.log_noise.copy_(noise.log())
        to_u = (root / (1 + root**2)).unsqueeze(-1) * vectors.mT
        self.posterior_maps.copy_(to_u / noise_root.unsqueeze(-2))
        self.posterior_logvar.copy_(-torch.log1p(root**2))
        self.start_log_weights.copy_(log_weights)
        self.start_means.copy_(means)
        self.start_whiten.copy_(_inverse(lower))
        for network in (self.posterior, self.decoder):
            _zero(network)

    # --- inference -------------------------------------------------------------------------------

    def log_qc(self, observed: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Log q(c|x): responsibilities of the mixture that the model started from."""
        return self.infer(observed)[1]

    def infer(self, x: Float[Tensor, "b f"]) -> tuple[Tensor, Float[Tensor, "b k"]]:
        """What the networks read (b, f) and log q(c|x) (b, k) of observed data.

        Values that are missing are read as what the mixture expects given the others, and the
        responsibilities are those of the others.
        """
        if torch.compiler.is_exporting():  # a graph has no branches: there a missing value is 0
            read = self.likelihood.inputs(x)
            return read, self._responsibilities(read)
        read = self.likelihood.standardised(x)
        missing = read.isnan()
        if not missing.any():
            return read, self._responsibilities(read)
        read, log_qc = read.clone(), read.new_zeros(len(read), self.n_components)
        patterns, which = missing.unique(dim=0, return_inverse=True)
        for number, gone in enumerate(patterns):
            rows = (which == number).nonzero().squeeze(1)
            expected, log_qc[rows] = self._completed(read[rows], gone)
            read[rows] = torch.where(gone, expected, read[rows])
        return read, log_qc

    def _responsibilities(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        scale = self.start_whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        squares = [
            ((x - mean) @ whiten.T).square().sum(-1)
            for mean, whiten in zip(self.start_means, self.start_whiten, strict=True)
        ]
        joint = self.start_log_weights + scale - 0.5 * torch.stack(squares, -1)
        return F.log_softmax(joint, -1)

    def _completed(
        self, x: Float[Tensor, "b f"], gone: Bool[Tensor, " f"]
    ) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b k"]]:
        """Expected values of rows that lack the same columns, and log q(c|x) of the others."""
        root = _inverse(self.start_whiten)
        covariances = root @ root.mT
        off = x[:, None, ~gone] - self.start_means[:, ~gone]  # (b, k, o)
        lower = torch.linalg.cholesky(covariances[:, ~gone][:, :, ~gone])
        white = torch.linalg.solve_triangular(lower, off.movedim(0, -1), upper=False)  # (k, o, b)
        scale = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        joint = self.start_log_weights - scale - 0.5 * white.square().sum(1).T
        log_qc = F.log_softmax(joint, -1)
        gain = torch.linalg.solve_triangular(lower.mT, white, upper=True)
        expected = self.start_means.unsqueeze(-1) + covariances[:, :, ~gone] @ gain  # (k, f, b)
        return torch.einsum("bk,kfb->bf", log_qc.exp(), expected), log_qc

    def encode(self, inputs: Float[Tensor, "p f"], pairs: Pairs) -> Gaussian:
        """q(u | x, c) of pairs, ``inputs`` being those of their examples."""
        moved = inputs - self.start_means[pairs.component]
        mean = self._times(self.posterior_maps, moved, pairs)
        change, spread = self.posterior(self._with_category(inputs, pairs.component)).chunk(2, -1)
        return Gaussian(mean + change, self.posterior_logvar[pairs.component] + _bounded(spread))

    def place(self, u: Float[Tensor, "p d"], pairs: Pairs) -> Float[Tensor, "p d"]:
        """The z of u, each in its component."""
        return self.means[pairs.component] + self._times(self.roots, u, pairs)

    def decode(self, *latent: Tensor) -> Float[Tensor, "b p"]:
        """Means and log-variances of p(x | z, c) of z (b, d) and one-hot c (b, k)."""
        z, c = latent
        change, spread = self.decoder(torch.cat([z, c], -1)).chunk(2, -1)
        return torch.cat([z + change, c @ self.log_noise + _bounded(spread)], -1)

    def mixture(self) -> Mixture:
        """The prior as it stands: component k is p(z | c=k)."""
        covariance = self.roots @ self.roots.mT
        floor = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1)
        lower = torch.linalg.cholesky(covariance + torch.diag_embed(floor))
        scale = lower.diagonal(dim1=-2, dim2=-1)
        return Mixture(self.weights, self.means, 2 * scale.log(), lower / scale.unsqueeze(-2))

    def log_pc(self) -> Float[Tensor, " k"]:
        """Log p(c)."""
        return F.log_softmax(self.weights, 0)

    def _times(
        self, matrices: Float[Tensor, "k d d"], vectors: Float[Tensor, "p d"], pairs: Pairs
    ) -> Float[Tensor, "p d"]:
        """Each vector by the matrix of its category."""
        # a loop, because copying a matrix for each pair takes longer than its product
        parts = zip(matrices, vectors.split(pairs.counts), strict=True)
        return torch.cat([part @ matrix.T for matrix, part in parts if len(part)])

    def _with_category(
        self, values: Float[Tensor, "p d"], component: Int[Tensor, " p"]
    ) -> Float[Tensor, "p e"]:
        return torch.cat([values, F.one_hot(component, self.n_components).to(values.dtype)], -1)

    # --- the bound -------------------------------------------------------------------------------

    def given(
        self,
        x: Float[Tensor, "b f"],
        inputs: Float[Tensor, "b f"],
        pairs: Pairs,
        normal: Float[Tensor, "p d"],
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Log p(x|z,c) and KL(z), both at one draw of z, of pairs of these examples; nats."""
        q = self.encode(inputs[pairs.row], pairs)
        u, x = q.sample(normal), x[pairs.row]
        c = F.one_hot(pairs.component, self.n_components).to(x.dtype)
        log_px = self.likelihood.log_prob(x, self.decode(self.place(u, pairs), c))
        return log_px, 0.5 * (u**2 - normal**2 - q.logvar).sum(-1)

    def bound_of(
        self,
        x: Float[Tensor, "b f"],
        inferred: tuple[Tensor, Float[Tensor, "b k"]],
        pairs: Pairs,
        normal: Float[Tensor, "b d"],
    ) -> Terms:
        """The terms of the bound over the pairs given, differentiable, nats per example.

        ``inferred`` is what `infer` gives for ``x``.
        """
        inputs, log_qc = inferred
        log_px, kl_z, kl_c = torch.zeros(3, len(x), dtype=x.dtype, device=x.device)
        given = self.given(x, inputs, pairs, normal[pairs.row])
        log_px = log_px.index_add(0, pairs.row, pairs.weight * given[0])
        kl_z = kl_z.index_add(0, pairs.row, pairs.weight * given[1])
        each = pairs.weight * (pairs.weight.log() - self.log_pc()[pairs.component])
        return Terms(log_px, kl_z, kl_c.index_add(0, pairs.row, each), log_qc)

    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        expectation: str = "straight_through",
    ) -> Terms:
        """The terms of the bound, nats per example: enumerated (``exact``), or with one category.

        q(c|x) learns nothing, so no expectation needs a relaxed category: ``temperature`` has no
        use, and the terms called relaxed are those of a bound here.
        """
        inferred = self.infer(x)
        log_qc = inferred[1]
        if expectation == "exact":
            return self.bound_of(x, inferred, pairs_of(log_qc.exp()), noise.normal)
        c = F.one_hot((log_qc + noise.gumbel).argmax(-1), self.n_components).to(x.dtype)
        terms = self.bound_of(x, inferred, pairs_of(c), noise.normal)
        return terms._replace(kl_c=categorical_kl(log_qc, self.log_pc()))

    @torch.no_grad()
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b d"]) -> Terms:
        """The terms over the categories with q(c|x) above 1e-9, nats per example."""
        inferred = self.infer(x)
        return self.bound_of(x, inferred, pairs_of(inferred[1].exp()), normal)

    @torch.no_grad()
    def given_each(
        self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b k"]:
        """E log p(x|z,c) - KL(q(z|x,c) || p(z|c)) for every category, nats (eq. 7), one z each."""
        every = pairs_of(torch.ones(len(x), self.n_components, dtype=x.dtype, device=x.device))
        log_px, kl_z = self.given(x, self.infer(x)[0], every, normal[every.row])
        return (log_px - kl_z).view(self.n_components, len(x)).T

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z,c) - log q(z,c|x) in nats for one-hot c and z drawn from q(z,c|x), (s, b)."""
        inputs, log_qc = self.infer(x)
        draw = torch.multinomial(log_qc.exp(), n_samples, replacement=True, generator=generator)
        component, order = draw.T.flatten().sort(stable=True)
        row = order % len(x)
        counts = component.bincount(minlength=self.n_components).tolist()
        pairs = Pairs(row, component, torch.ones_like(x[row, 0]), counts)
        log_px, kl_z = self.given(x, inputs, pairs, normal_like(inputs[row], generator))
        weights = log_px - kl_z + self.log_pc()[component] - log_qc[row, component]
        return torch.empty_like(weights).index_copy_(0, order, weights).view(n_samples, len(x))

    # --- what users ask of it --------------------------------------------------------------------

    @torch.no_grad()
    def posterior_given(self, x: Float[Tensor, "b f"], component: int) -> Gaussian:
        """q(u | x, c=component) of observed data: mean and log-variance, (b, d) each.

        For a given c, u stands for z: what one says about x, the other does.
        """
        c = torch.zeros(len(x), self.n_components, dtype=x.dtype, device=x.device)
        c[:, component] = 1
        return self.encode(self.infer(x)[0], pairs_of(c))

    def code(
        self, observed: Float[Tensor, "n f"]
    ) -> tuple[tuple[Tensor, Tensor], Float[Tensor, "n k"]]:
        """Posterior mean of z and one-hot c at the most probable category, and log q(c|x)."""
        inputs, log_qc = self.infer(observed)
        c = F.one_hot(log_qc.argmax(-1), self.n_components).to(log_qc.dtype)
        # not by pairs: a graph that is exported has no sizes that depend on the data
        change, _ = self.posterior(torch.cat([inputs, c], -1)).chunk(2, -1)
        each = zip(self.start_means, self.posterior_maps, self.means, self.roots, strict=True)
        placed = [
            mean + ((inputs - start) @ to_u.T + change) @ root.T for start, to_u, mean, root in each
        ]
        return (torch.einsum("nk,nkd->nd", c, torch.stack(placed, 1)), c), log_qc

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        """A z from p(z | c) for each of the components given, and c one-hot."""
        c = F.one_hot(component, self.n_components).to(self.aggregated.dtype)
        pairs = pairs_of(c)
        u = normal_like(self.means[component], generator)
        z = self.place(u[pairs.row], pairs)
        return torch.empty_like(z).index_copy(0, pairs.row, z), c

    @torch.no_grad()
    def merged(
        self,
        groups: Sequence[Sequence[int]],
        features: Float[Tensor, "n f"],
        log_qc: Float[Tensor, "n k"],
    ) -> "ResidualCPVAE":
        """The model with one category for each group of categories; nothing is trained.

        A merged category is the Gaussian with the mean and the covariance of its members' mixture,
        and the networks know of it the mean of what they know of the members, both weighted by
        their shares of the examples given. Categories in no group are dropped.

        Arguments:
            groups: categories that become one, by their numbers
            features: of examples, from `infer`
            log_qc: of the same examples
        """
        small, share = copy.deepcopy(self), shares_in_groups(log_qc, groups)
        noise = torch.diag_embed(self.log_noise.exp())
        means = share @ self.means
        off = self.means - means.unsqueeze(1)  # (g, k, d)
        within = torch.einsum("gk,kij->gij", share, self.roots @ self.roots.mT + noise)
        between = torch.einsum("gk,gki,gkj->gij", share, off, off)
        aggregated = torch.stack([self.aggregated[g].sum() for g in groups])
        small.aggregated = aggregated / aggregated.sum()
        small.n_components = small.gumbel_dim = len(groups)
        for name, rows in self.named_parameters(recurse=False):
            setattr(small, name, nn.Parameter(rows[: len(groups)].clone()))
        for name in ("start_log_weights", "start_means", "start_whiten"):
            setattr(small, name, self.get_buffer(name)[: len(groups)].clone())
        log_weights = small.aggregated.clamp_min(1e-6).log()
        small.start_from(log_weights.double(), means.double(), (within + between).double())
        for name in ("posterior", "decoder"):
            network = getattr(small, name)
            network.load_state_dict(getattr(self, name).state_dict())
            merge_categories(network.first_layer(), share)
        return small


def _inverse(lower: Float[Tensor, "k d d"]) -> Float[Tensor, "k d d"]:
    """Inverses of lower triangular matrices."""
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)


def _zero(network: MLPDecoder) -> MLPDecoder:
    """A network that gives zeros until it is trained."""
    nn.init.zeros_(network.output.weight)
    nn.init.zeros_(network.output.bias)
    return network


def _bounded(change: Tensor) -> Tensor:
    """A change of a log-variance, at most `MOST_NOISE` in size; the identity where it is small."""
    return MOST_NOISE * torch.tanh(change / MOST_NOISE)

r"""A CP-VAE that starts as a mixture of the data and learns what the mixture leaves out.

For tables with columns of numbers. With y the numbers as they are read (`models.numbers`; plain
ones standardised), p(z|c) has a full covariance (the paper's footnote 3) and as many dimensions as
y, and the decoder adds to z:

.. math:: y \mid z, c \sim N(z + g(z, c),\ D_c \exp h(z, c)),
          \quad z \mid c \sim N(\mu_c, L_c L_c^T)

With g = h = 0 and :math:`D_c + L_c L_c^T = \Sigma_c` this is the mixture
:math:`\sum_c p(c) N(\mu_c, \Sigma_c)`, q(z|x, c) and q(c|x) can be its exact posteriors, and the
bound is the mixture's log-likelihood, whatever the draw of z. Columns of categories and booleans
start at the shares that they have in each component, and z gets further dimensions, N(0, I) in each
component, by which they may depend on one another. `start_from` sets the model so, and training
moves all but q(c|x): the categories stay those of the mixture, and densities learn.

:math:`L_c` is the one square root for which the posterior of u, z = mu_c + L_c u, has no
correlations, so that q(u|x, c) is a `Gaussian` and its prior N(0, I). KL(z) is taken at the draw,
log q(u|x, c) - log p(u), and not in closed form: then its noise and that of log p(x|z, c) cancel.

Numbers that are missing are latent too: they are drawn from what the mixture says of them given c
and the others, q(y_missing | y, c), and the model scores the draw.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.clustering.gaussians import Gaussians
from cpvae.models.base import Model, Noise, Terms
from cpvae.models.factors import split_covariances
from cpvae.models.functional import (
    Gaussian,
    Mixture,
    bounded,
    categorical_kl,
    gaussian_log_prob,
    shares_in_groups,
)
from cpvae.models.likelihoods import Likelihood
from cpvae.models.missing import MissingNumbers
from cpvae.models.networks import MLPDecoder, merge_categories
from cpvae.models.numbers import NumberHead
from cpvae.models.pairs import Pairs, pairs_of
from cpvae.models.priors import GaussianMixture
from cpvae.models.responsibilities import Responsibilities, merged_gaussians

MOST_NOISE = 3.0  # of the logarithm of what networks change a variance by


class Prepared(NamedTuple):
    """What a bound needs of examples that no parameter changes.

    Examples as the networks read them (b, i), numbers first, NaN for a missing one; log q(c|x)
    (b, k); and their numbers as `NumberHead.measure` gives them.
    """

    read: Float[Tensor, "b i"]
    log_qc: Float[Tensor, "b k"]
    measured: Float[Tensor, "m b w"]

    def take(self, rows: Int[Tensor, " r"] | slice) -> "Prepared":
        """Those of some examples."""
        return Prepared(self.read[rows], self.log_qc[rows], self.measured[:, rows])


class ResidualCPVAE(Model):
    """A CP-VAE that starts as a mixture, see above.

    Arguments:
        shape: shape of one example, (f,)
        likelihood: from `likelihoods.around_numbers`
        prior: says how many components there are; `start_from` sets what they are
        latent_dim: the number of columns of numbers, and more where there are other columns
        hidden: widths of the hidden layers of each network
        network: ``mlp``

    Raises:
        ValueError: images, or fewer latent dimensions than columns of numbers, or more where there
            is no other column.
    """

    has_categories = True
    drawn_from = "aggregated"
    latent_names = ("z", "c")

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
        heads: list[Any] = list(likelihood.heads)
        k, w = prior.n_components, heads[0].n_columns
        self.n_numbers, self.n_binary = w, sum(of.n_columns for of in heads if of.kind == "binary")
        (n_inputs,), (n_params,) = likelihood.inputs_shape(shape), likelihood.params_shape(shape)
        more = latent_dim - w
        if len(shape) > 1 or network != "mlp" or more < 0 or (more and n_inputs == w):
            raise ValueError(
                f"The model 'residual' is for tables, with z of as many dimensions as there are "
                f"columns of numbers ({w}), more only beside other columns, and the network 'mlp': "
                f"leave latent_dim and network out."
            )
        self.latent_dim, self.gumbel_dim = latent_dim, k
        self.normal_dim = latent_dim + w  # of z, and of numbers that are missing
        n_chances = n_inputs - w + self.n_binary
        self.weights = nn.Parameter(torch.zeros(k))  # logits of p(c)
        self.means = nn.Parameter(torch.zeros(k, w))
        self.roots = nn.Parameter(torch.eye(w).repeat(k, 1, 1))
        self.log_noise = nn.Parameter(torch.zeros(k, w))
        self.logits = nn.Parameter(torch.zeros(k, n_inputs - w))  # of categories and booleans
        self.posterior_maps = nn.Parameter(torch.zeros(k, w, w))
        self.posterior_logvar = nn.Parameter(torch.zeros(k, w))
        self.posterior = _zero(MLPDecoder(n_inputs + k, (2 * latent_dim,), hidden))
        self.decoder = _zero(MLPDecoder(latent_dim + k, (n_params,), hidden))
        self.missing = MissingNumbers(k, w)
        self.responsibilities = Responsibilities(k, w, n_chances)

    @torch.no_grad()
    def start_from(self, start: Gaussians, of_categories: Gaussians | None = None) -> None:
        """Makes the model a mixture; in double precision.

        Arguments:
            start: of the numbers as they are read, and of the other columns
            of_categories: a mixture of standardised numbers that are not bent or limited, whose
                responsibilities are q(c|x); by default those of ``start``

        Raises:
            torch.linalg.LinAlgError: a covariance that is not positive definite.
        """
        log_weights, means, covariances, log_chances = map(torch.from_numpy, start)
        taken = split_covariances(covariances)
        self.weights.copy_(log_weights)
        self.means.copy_(means)
        self.roots.copy_(taken.roots)
        self.log_noise.copy_(taken.noise.log())
        self.posterior_maps.copy_(taken.maps)
        self.posterior_logvar.copy_(taken.logvar)
        true, false, others = log_chances.split(
            [self.n_binary, self.n_binary, log_chances.shape[1] - 2 * self.n_binary], 1
        )
        self.logits.copy_(torch.cat([true - false, others], 1))
        self.missing.set(means, covariances)
        self.responsibilities.set(of_categories or start, of_categories is not None)
        for network in (self.posterior, self.decoder):
            _zero(network)

    @property
    def number_head(self) -> NumberHead:
        """How numbers are read."""
        return cast(NumberHead, self.likelihood.heads[0])

    def is_plain_mixture(self) -> bool:
        """Whether x given c is a Gaussian: nothing is trained, and numbers are read as they are."""
        learned = self.decoder.output.weight.any() or self.decoder.output.bias.any()
        plain = (self.number_head.bend == 0).all() and (self.number_head.rounding == 0).all()
        return bool(plain and not learned and len(self.likelihood.heads) == 1)

    # --- inference -------------------------------------------------------------------------------

    def log_qc(self, observed: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Log q(c|x): responsibilities of the mixture that the model started from."""
        return self.infer(observed)[1]

    def prepare(self, x: Float[Tensor, "b f"]) -> Prepared:
        """What a bound needs of observed data."""
        return Prepared(*self.infer(x), self.number_head.measure(self.likelihood.of_first_head(x)))

    def infer(self, x: Float[Tensor, "b f"]) -> tuple[Float[Tensor, "b i"], Float[Tensor, "b k"]]:
        """Observed data as the networks read it, and log q(c|x) by the values that are there."""
        read = self.likelihood.standardised(x)
        others = read[:, self.n_numbers :].nan_to_num()
        numbers = read[:, : self.n_numbers]
        raw = self.likelihood.of_first_head(x)
        of_categories = torch.where(self.responsibilities.is_raw, raw, numbers)
        log_qc = self.responsibilities.log_prob(of_categories, self.chances_of(read))
        return torch.cat([numbers, others], -1), log_qc

    def chances_of(self, read: Float[Tensor, "b i"]) -> Float[Tensor, "b l"]:
        """Categories one-hot, each boolean as two; zeros where one is missing."""
        boolean, one_hot = read[:, self.n_numbers :].tensor_split([self.n_binary], 1)
        return torch.cat([boolean.nan_to_num(), (1 - boolean).nan_to_num(), one_hot], 1)

    def complete(
        self,
        read: Float[Tensor, "p i"],
        component: Int[Tensor, " p"],
        normal: Float[Tensor, "p w"] | None = None,
    ) -> tuple[Float[Tensor, "p i"], Float[Tensor, " p"]]:
        """Examples with their missing numbers, and log q of these, see `MissingNumbers`."""
        numbers, others = read.tensor_split([self.n_numbers], 1)
        filled, log_q = self.missing.complete(numbers, component, normal)
        return torch.cat([filled, others], 1), log_q

    def encode(self, read: Float[Tensor, "p i"], pairs: Pairs) -> Gaussian:
        """q(u | x, c) of pairs, ``read`` being what the networks read of them, none missing."""
        moved = read[:, : self.n_numbers] - self.missing.means[pairs.component]
        mean = self._times(self.posterior_maps, moved, pairs)
        change, spread = self.posterior(self._with_category(read, pairs.component)).chunk(2, -1)
        more = (0, self.latent_dim - self.n_numbers)
        logvar = F.pad(self.posterior_logvar[pairs.component], more)
        return Gaussian(F.pad(mean, more) + change, logvar + bounded(spread, MOST_NOISE))

    def place(self, u: Float[Tensor, "p d"], pairs: Pairs) -> Float[Tensor, "p d"]:
        """The z of u, each in its component."""
        of_numbers, more = u.tensor_split([self.n_numbers], -1)
        z = self.means[pairs.component] + self._times(self.roots, of_numbers, pairs)
        return torch.cat([z, more], -1)

    def decode(self, *latent: Tensor) -> Float[Tensor, "b p"]:
        """Means and log-variances of numbers, logits of the rest, of z (b, d), one-hot c (b, k)."""
        z, c = latent
        w, params = self.n_numbers, self.decoder(torch.cat([self.near(z), c], -1))
        change, spread, logits = params.tensor_split([w, 2 * w], -1)
        noise = c @ self.log_noise + bounded(spread, MOST_NOISE)
        return torch.cat([z[:, :w] + change, noise, c @ self.logits + logits], -1)

    def mixture(self) -> Mixture:
        """The prior as it stands: component k is p(z | c=k)."""
        more = self.latent_dim - self.n_numbers
        covariance = self.roots @ self.roots.mT
        floor = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1)
        lower = torch.linalg.cholesky(covariance + torch.diag_embed(floor))
        scale = F.pad(lower.diagonal(dim1=-2, dim2=-1), (0, more), value=1.0)
        unit = F.pad(lower, (0, more, 0, more)) + torch.diag_embed(
            F.pad(torch.zeros_like(self.means), (0, more), value=1.0)
        )
        means = F.pad(self.means, (0, more))
        return Mixture(self.weights, means, 2 * scale.log(), unit / scale.unsqueeze(-2))

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
        c = F.one_hot(component, self.n_components).to(values.dtype)
        return torch.cat([self.near(values), c], -1)

    # --- the bound -------------------------------------------------------------------------------

    def given(
        self,
        x: Float[Tensor, "b f"],
        prepared: Prepared,
        pairs: Pairs,
        normal: Float[Tensor, "p e"],
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Log p(x|z,c) and KL(z), both at one draw, of pairs of these examples; nats.

        Where numbers are missing, log p(x|z,c) has log p(y|z,c) - log q(y|x,c) of the drawn ones.
        """
        normal, for_missing = normal.tensor_split([self.latent_dim], -1)
        w, read = self.n_numbers, prepared.read[pairs.row]
        filled, log_q = self.complete(read, pairs.component, for_missing)
        q = self.encode(filled, pairs)
        u, x = q.sample(normal), x[pairs.row]
        c = F.one_hot(pairs.component, self.n_components).to(x.dtype)
        params = self.decode(self.place(u, pairs), c)
        numbers, others = params.tensor_split([2 * w], -1)
        log_px = self.number_head.log_prob_measured(prepared.measured[:, pairs.row], numbers)
        log_px = log_px + self.likelihood.log_prob_after_first(x, others)
        if (missing := read[:, :w].isnan()).any():
            of_drawn = gaussian_log_prob(filled[:, :w], params[:, :w], params[:, w : 2 * w])
            log_px = log_px + torch.where(missing, of_drawn, 0.0).sum(-1) - log_q
        return log_px, 0.5 * (u**2 - normal**2 - q.logvar).sum(-1)

    def bound_of(
        self,
        x: Float[Tensor, "b f"],
        prepared: Prepared,
        pairs: Pairs,
        normal: Float[Tensor, "b e"],
    ) -> Terms:
        """The terms of the bound over the pairs given, differentiable, nats per example.

        ``prepared`` is what `prepare` gives for ``x``.
        """
        log_px, kl_z, kl_c = torch.zeros(3, len(x), dtype=x.dtype, device=x.device)
        given = self.given(x, prepared, pairs, normal[pairs.row])
        log_px = log_px.index_add(0, pairs.row, pairs.weight * given[0])
        kl_z = kl_z.index_add(0, pairs.row, pairs.weight * given[1])
        each = pairs.weight * (pairs.weight.log() - self.log_pc()[pairs.component])
        return Terms(log_px, kl_z, kl_c.index_add(0, pairs.row, each), prepared.log_qc)

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
        prepared = self.prepare(x)
        log_qc = prepared.log_qc
        if expectation == "exact":
            return self.bound_of(x, prepared, pairs_of(log_qc.exp()), noise.normal)
        c = F.one_hot((log_qc + noise.gumbel).argmax(-1), self.n_components).to(x.dtype)
        terms = self.bound_of(x, prepared, pairs_of(c), noise.normal)
        return terms._replace(kl_c=categorical_kl(log_qc, self.log_pc()))

    @torch.no_grad()
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b e"]) -> Terms:
        """The terms over the categories with q(c|x) above 1e-9, nats per example."""
        prepared = self.prepare(x)
        return self.bound_of(x, prepared, pairs_of(prepared.log_qc.exp()), normal)

    @torch.no_grad()
    def given_each(
        self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b k"]:
        """E log p(x|z,c) - KL(q(z|x,c) || p(z|c)) for every category, nats (eq. 7), one z each."""
        every = pairs_of(torch.ones(len(x), self.n_components, dtype=x.dtype, device=x.device))
        log_px, kl_z = self.given(x, self.prepare(x), every, normal[every.row])
        return (log_px - kl_z).view(self.n_components, len(x)).T

    @torch.no_grad()
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log p(x,z,c) - log q(z,c|x) in nats for one-hot c and z drawn from q(z,c|x), (s, b)."""
        prepared = self.prepare(x)
        log_qc = prepared.log_qc
        draw = torch.multinomial(log_qc.exp(), n_samples, replacement=True, generator=generator)
        component, order = draw.T.flatten().sort(stable=True)
        row = order % len(x)
        counts = component.bincount(minlength=self.n_components).tolist()
        pairs = Pairs(row, component, torch.ones_like(x[row, 0]), counts)
        normal = torch.randn(
            len(row), self.normal_dim, generator=generator, device=x.device, dtype=x.dtype
        )
        log_px, kl_z = self.given(x, prepared, pairs, normal)
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
        filled, _ = self.complete(self.infer(x)[0], c.argmax(1))
        return self.encode(filled, pairs_of(c))

    def code(
        self, observed: Float[Tensor, "n f"]
    ) -> tuple[tuple[Tensor, Tensor], Float[Tensor, "n k"]]:
        """Posterior mean of z and one-hot c at the most probable category, and log q(c|x)."""
        read, log_qc = self.infer(observed)
        category = log_qc.argmax(-1)
        c = F.one_hot(category, self.n_components).to(log_qc.dtype)
        filled, _ = self.complete(read, category)
        # not by pairs: a graph that is exported has no sizes that depend on the data
        change, _ = self.posterior(self._with_category(filled, category)).chunk(2, -1)
        change, more = change.tensor_split([self.n_numbers], -1)
        numbers = filled[:, : self.n_numbers]
        each = zip(self.missing.means, self.posterior_maps, self.means, self.roots, strict=True)
        placed = [
            mean + ((numbers - start) @ to_u.T + change) @ root.T
            for start, to_u, mean, root in each
        ]
        z = torch.cat([torch.einsum("nk,nkd->nd", c, torch.stack(placed, 1)), more], -1)
        return (z, c), log_qc

    def draw(
        self, component: Int[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        """A z from p(z | c) for each of the components given, and c one-hot."""
        c = F.one_hot(component, self.n_components).to(self.aggregated.dtype)
        pairs = pairs_of(c)
        u = torch.randn(len(c), self.latent_dim, generator=generator, device=c.device)
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
        aggregated = torch.stack([self.aggregated[g].sum() for g in groups])
        small.aggregated = aggregated / aggregated.sum()
        small.n_components = small.gumbel_dim = len(groups)
        for name, value in self.named_parameters(recurse=False):
            setattr(small, name, nn.Parameter(value[: len(groups)].clone()))
        q, log_weights = self.responsibilities, small.aggregated.clamp_min(1e-6).log()
        now = self.roots @ self.roots.mT + torch.diag_embed(self.log_noise.exp())
        start, of_categories = (
            merged_gaussians(share, log_weights, *each, q.log_chances)
            for each in ((self.means, now), (q.means, q.covariances))
        )
        small.start_from(start, of_categories if q.is_raw else None)
        small.logits.copy_(share @ self.logits)
        for name in ("posterior", "decoder"):
            network = getattr(small, name)
            network.load_state_dict(getattr(self, name).state_dict())
            merge_categories(network.first_layer(), share)
        return small


def _zero(network: MLPDecoder) -> MLPDecoder:
    """A network that gives zeros until it is trained."""
    nn.init.zeros_(network.output.weight)
    nn.init.zeros_(network.output.bias)
    return network

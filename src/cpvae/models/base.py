"""The contract that every generative model keeps, and what users ask of any of them.

Data flows trunk -> q(c|x) and q(z|x, c) -> decoder -> likelihood. Models hold no schedule and draw
no noise in training: temperature and noise are arguments, so a step is a pure function of
parameters, data and noise.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpvae.choices import DRAW_FROM, NETWORKS, choose
from cpvae.models import networks
from cpvae.models.functional import Gaussian, Mixture, gumbel, soft_logvar, soft_reach
from cpvae.models.likelihoods import Likelihood
from cpvae.models.precision import single_precision
from cpvae.models.priors import Prior
from cpvae.streams import torch_stream


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

    def elbo(self) -> Float[Tensor, "*d b"]:
        """Log p(x|z,c) - KL(c) - KL(z), nats per example (eq. 7)."""
        return self.log_px - self.kl_z - self.kl_c


class Model(nn.Module, abc.ABC):
    """A generative model of data of shape ``(n, *shape)``, in the data's own units.

    Arguments:
        shape: shape of one example, (f,) or (channels, height, width)
        likelihood: p(x | decoder output), see `likelihoods`
        n_components: components of the prior
    """

    has_categories = False  # whether c is inferred by q(c|x), not read off the prior's components
    soft_bounds = False  # of what networks read and of log-variances, see `near` and `gaussian_of`
    drawn_from = "uniform"  # where `sample` draws components: the weights the prior is trained with
    latent_names: tuple[str, ...] = ("z",)  # of what `code` gives and `decode` takes
    aggregated: Tensor  # share of each component in the training data (k), eq. 14
    prior: Prior
    latent_dim: int
    normal_dim: int  # noise that an example consumes, see `Noise`
    gumbel_dim: int

    def __init__(self, shape: Sequence[int], likelihood: Likelihood, n_components: int):
        super().__init__()
        self.shape, self.likelihood, self.n_components = tuple(shape), likelihood, n_components
        self.register_buffer("aggregated", torch.full((n_components,), 1 / n_components))

    # --- what each model brings ------------------------------------------------------------------

    @abc.abstractmethod
    def mixture(self) -> Mixture:
        """The prior as it stands."""

    @abc.abstractmethod
    def log_qc(self, observed: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Log q(c|x) of observed data; without a category, log-responsibilities of the prior."""

    @abc.abstractmethod
    def code(self, observed: Float[Tensor, "n f"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Latent values of observed data, as `decode` takes them, z first; and `log_qc`."""

    @abc.abstractmethod
    def draw(self, component: Int[Tensor, " n"], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Latent values from given components of the prior, as `decode` takes them."""

    @abc.abstractmethod
    def decode(self, *latent: Tensor) -> Float[Tensor, "b p"]:
        """Parameters of p(x | latent values), as the likelihood reads them."""

    @abc.abstractmethod
    def terms(
        self,
        x: Float[Tensor, "b f"],
        noise: Noise,
        temperature: float | Tensor = 0.5,
        expectation: str = "straight_through",
    ) -> Terms:
        """The terms of the bound for observed data, differentiable, nats per example (eq. 7-9)."""

    @abc.abstractmethod
    def exact_terms(self, x: Float[Tensor, "b f"], normal: Float[Tensor, "b e"]) -> Terms:
        """The terms of the bound with every category enumerated, for evaluation; no gradient."""

    @abc.abstractmethod
    def log_weights(
        self, x: Float[Tensor, "b f"], n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "s b"]:
        """Log importance weights log p(x, latents) - log q(latents | x) in nats, (s, b).

        Their mean over s estimates the bound; `functional.log_mean_exp` over s estimates log p(x)
        from below (importance weighting, Burda et al. 2016).
        """

    # --- far from the data -----------------------------------------------------------------------

    def read(self, observed: Float[Tensor, "n f"]) -> Float[Tensor, "n i"]:
        """What the networks read of observed data, see `near`."""
        return self.near(self.likelihood.inputs(observed))

    def near(self, values: Tensor) -> Tensor:
        """Standardised values as networks read them: with `soft_bounds` nearer than they are.

        Networks know nothing of values far from all that they were trained on, and what they say
        of them grows without limit. Whatever they say of q, the bound stays one.
        """
        return soft_reach(values) if self.soft_bounds else values

    def gaussian_of(self, params: Float[Tensor, "*b e"]) -> Gaussian:
        """The Gaussian of a network's output: means, then log-variances, see `soft_bounds`."""
        mean, logvar = params.chunk(2, dim=-1)
        return Gaussian(mean, soft_logvar(logvar) if self.soft_bounds else logvar)

    # --- what users ask of it --------------------------------------------------------------------

    @torch.no_grad()
    def cluster_probs(self, x: Tensor) -> Float[Tensor, "n k"]:
        """q(c|x) of data (n, ...); grey values are read as they are, nothing is drawn.

        For a model without a category: the responsibilities of its prior's components at the
        posterior mean of z.
        """
        return self.log_qc(self.likelihood.observe(x.flatten(1))).exp()

    @torch.no_grad()
    def embed(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Posterior mean of z of data (n, ...), given its most probable category."""
        return self.code(self.likelihood.observe(x.flatten(1)))[0][0]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z, c) at the posterior mean of z and the most probable category."""
        latent, _ = self.code(self.likelihood.observe(x.flatten(1)))
        return self.likelihood.mean(self.decode(*latent)).unflatten(-1, self.shape)

    @single_precision()
    @torch.no_grad()
    def sample(
        self,
        n: int,
        component: int | Sequence[int] | None = None,
        from_: str | None = None,
        generator: torch.Generator | None = None,
        mean: bool = False,
    ) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Generates data: c, then z | c, then x | z, c (section 3.1 and 5).

        Arguments:
            n: number of examples
            component: draw all from this one, or from these by their shares, or None to draw c
                from all
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
        some = [component] if isinstance(component, int) else component
        if some is not None and not (some and all(0 <= k < self.n_components for k in some)):
            last = self.n_components - 1
            raise ValueError(f"component={component} does not exist: choose one from 0 to {last}.")
        from_ = from_ or self.drawn_from
        choose("from_", from_, DRAW_FROM)
        device = self.aggregated.device
        if generator is None:
            generator = torch_stream(0, "sampling", device=device)
        if some is not None and len(some) == 1:
            drawn = torch.full((n,), some[0], device=device)
        else:
            uniform = torch.full_like(self.aggregated, 1 / self.n_components)
            shares = self.aggregated if from_ == "aggregated" else uniform
            if some is not None:
                kept = torch.zeros_like(shares)
                kept[list(some)] = shares[list(some)].clamp_min(1e-9)
                shares = kept
            drawn = torch.multinomial(shares, n, replacement=True, generator=generator)
        params = self.decode(*self.draw(drawn, generator))
        x = self.likelihood.mean(params) if mean else self.likelihood.sample(params, generator)
        return x.unflatten(-1, self.shape), drawn

    def rows_at_once(self) -> int:
        """Rows to decode at once in evaluation: 64 MB on a CPU, 1 GB on a GPU, roughly."""
        limit = 2**30 if self.aggregated.is_cuda else 2**26  # more leaves the cache: half the speed
        widest = max(weight.shape[0] for weight in self.parameters() if weight.ndim > 1)
        floats = 8 * math.prod(self.shape) + 4 * (self.n_components + widest)
        return max(1, limit // (4 * floats))


def draw_noise(model: Model, n: int, generator: torch.Generator) -> Noise:
    """Fresh noise for ``n`` examples."""
    device = generator.device
    normal = torch.randn(n, model.normal_dim, generator=generator, device=device)
    uniform = torch.rand(n, model.gumbel_dim, generator=generator, device=device)
    return Noise(normal, gumbel(uniform))


def normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the same shape and on the same device."""
    return torch.randn(like.shape, generator=generator, device=like.device)


def trunk_and_decoder(network: str, shape: Sequence[int]) -> tuple[Any, Any]:
    """The two classes of a kind of network.

    Raises:
        ValueError: an unknown name, or ``conv`` for examples that are not images.
    """
    choose("network", network, NETWORKS)
    if network == "conv" and len(shape) != 3:
        raise ValueError(f"network='conv' needs images, and examples have shape {tuple(shape)}.")
    return networks.NETWORKS[network]

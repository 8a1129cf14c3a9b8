"""Heads: how a kind of column is read by the networks, and what the decoder's output says of it.

A head serves all columns of its kind at once. A value has three forms: in the data's own units
(b, n_columns); observed, the form that the density is of, of the same shape; and standardised
(b, n_inputs), which the networks read once missing values are filled with zeros. The decoder gives
(b, n_params). Shapes say ``*n`` or ``*b`` for any number of leading axes, c for columns, i for
inputs and p for parameters.

A value that is missing (NaN) is left out of the density: features are independent given the
latents, so its factor integrates to one (Nazabal et al. 2020).

A new kind of column is a class here and a line in `HEADS`.
"""

import abc
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.data.kinds import MOST_LOG_COUNT
from cpvae.models.functional import LOG_2PI, gumbel, negative_binomial_log_prob
from cpvae.models.fused import bernoulli_log_prob

NOISE_FLOOR = 0.05  # least standard deviation of learned noise, in standardised units


class Head(nn.Module, abc.ABC):
    """What every kind of column has. All densities are in nats, summed over the columns."""

    kind: str  # of `choices.KINDS`
    n_columns: int
    n_inputs: int
    n_params: int
    n_levels: tuple[int, ...] = ()  # categories of each column, where they are categorical

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Data as it is observed: densities are of this."""

    @abc.abstractmethod
    def decode(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Observed values in the data's units."""

    @abc.abstractmethod
    def standardised(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n i"]:
        """Standardised values; NaN where one is missing, and zeros for a missing category."""

    @abc.abstractmethod
    def log_prob(self, observed: Float[Tensor, "*#b c"], params: Float[Tensor, "*#b p"]) -> Tensor:
        """Log p(observed | params) in nats, (*b), of the values that are not missing.

        It is a density of the data in its own units where values are continuous, else a
        probability.
        """

    @abc.abstractmethod
    def mean(self, params: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
        """Expected data in its own units; of categories the most probable one."""

    @abc.abstractmethod
    def sample(self, params: Float[Tensor, "n p"], generator: torch.Generator) -> Tensor:
        """Data drawn from the model, (n, n_columns) in its own units."""


class GaussianHead(Head):
    """Measurements; the decoder gives their standardised mean.

    Both the observed and the standardised form are (x - loc) / scale. The noise has one standard
    deviation per column, learned above a floor (a density can grow without limit where a column
    takes few values), or fixed by hand as in the paper.

    Arguments:
        loc: origin of each column, (c)
        scale: unit of each column, positive, (c)
        noise_scale: standard deviation of the noise in the data's units, or None to learn it
    """

    kind = "gaussian"
    loc: Tensor
    scale: Tensor
    log_noise: Tensor  # log of the variance of the noise, on top of the floor

    def __init__(
        self,
        loc: Float[Tensor, " c"],
        scale: Float[Tensor, " c"],
        noise_scale: float | None = None,
    ):
        super().__init__()
        self.n_columns = self.n_inputs = self.n_params = len(loc)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        if noise_scale is None:
            self.noise_floor = NOISE_FLOOR
            self.log_noise = nn.Parameter(torch.zeros_like(scale))
        else:
            self.noise_floor = 0.0
            self.register_buffer("log_noise", 2 * torch.log(noise_scale / scale))

    def noise_var(self) -> Float[Tensor, " c"]:
        """Variance of the noise of each standardised column."""
        return self.noise_floor**2 + torch.exp(self.log_noise)

    def encode(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Standardised values."""
        return within_reach((x - self.loc) / self.scale)

    def decode(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Values in the data's units."""
        return self.loc + self.scale * observed

    def standardised(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Standardised values."""
        return observed

    def log_prob(self, observed: Float[Tensor, "*#b c"], params: Float[Tensor, "*#b c"]) -> Tensor:
        """Log-density in nats, (*b), in the data's own units, hence the log of the scale."""
        var, present = self.noise_var(), ~observed.isnan()
        constant = torch.log(var) + LOG_2PI + 2 * torch.log(self.scale)
        distance = torch.where(present, observed - params, 0.0) ** 2 / var
        # each value that is present adds the constant of its column
        return -0.5 * (distance.sum(-1) + present.to(var.dtype) @ constant)

    def mean(self, params: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Expected values in the data's units."""
        return self.decode(params)

    def sample(self, params: Float[Tensor, "n c"], generator: torch.Generator) -> Tensor:
        """Values drawn with their noise, in the data's units."""
        noise = torch.randn(params.shape, generator=generator, device=params.device)
        return self.decode(params + noise * self.noise_var().sqrt())


class BinaryHead(Head):
    """Zeros and ones, or pixels that are drawn as such; the decoder gives their logits.

    Arguments:
        n_columns: how many
        takes_missing: whether values may be missing; False is a faster density that knows no NaN
    """

    kind = "binary"

    def __init__(self, n_columns: int, takes_missing: bool = True):
        super().__init__()
        self.n_columns = self.n_inputs = self.n_params = n_columns
        self.takes_missing = takes_missing

    def encode(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The data itself."""
        return x

    def decode(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The data itself."""
        return observed

    def standardised(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Zeros and ones."""
        return observed

    def log_prob(self, observed: Float[Tensor, "*#b c"], params: Float[Tensor, "*#b c"]) -> Tensor:
        """Log-probability in nats, (*b)."""
        if not self.takes_missing:
            return bernoulli_log_prob(observed, params)
        log_prob = filled(observed) * params - F.softplus(params)
        return torch.where(observed.isnan(), 0.0, log_prob).sum(-1)

    def mean(self, params: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The probability of a one."""
        return torch.sigmoid(params)

    def sample(self, params: Float[Tensor, "n c"], generator: torch.Generator) -> Tensor:
        """Zeros and ones."""
        uniform = torch.rand(params.shape, generator=generator, device=params.device)
        return (uniform < torch.sigmoid(params)).to(params.dtype)


class CountHead(Head):
    """Whole numbers from 0 up, negative binomial with a learned dispersion.

    The variance is m + m^2 / dispersion for a mean of m: the larger the dispersion, the nearer to a
    Poisson. The networks read the logarithm of one more than the count, and the decoder gives the
    logarithm of the mean (not of one more), shifted and scaled by the same ``loc`` and ``scale``.

    Arguments:
        loc: origin of the logarithms, (c)
        scale: unit of the logarithms, positive, (c)
    """

    kind = "count"
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Float[Tensor, " c"], scale: Float[Tensor, " c"]):
        super().__init__()
        self.n_columns = self.n_inputs = self.n_params = len(loc)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.log_dispersion = nn.Parameter(torch.zeros_like(loc))

    def encode(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The counts themselves, or the greatest whose probability has a finite logarithm."""
        return x.clamp_max(torch.finfo(x.dtype).max ** 0.9)

    def decode(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The counts themselves."""
        return observed

    def standardised(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Standardised logarithms of one more than each count."""
        return (torch.log1p(observed) - self.loc) / self.scale

    def log_mean(self, params: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Logarithm of the mean count."""
        return (self.loc + self.scale * params).clamp(max=MOST_LOG_COUNT)

    def log_prob(self, observed: Float[Tensor, "*#b c"], params: Float[Tensor, "*#b c"]) -> Tensor:
        """Log-probability in nats, (*b)."""
        log_mean = self.log_mean(params)
        each = negative_binomial_log_prob(filled(observed), log_mean, self.log_dispersion)
        return torch.where(observed.isnan(), 0.0, each).sum(-1)

    def mean(self, params: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The mean count."""
        return self.log_mean(params).exp()

    def sample(self, params: Float[Tensor, "n c"], generator: torch.Generator) -> Tensor:
        """Counts: a Poisson with a rate from a gamma distribution."""
        # torch's public Gamma takes no generator; its kernel reads memory, not strides
        dispersion = self.log_dispersion.exp().expand_as(params).contiguous()
        rate = torch._standard_gamma(dispersion, generator=generator) / dispersion
        return torch.poisson(rate * self.mean(params), generator=generator)


class CategoricalHead(Head):
    """One of several categories, each as its number from 0; the decoder gives their logits.

    The networks read one-hot categories, zeros where one is missing.

    Arguments:
        n_levels: number of categories of each column, (c)
    """

    kind = "categorical"

    def __init__(self, n_levels: Sequence[int]):
        super().__init__()
        self.n_levels, self.n_columns = tuple(n_levels), len(n_levels)
        self.n_inputs = self.n_params = sum(n_levels)

    def encode(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The numbers of the categories."""
        return x

    def decode(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The numbers of the categories."""
        return observed

    def standardised(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n i"]:
        """One-hot categories, column after column."""
        columns = zip(observed.unbind(-1), self.n_levels, strict=True)
        return torch.cat([_one_hot(column, n) for column, n in columns], -1)

    def log_prob(self, observed: Float[Tensor, "*#b c"], params: Float[Tensor, "*#b p"]) -> Tensor:
        """Log-probability in nats, (*b)."""
        columns = zip(observed.unbind(-1), params.split(self.n_levels, -1), strict=True)
        each = [
            (_one_hot(column, logits.shape[-1]) * F.log_softmax(logits, -1)).sum(-1)
            for column, logits in columns
        ]
        return torch.stack(each).sum(0)

    def mean(self, params: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
        """The number of the most probable category."""
        most = [logits.argmax(-1) for logits in params.split(self.n_levels, -1)]
        return torch.stack(most, -1).to(params.dtype)

    def sample(self, params: Float[Tensor, "n p"], generator: torch.Generator) -> Tensor:
        """Numbers of categories, by the Gumbel-max trick."""
        drawn = []
        for logits in params.split(self.n_levels, -1):
            uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
            drawn.append((logits + gumbel(uniform)).argmax(-1))
        return torch.stack(drawn, -1).to(params.dtype)


# for each kind, a function (loc, scale, n_levels) -> Head of its columns, (c) each
HEADS: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Head]] = {
    "gaussian": lambda loc, scale, n_levels: GaussianHead(loc, scale),
    "binary": lambda loc, scale, n_levels: BinaryHead(len(loc)),
    "count": lambda loc, scale, n_levels: CountHead(loc, scale),
    "categorical": lambda loc, scale, n_levels: CategoricalHead(n_levels),
}


def within_reach(x: Tensor) -> Tensor:
    """Standardised values, moved to where the sum of their squares is still a finite number.

    In single precision that is 3e11 standard deviations, in double precision 2e92.
    """
    most = torch.finfo(x.dtype).max ** 0.3
    return x.clamp(-most, most)


def filled(x: Tensor) -> Tensor:
    """``x`` with zeros for NaN."""
    return torch.where(x.isnan(), 0.0, x)


def _one_hot(category: Float[Tensor, "*n"], n: int) -> Float[Tensor, "*n l"]:
    """One-hot rows, all zeros where the category is missing."""
    every = torch.arange(n, device=category.device, dtype=category.dtype)
    return (category.unsqueeze(-1) == every).to(category.dtype)

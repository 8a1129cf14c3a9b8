"""p(x | z, c): what the decoder's output says about the data (section 3.1).

A likelihood stands between the user's units and the networks'. `observe` turns data into what the
networks see and the density is of (binary pixels, standardised columns); `mean` and `sample` turn
the decoder's output back. `log_prob` is in nats per example, summed over features, and always a
density of the data in the user's own units.

Training keeps the data on the device as `store` makes it and calls `draw` with noise that was made
for many steps at once by `noise`; `observe` is the same in one go.

A value that is missing (NaN) is integrated out: features are independent given the latents, so its
factor is left out of the density, and what remains is a bound on the density of the values that are
there (Nazabal et al. 2020). What the networks read is `inputs` of the data, which has no gaps. Only
the features of tables may miss, and not those of a `BernoulliLikelihood`.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.models.functional import LOG_2PI, gumbel, negative_binomial_log_prob
from cpvae.models.fused import bernoulli_log_prob

LEVELS = 2**16  # grey levels that binarisation tells apart
KINDS = ("gaussian", "binary", "count", "categorical")  # of columns, see `MixedLikelihood`
MOST_LOG_COUNT = 15.0  # the mean of a count is at most exp(15), three million


class BernoulliLikelihood(nn.Module):
    """Independent Bernoulli features for data in [0, 1]; the decoder's output is their logits.

    Grey values are read as probabilities and drawn anew whenever they are seen (dynamic
    binarisation, section 5.2), so the mean of the model is a grey image again.
    """

    takes_missing = False

    def network_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what the networks take and give for examples of a shape: the same."""
        return tuple(shape)

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """Binary draws of ``x`` (n, f); with no generator the grey values themselves."""
        if generator is None:
            return x
        return self.draw(self.store(x), self.noise(x.shape, generator))

    def seen(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Observed data as numbers, then as one-hot categories, of which there are none."""
        return x

    def inputs(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """What the networks read of observed data: the data, none of which may miss."""
        return x

    def store(self, x: Float[Tensor, "*n f"]) -> Int16[Tensor, "*n f"]:
        """Grey values as one of 65,536 levels: half the memory, and cheap to compare with noise."""
        level = torch.round(x * LEVELS - LEVELS // 2)
        return level.clamp_(max=LEVELS // 2 - 1).to(torch.int16)

    def restore(self, stored: Int16[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Grey values of stored data, to the nearest level."""
        return (stored.float() + LEVELS // 2) / LEVELS

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Int16[Tensor, "n f"]:
        """Uniform noise (n, f) in two bytes each: four numbers in one of the generator's.

        The greatest level does not occur, so that a white pixel is always 1 and a black one 0. On a
        CPU numpy draws, seeded by the generator: torch takes five times as long.
        """
        n = math.prod(shape)
        if generator.device.type == "cpu":
            seed = int(torch.randint(2**63 - 1, (), generator=generator))
            bits = np.random.Generator(np.random.SFC64(seed))
            words = torch.from_numpy(bits.integers(-(2**63), 2**63, -(-n // 4), dtype=np.int64))
        else:
            words = torch.empty(-(-n // 4), dtype=torch.int64, device=generator.device)
            words.random_(-(2**63), None, generator=generator)
        return words.view(torch.int16)[:n].view(shape).clamp_(max=LEVELS // 2 - 2)

    def draw(self, stored: Int16[Tensor, "*n f"], noise: Int16[Tensor, "*n f"]) -> Tensor:
        """Binary draws (*n, f) of stored data."""
        return (noise < stored).float()

    def log_prob(self, x: Float[Tensor, "*#b f"], params: Float[Tensor, "*#b f"]) -> Tensor:
        """Log p(x | params) in nats, shape (*b)."""
        return bernoulli_log_prob(x, params)

    def mean(self, params: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """Expected data: the probability of each feature being 1."""
        return torch.sigmoid(params)

    def sample(self, params: Float[Tensor, "n f"], generator: torch.Generator) -> Tensor:
        """Binary data drawn from the model, (n, f)."""
        return self.observe(self.mean(params), generator)


class _AsObserved(nn.Module):
    """Data that is kept as it is observed: nothing is drawn when it is seen."""

    takes_missing = True

    def store(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Observed data as they are."""
        return x

    def restore(self, stored: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Observed data as they are."""
        return stored

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "n 0"]:
        """No noise."""
        return torch.empty(shape[0], 0, device=generator.device)

    def draw(self, stored: Float[Tensor, "*n f"], noise: Float[Tensor, "*n 0"]) -> Tensor:
        """Observed data as they are."""
        return stored


class GaussianLikelihood(_AsObserved):
    """Independent Gaussian features; the decoder's output is their mean, standardised.

    The networks see (x - loc) / scale. The noise has one standard deviation a feature, learned
    above a floor (a density can grow without limit where a column takes few values), or fixed by
    hand as in the paper.

    Arguments:
        loc: the origin of each feature, (f)
        scale: the unit of each feature, positive, (f)
        noise_scale: standard deviation of the noise in the data's units, or None to learn it
        noise_floor: least standard deviation that may be learned, in units of ``scale``
    """

    loc: Tensor
    scale: Tensor
    log_noise: Tensor

    def __init__(
        self,
        loc: Float[Tensor, " f"],
        scale: Float[Tensor, " f"],
        noise_scale: float | None = None,
        noise_floor: float = 0.05,
    ):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        if noise_scale is None:
            self.noise_floor = noise_floor
            self.log_noise = nn.Parameter(torch.zeros_like(scale))
        else:
            self.noise_floor = 0.0
            self.register_buffer("log_noise", 2 * torch.log(noise_scale / scale))

    def network_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what the networks take and give for examples of a shape: the same."""
        return tuple(shape)

    def noise_var(self) -> Float[Tensor, " f"]:
        """Variance of the noise of each standardised feature."""
        return self.noise_floor**2 + torch.exp(self.log_noise)

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """Standardised data (n, f); nothing is drawn."""
        return (x - self.loc) / self.scale

    def seen(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Observed data as numbers, NaN where missing, then as one-hot categories: none."""
        return x

    def inputs(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """What the networks read of observed data: the mean of its feature for a missing value."""
        return _filled(x)

    def log_prob(self, x: Float[Tensor, "*#b f"], params: Float[Tensor, "*#b f"]) -> Tensor:
        """Log p in nats, shape (*b), of standardised ``x`` as a density of the data's own units.

        Of an example with missing values it is the density of the others.
        """
        var, there = self.noise_var(), ~x.isnan()
        constant = torch.log(var) + LOG_2PI + 2 * torch.log(self.scale)
        distance = torch.where(there, x - params, 0.0) ** 2 / var
        return -0.5 * (distance.sum(-1) + there.to(var.dtype) @ constant)

    def mean(self, params: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """Expected data in the user's units."""
        return self.loc + self.scale * params

    def sample(self, params: Float[Tensor, "n f"], generator: torch.Generator) -> Tensor:
        """Data drawn from the model in the user's units, noise included, (n, f)."""
        noise = torch.randn(params.shape, generator=generator, device=params.device)
        return self.mean(params + noise * self.noise_var().sqrt())


class MixedLikelihood(_AsObserved):
    """Columns of several kinds, independent given the latents (Nazabal et al. 2020).

    Data is observed in the user's units, a category as its number from 0. The networks read
    standardised values, binary ones as they are, the logarithm of one more than a count,
    standardised, and one-hot categories, and give as many: the standardised mean of a ``gaussian``
    column, whose noise has a learned standard deviation; the logit of a ``binary`` one; the
    logarithm of the mean of a ``count``, whose negative binomial has a learned dispersion; the
    logits of a ``categorical`` one. ``log_prob`` is a density in the Gaussian columns and a
    probability in the others.

    Arguments:
        kinds: one of `KINDS` a column, (f)
        n_levels: categories of each column, 0 where it is of another kind, (f)
        loc: origin of each column, of the logarithm of a count, (f)
        scale: unit of each column, positive, (f)
        noise_floor: least standard deviation of Gaussian noise, in units of ``scale``

    Raises:
        ValueError: an unknown kind, or a categorical column without its number of categories.
    """

    loc: Tensor
    scale: Tensor
    _gaussian: Tensor
    _binary: Tensor
    _count: Tensor
    _categorical: Tensor
    _back: Tensor

    def __init__(
        self,
        kinds: Sequence[str],
        n_levels: Sequence[int],
        loc: Float[Tensor, " f"],
        scale: Float[Tensor, " f"],
        noise_floor: float = 0.05,
    ):
        super().__init__()
        for kind, levels in zip(kinds, n_levels, strict=True):
            if kind not in KINDS:
                raise ValueError(f"kind {kind!r} is unknown: choose from {', '.join(KINDS)}.")
            if (kind == "categorical") != (levels > 0):
                raise ValueError(f"A column of the kind {kind!r} cannot have {levels} categories.")
        self.kinds, self.noise_floor = tuple(kinds), noise_floor
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        of = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in KINDS}
        self.n_levels = [n_levels[i] for i in of["categorical"]]
        self.sizes = [len(of[kind]) for kind in KINDS[:3]]  # then the categories, one by one
        by_kind = {kind: torch.tensor(columns, dtype=torch.long) for kind, columns in of.items()}
        for kind, columns in by_kind.items():
            self.register_buffer(f"_{kind}", columns, persistent=False)
        back = torch.cat(list(by_kind.values())).argsort()
        self.register_buffer("_back", back, persistent=False)
        self.log_noise = nn.Parameter(torch.zeros(self.sizes[0]))
        self.log_dispersion = nn.Parameter(torch.zeros(self.sizes[2]))

    def network_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what the networks take and give: a number a column, and one a category."""
        return (sum(self.sizes) + sum(self.n_levels),)

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """The data itself (n, f); nothing is drawn."""
        return x

    def seen(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n w"]:
        """Observed data as numbers, NaN where missing, then as one-hot categories."""
        gaussian, binary, count, categorical = self._apart(x)
        parts = [
            (gaussian - self.loc[self._gaussian]) / self.scale[self._gaussian],
            binary,
            (torch.log1p(count) - self.loc[self._count]) / self.scale[self._count],
        ]
        for column, n in zip(categorical.unbind(-1), self.n_levels, strict=True):
            parts.append(_one_hot(column, n))
        return torch.cat(parts, -1)

    def inputs(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n w"]:
        """What the networks read of observed data; zeros for a missing value."""
        return _filled(self.seen(x))

    def log_prob(self, x: Float[Tensor, "*#b f"], params: Float[Tensor, "*#b w"]) -> Tensor:
        """Log p(x | params) in nats, shape (*b); of the values that are there."""
        gaussian, binary, count, categorical = self._apart(x)
        mean, logit, log_mean, logits = self._params(params)
        var = self._noise_var()
        constant = torch.log(var) + LOG_2PI + 2 * torch.log(self.scale[self._gaussian])
        seen = (gaussian - self.loc[self._gaussian]) / self.scale[self._gaussian]
        total = _of_those_there(seen, -0.5 * ((_filled(seen) - mean) ** 2 / var + constant))
        total = total + _of_those_there(binary, _filled(binary) * logit - F.softplus(logit))
        counted = negative_binomial_log_prob(_filled(count), log_mean, self.log_dispersion)
        total = total + _of_those_there(count, counted)
        for column, part in zip(categorical.unbind(-1), logits, strict=True):
            total = total + (_one_hot(column, part.shape[-1]) * F.log_softmax(part, -1)).sum(-1)
        return total

    def mean(self, params: Float[Tensor, "n w"]) -> Float[Tensor, "n f"]:
        """Expected data in the user's units; of a categorical column the most probable category."""
        mean, logit, log_mean, logits = self._params(params)
        mean = self.loc[self._gaussian] + self.scale[self._gaussian] * mean
        most = [part.argmax(-1, keepdim=True).to(mean.dtype) for part in logits]
        return self._together(mean, torch.sigmoid(logit), log_mean.exp(), most)

    def sample(self, params: Float[Tensor, "n w"], generator: torch.Generator) -> Tensor:
        """Data drawn from the model in the user's units, (n, f)."""
        mean, logit, log_mean, logits = self._params(params)
        device = params.device
        noise = torch.randn(mean.shape, generator=generator, device=device)
        mean = mean + noise * self._noise_var().sqrt()
        mean = self.loc[self._gaussian] + self.scale[self._gaussian] * mean
        uniform = torch.rand(logit.shape, generator=generator, device=device)
        dispersion = self.log_dispersion.exp().expand_as(log_mean).contiguous()
        rate = torch._standard_gamma(dispersion, generator=generator) / dispersion
        count = torch.poisson(rate * log_mean.exp(), generator=generator)
        drawn = []
        for part in logits:
            perturbed = part + gumbel(torch.rand(part.shape, generator=generator, device=device))
            drawn.append(perturbed.argmax(-1, keepdim=True).to(mean.dtype))
        binary = (uniform < torch.sigmoid(logit)).to(mean.dtype)
        return self._together(mean, binary, count, drawn)

    def _apart(self, x: Float[Tensor, "*n f"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Columns by kind."""
        return (
            x.index_select(-1, self._gaussian),
            x.index_select(-1, self._binary),
            x.index_select(-1, self._count),
            x.index_select(-1, self._categorical),
        )

    def _together(
        self, gaussian: Tensor, binary: Tensor, count: Tensor, categorical: Sequence[Tensor]
    ) -> Float[Tensor, "*n f"]:
        """Columns in their own order again."""
        by_kind = torch.cat([gaussian, binary, count, *categorical], -1)
        return by_kind.index_select(-1, self._back)

    def _params(
        self, params: Float[Tensor, "*n w"]
    ) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
        """Standardised means, logits, log-means of counts, and the logits of each category."""
        mean, logit, count, *logits = params.split([*self.sizes, *self.n_levels], -1)
        log_mean = self.loc[self._count] + self.scale[self._count] * count
        return mean, logit, log_mean.clamp(max=MOST_LOG_COUNT), logits

    def _noise_var(self) -> Float[Tensor, " g"]:
        return self.noise_floor**2 + torch.exp(self.log_noise)


def _filled(x: Tensor) -> Tensor:
    """Zeros for missing values."""
    return torch.where(x.isnan(), 0.0, x)


def _of_those_there(x: Float[Tensor, "*#b f"], log_prob: Float[Tensor, "*b f"]) -> Tensor:
    """Sum of the log-probabilities of the values that are not missing."""
    return torch.where(x.isnan(), 0.0, log_prob).sum(-1)


def _one_hot(category: Float[Tensor, "*n"], n: int) -> Float[Tensor, "*n l"]:
    """Zeros for a missing category."""
    every = torch.arange(n, device=category.device, dtype=category.dtype)
    return (category.unsqueeze(-1) == every).to(category.dtype)


Likelihood = BernoulliLikelihood | GaussianLikelihood | MixedLikelihood

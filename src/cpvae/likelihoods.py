"""p(x | z, c): what the decoder's output says about the data (section 3.1).

A likelihood stands between the user's units and the networks'. `observe` turns data into what the
networks see and the density is of (binary pixels, standardised columns); `mean` and `sample` turn
the decoder's output back. `log_prob` is in nats per example, summed over features, and always a
density of the data in the user's own units.

Training keeps the data on the device as `store` makes it and calls `draw` with noise that was made
for many steps at once by `noise`; `observe` is the same in one go.

A value that is missing (NaN) is integrated out: features are independent given the latents, so its
factor is left out of the density, and what remains is a bound on the density of the values that are
there (Nazabal et al. 2020). The networks are given `filled` data. Only Gaussian features may miss.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn

from cpvae.functional import LOG_2PI
from cpvae.fused import bernoulli_log_prob

LEVELS = 2**16  # grey levels that binarisation tells apart


class BernoulliLikelihood(nn.Module):
    """Independent Bernoulli features for data in [0, 1]; the decoder's output is their logits.

    Grey values are read as probabilities and drawn anew whenever they are seen (dynamic
    binarisation, section 5.2), so the mean of the model is a grey image again.
    """

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """Binary draws of ``x`` (n, f); with no generator the grey values themselves."""
        if generator is None:
            return x
        return self.draw(self.store(x), self.noise(x.shape, generator))

    def filled(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
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


class GaussianLikelihood(nn.Module):
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

    def noise_var(self) -> Float[Tensor, " f"]:
        """Variance of the noise of each standardised feature."""
        return self.noise_floor**2 + torch.exp(self.log_noise)

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """Standardised data (n, f); nothing is drawn."""
        return (x - self.loc) / self.scale

    def filled(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """What the networks read of observed data: the mean of its feature for a missing value."""
        return torch.where(x.isnan(), 0.0, x)

    def store(self, x: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Standardised data as they are."""
        return x

    def restore(self, stored: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Standardised data as they are."""
        return stored

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "n 0"]:
        """No noise: nothing is drawn."""
        return torch.empty(shape[0], 0, device=generator.device)

    def draw(self, stored: Float[Tensor, "*n f"], noise: Float[Tensor, "*n 0"]) -> Tensor:
        """Standardised data as they are."""
        return stored

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


Likelihood = BernoulliLikelihood | GaussianLikelihood

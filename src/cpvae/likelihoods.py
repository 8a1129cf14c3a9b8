"""p(x | z, c): what the decoder's output says about the data (section 3.1).

A likelihood stands between the user's units and the networks'. `observe` turns data into what the
networks see and the density is of (binary pixels, standardised columns); `mean` and `sample` turn
the decoder's output back. `log_prob` is in nats per example, summed over features, and always a
density of the data in the user's own units.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.functional import LOG_2PI


class BernoulliLikelihood(nn.Module):
    """Independent Bernoulli features for data in [0, 1]; the decoder's output is their logits.

    Grey values are read as probabilities and drawn anew whenever they are seen (dynamic
    binarisation, section 5.2), so the mean of the model is a grey image again.
    """

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """Binary draws of ``x`` (n, f); with no generator the grey values themselves."""
        if generator is None:
            return x
        noise = torch.rand(x.shape, generator=generator, device=x.device)
        return (noise < x).to(x.dtype)

    def log_prob(self, x: Float[Tensor, "*#b f"], params: Float[Tensor, "*#b f"]) -> Tensor:
        """Log p(x | params) in nats, shape (*b)."""
        return (x * params - F.softplus(params)).sum(-1)

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

    def log_prob(self, x: Float[Tensor, "*#b f"], params: Float[Tensor, "*#b f"]) -> Tensor:
        """Log p in nats, shape (*b), of standardised ``x`` as a density of the data's own units."""
        var = self.noise_var()
        constant = (torch.log(var) + LOG_2PI).sum() + 2 * torch.log(self.scale).sum()
        return -0.5 * (((x - params) ** 2 / var).sum(-1) + constant)

    def mean(self, params: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """Expected data in the user's units."""
        return self.loc + self.scale * params

    def sample(self, params: Float[Tensor, "n f"], generator: torch.Generator) -> Tensor:
        """Data drawn from the model in the user's units, noise included, (n, f)."""
        noise = torch.randn(params.shape, generator=generator, device=params.device)
        return self.mean(params + noise * self.noise_var().sqrt())


Likelihood = BernoulliLikelihood | GaussianLikelihood

"""Networks: gated trunks (data -> features) and decoders (latent -> parameters of p(x | z, c)).

All non-linearities are gates, a * sigmoid(b), as in the paper (section 5; Dauphin et al. 2017),
and all weights start from Glorot's uniform distribution.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Layer = TypeVar("Layer", bound=nn.Module)


def glorot(layer: Layer, halves: int = 1) -> Layer:
    """Glorot start for a layer whose output stacks ``halves`` layers of equal size; zero bias."""
    with torch.no_grad():
        for part in layer.weight.chunk(halves, dim=0):  # type: ignore[operator]
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def replace_weights(layer: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    """Gives a linear layer another weight, which may be of another shape, and another bias."""
    layer.weight = nn.Parameter(weight)
    layer.out_features, layer.in_features = weight.shape
    if bias is not None:
        layer.bias = nn.Parameter(bias)


def merge_categories(layer: nn.Linear, share: Tensor) -> None:
    """Makes a layer that reads categories (k), last in its inputs, read groups of them (g).

    What it knows of a group is the mean of what it knows of the members, weighted by ``share``
    (g, k).
    """
    k = share.shape[1]
    of_group = layer.weight[:, -k:] @ share.T
    replace_weights(layer, torch.cat([layer.weight[:, :-k], of_group], 1))


class Linear(nn.Linear):
    """`torch.nn.Linear` that can take products of bfloat16 numbers, see `products`."""

    low_precision = False

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out), in the precision of ``x``."""
        if not self.low_precision:
            return super().forward(x)
        product = F.linear(x.to(torch.bfloat16), self.weight.to(torch.bfloat16))
        return product.to(x.dtype) + self.bias


@contextmanager
def products(module: nn.Module, precision: str) -> Iterator[None]:
    """Within it every `Linear` of a module takes products as ``float32`` or ``bfloat16``."""
    layers = [layer for layer in module.modules() if isinstance(layer, Linear)]
    for layer in layers:
        layer.low_precision = precision == "bfloat16"
    try:
        yield
    finally:
        for layer in layers:
            layer.low_precision = False


class Gated(nn.Module):
    """Wraps a layer with twice the channels: first half times the sigmoid of the second."""

    def __init__(self, layer: nn.Module, dim: int):
        super().__init__()
        self.layer, self.dim = glorot(layer, halves=2), dim

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out), the gate along ``dim``."""
        return F.glu(self.layer(x), dim=self.dim)


def gated_mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Gated linear layers from sizes[0] to sizes[-1]."""
    layers = (Linear(n_in, 2 * n_out) for n_in, n_out in itertools.pairwise(sizes))
    return nn.Sequential(*(Gated(layer, dim=-1) for layer in layers))


class MLPTrunk(nn.Module):
    """Features of x from gated linear layers: (b, f) -> (b, hidden[-1])."""

    def __init__(self, shape: Sequence[int], hidden: Sequence[int]):
        super().__init__()
        self.layers = gated_mlp([math.prod(shape), *hidden])

    def forward(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b h"]:
        """Features of flat data."""
        return self.layers(x)


class MLPDecoder(nn.Module):
    """Parameters of p(x | latent) from gated linear layers: (b, n_in) -> (b, f)."""

    def __init__(self, n_in: int, shape: Sequence[int], hidden: Sequence[int]):
        super().__init__()
        self.layers = gated_mlp([n_in, *hidden])
        self.output = glorot(Linear(hidden[-1], math.prod(shape)))

    def first_layer(self) -> nn.Linear:
        """The layer that reads the latent values."""
        return cast(nn.Linear, self.layers.get_submodule("0.layer"))

    def forward(self, latent: Float[Tensor, "*b n"]) -> Float[Tensor, "*b f"]:
        """Logits or means of flat data."""
        return self.output(self.layers(latent))


class ConvTrunk(nn.Module):
    """Features of an image from gated convolutions that halve it twice, then a gated layer.

    Takes flat data (b, f) and folds it to ``shape`` = (channels, height, width) itself.
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int], width: int = 32):
        super().__init__()
        self.shape = tuple(shape)
        channels, *size = shape
        halved = math.prod(_halved(_halved(n)) for n in size)
        self.layers = nn.Sequential(
            Gated(nn.Conv2d(channels, 2 * width, 5, stride=2, padding=2), dim=1),
            Gated(nn.Conv2d(width, 4 * width, 5, stride=2, padding=2), dim=1),
            nn.Flatten(),
            gated_mlp([2 * width * halved, hidden[-1]]),
        )

    def forward(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b h"]:
        """Features of flat images."""
        return self.layers(x.unflatten(-1, self.shape))


class ConvDecoder(nn.Module):
    """The mirror of `ConvTrunk`: (b, n_in) -> (b, f), doubling the image twice."""

    def __init__(self, n_in: int, shape: Sequence[int], hidden: Sequence[int], width: int = 32):
        super().__init__()
        channels, *size = shape
        half = tuple(_halved(n) for n in size)
        quarter = [_halved(n) for n in half]
        self.layers = nn.Sequential(
            gated_mlp([n_in, hidden[0], 2 * width * math.prod(quarter)]),
            nn.Unflatten(-1, (2 * width, *quarter)),
            nn.Upsample(size=half),
            Gated(nn.Conv2d(2 * width, 2 * width, 5, padding=2), dim=1),
            nn.Upsample(size=tuple(size)),
            Gated(nn.Conv2d(width, 2 * width, 5, padding=2), dim=1),
            glorot(nn.Conv2d(width, channels, 1)),
            nn.Flatten(),
        )

    def first_layer(self) -> nn.Linear:
        """The layer that reads the latent values."""
        return cast(nn.Linear, self.layers.get_submodule("0.0.layer"))

    def forward(self, latent: Float[Tensor, "*b n"]) -> Float[Tensor, "*b f"]:
        """Logits or means of flat images."""
        return self.layers(latent.flatten(0, -2)).unflatten(0, latent.shape[:-1])


def _halved(n: int) -> int:
    return (n + 1) // 2


NETWORKS = {"mlp": (MLPTrunk, MLPDecoder), "conv": (ConvTrunk, ConvDecoder)}

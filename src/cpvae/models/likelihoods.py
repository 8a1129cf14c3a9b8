"""p(x | z, c): what the decoder's output says about the data (section 3.1).

A likelihood is a list of heads, one for each kind of column, independent given the latents. It
stands between the data's units and the networks'. `observe` turns data into what the density is of
(binary pixels, standardised columns), `inputs` into what the networks read; `mean` and `sample`
turn the decoder's output back. `log_prob` is in nats per example, summed over features.

Training keeps the data on the device as `store` makes it and calls `draw` with noise that was made
for many steps at once by `noise`; `observe` is the same in one go.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn

from cpvae.choices import KINDS, choose
from cpvae.models.heads import HEADS, BinaryHead, CategoricalHead, GaussianHead, Head, filled
from cpvae.models.numbers import Column, NumberHead

GREY_LEVELS = 2**16  # that binarisation tells apart


class Likelihood(nn.Module):
    """Independent features, a head for each kind of them.

    Arguments:
        heads: what the features are
        columns: the features (c) of each head; by default one head has them all, in order
        binarised: whether features are grey values in [0, 1] that are read as probabilities and
            drawn as zeros and ones anew whenever they are seen (dynamic binarisation, section 5.2),
            so that the mean of the model is a grey image again. They cannot be missing
    """

    _back: Tensor

    def __init__(
        self,
        heads: Sequence[Head],
        columns: Sequence[Sequence[int]] | None = None,
        binarised: bool = False,
    ):
        super().__init__()
        self.heads, self.binarised = nn.ModuleList(heads), binarised
        self.takes_missing = not binarised
        # of each feature, or of all where one head has them
        of_each = columns or [[0] for _ in heads]
        self.kinds = [h.kind for h, mine in zip(heads, of_each, strict=True) for _ in mine]
        self.n_levels = [n for head in heads for n in head.n_levels]
        self.one_hot = [bool(head.n_levels) for head in heads for _ in range(head.n_inputs)]
        self.apart = columns is not None and len(heads) > 1
        if self.apart:
            assert columns is not None
            for place, mine in enumerate(columns):
                self.register_buffer(f"_columns{place}", torch.tensor(mine), persistent=False)
            back = torch.tensor([i for mine in columns for i in mine]).argsort()
            self.register_buffer("_back", back, persistent=False)

    def inputs_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what the networks read of examples of a ``shape``: images stay images."""
        return tuple(shape) if len(shape) > 1 else (sum(head.n_inputs for head in self._heads()),)

    def params_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what the decoder gives for examples of a ``shape``: images stay images."""
        return tuple(shape) if len(shape) > 1 else (sum(head.n_params for head in self._heads()),)

    # --- data, as it is observed and read --------------------------------------------------------

    def observe(self, x: Float[Tensor, "n f"], generator: torch.Generator | None = None) -> Tensor:
        """Observed data (n, f): standardised, or binary draws; grey values with no generator."""
        if self.binarised and generator is not None:
            return self.draw(self.store(x), self.noise(x.shape, generator))
        pairs = zip(self._heads(), self._split(x), strict=True)
        return self._joined([head.encode(part) for head, part in pairs])

    def standardised(self, observed: Float[Tensor, "*n f"]) -> Float[Tensor, "*n i"]:
        """Observed data as numbers, NaN where missing, and one-hot categories (`one_hot`)."""
        pairs = zip(self._heads(), self._split(observed), strict=True)
        parts = [head.standardised(part) for head, part in pairs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def inputs(self, observed: Float[Tensor, "*n f"]) -> Float[Tensor, "*n i"]:
        """What the networks read of observed data; zeros for a missing value."""
        read = self.standardised(observed)
        return filled(read) if self.takes_missing else read

    def store(self, observed: Float[Tensor, "*n f"]) -> Tensor:
        """Data to keep on the device; grey values as one of 65,536 levels, in two bytes each."""
        if not self.binarised:
            return observed
        level = torch.round(observed * GREY_LEVELS - GREY_LEVELS // 2)
        return level.clamp_(max=GREY_LEVELS // 2 - 1).to(torch.int16)

    def restore(self, stored: Tensor) -> Float[Tensor, "*n f"]:
        """Observed data of what `store` gave; grey values to the nearest level."""
        return (stored.float() + GREY_LEVELS // 2) / GREY_LEVELS if self.binarised else stored

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What `draw` needs for stored data of a shape (n, f): nothing, or `grey_noise`."""
        if self.binarised:
            return grey_noise(shape, generator)
        return torch.empty(shape[0], 0, device=generator.device)

    def draw(self, stored: Tensor, noise: Tensor) -> Float[Tensor, "*n f"]:
        """Observed data of stored data: itself, or binary draws."""
        return (noise < stored).float() if self.binarised else stored

    def of_first_head(self, observed: Float[Tensor, "*n f"]) -> Tensor:
        """The observed values of the columns of the first head."""
        return self._split(observed)[0]

    def by_head(self, features: Float[Tensor, "*n f"]) -> list[Tensor]:
        """Anything that features have, by head."""
        return self._split(features)

    # --- the decoder's output --------------------------------------------------------------------

    def log_prob(self, observed: Float[Tensor, "*#b f"], params: Float[Tensor, "*#b p"]) -> Tensor:
        """Log p(x | params) in nats, shape (*b), of the values that are not missing.

        It is a density of the data in its own units for measurements, a probability for the rest.
        """
        parts = zip(self._heads(), self._split(observed), self._params(params), strict=True)
        first, *others = [head.log_prob(x, mine) for head, x, mine in parts]
        for other in others:
            first = first + other
        return first

    def log_prob_after_first(
        self, observed: Float[Tensor, "b f"], params: Float[Tensor, "b p"]
    ) -> Float[Tensor, " b"]:
        """As `log_prob`, of all heads but the first, whose parameters are left out."""
        heads, total = self._heads()[1:], torch.zeros_like(observed[:, 0])
        each = params.split([head.n_params for head in heads], -1) if heads else ()
        for head, x, mine in zip(heads, self._split(observed)[1:], each, strict=True):
            total = total + head.log_prob(x, mine)
        return total

    def mean(self, params: Float[Tensor, "n p"]) -> Float[Tensor, "n f"]:
        """Expected data in its own units; of a categorical column the most probable category."""
        pairs = zip(self._heads(), self._params(params), strict=True)
        return self._joined([head.mean(mine) for head, mine in pairs])

    def sample(self, params: Float[Tensor, "n p"], generator: torch.Generator) -> Tensor:
        """Data drawn from the model in its own units, (n, f)."""
        if self.binarised:
            return self.observe(self.mean(params), generator)
        pairs = zip(self._heads(), self._params(params), strict=True)
        return self._joined([head.sample(mine, generator) for head, mine in pairs])

    # --- features of each head -------------------------------------------------------------------

    def _heads(self) -> list[Head]:
        return list(self.heads)  # type: ignore[arg-type]  # a ModuleList forgets the type

    def _split(self, x: Float[Tensor, "*n f"]) -> list[Tensor]:
        """Features by head."""
        if not self.apart:
            return [x]
        every = range(len(self.heads))
        return [x.index_select(-1, self.get_buffer(f"_columns{place}")) for place in every]

    def _joined(self, parts: Sequence[Tensor]) -> Float[Tensor, "*n f"]:
        """Features in their own order again."""
        return torch.cat(list(parts), -1).index_select(-1, self._back) if self.apart else parts[0]

    def _params(self, params: Float[Tensor, "*n p"]) -> Sequence[Tensor]:
        """The decoder's output by head."""
        return params.split([head.n_params for head in self._heads()], -1)


def bernoulli(n_features: int) -> Likelihood:
    """Grey values in [0, 1], drawn as zeros and ones; the decoder's output is their logits."""
    return Likelihood([BinaryHead(n_features, takes_missing=False)], binarised=True)


def gaussian(
    loc: Float[Tensor, " f"], scale: Float[Tensor, " f"], noise_scale: float | None = None
) -> Likelihood:
    """Measurements; the decoder's output is their standardised mean, see `heads.GaussianHead`."""
    return Likelihood([GaussianHead(loc, scale, noise_scale)])


def around_numbers(
    kinds: Sequence[str],
    n_levels: Sequence[int],
    loc: Float[Tensor, " f"],
    scale: Float[Tensor, " f"],
    limits: Sequence[Sequence[Any] | None],
) -> Likelihood:
    """Columns of a model whose z are the numbers of the data: these come first.

    Arguments:
        kinds: ``number``, ``binary`` or ``categorical``; ``gaussian`` is a number that is neither
            rounded nor limited, and ``count`` a whole one from 0 up
        n_levels: categories of each column, 0 where it is of another kind, (f)
        loc: origin of each column, (f)
        scale: unit of each column, positive, (f)
        limits: of the columns that are a ``number``, see `numbers.Column`

    Raises:
        ValueError: no column of numbers.
    """
    known = {"gaussian": Column(), "count": Column(1.0, -0.5)}
    numbers = [i for i, kind in enumerate(kinds) if kind not in ("binary", "categorical")]
    if not numbers:
        raise ValueError(
            "The model 'residual' needs a column of numbers, and there is none: take 'cpvae'."
        )
    columns = [known.get(kinds[i]) or Column(*(limits[i] or ())) for i in numbers]
    heads: list[Head] = [NumberHead(loc[numbers], scale[numbers], columns)]
    binary, categorical = (
        [i for i, of in enumerate(kinds) if of == kind] for kind in ("binary", "categorical")
    )
    if binary:
        heads.append(BinaryHead(len(binary)))
    if categorical:
        heads.append(CategoricalHead([n_levels[i] for i in categorical]))
    return Likelihood(heads, [mine for mine in (numbers, binary, categorical) if mine])


def mixed(
    kinds: Sequence[str],
    n_levels: Sequence[int],
    loc: Float[Tensor, " f"],
    scale: Float[Tensor, " f"],
) -> Likelihood:
    """Columns of several kinds, independent given the latents (Nazabal et al. 2020).

    Arguments:
        kinds: one of `KINDS` a column, (f)
        n_levels: categories of each column, 0 where it is of another kind, (f)
        loc: origin of each column, of the logarithm of a count, (f)
        scale: unit of each column, positive, (f)

    Raises:
        ValueError: an unknown kind, or a categorical column without its number of categories.
    """
    for kind, levels in zip(kinds, n_levels, strict=True):
        choose("kind", kind, tuple(HEADS))
        if (kind == "categorical") != (levels > 0):
            raise ValueError(f"A column of the kind {kind!r} cannot have {levels} categories.")
    columns = {kind: [i for i, of in enumerate(kinds) if of == kind] for kind in KINDS}
    columns = {kind: mine for kind, mine in columns.items() if mine}
    heads = [
        HEADS[kind](loc[mine], scale[mine], [n_levels[i] for i in mine])
        for kind, mine in columns.items()
    ]
    return Likelihood(heads, list(columns.values()))


def grey_noise(shape: Sequence[int], generator: torch.Generator) -> Int16[Tensor, "n f"]:
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
    return words.view(torch.int16)[:n].view(shape).clamp_(max=GREY_LEVELS // 2 - 2)

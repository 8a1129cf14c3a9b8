"""Inference in chunks: codes, responsibilities and bounds of any number of examples."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.models.base import Model, Terms, draw_noise
from cpvae.models.precision import single_precision

Representation = Callable[[Model, Tensor], Tensor]  # examples as points: `codes` or `standardised`


def cluster_probs(model: Model, x: Tensor) -> Float[Tensor, "n k"]:
    """q(c|x) of any number of examples (n, ...), in chunks."""
    return torch.cat([model.cluster_probs(part) for part in x.split(model.rows_at_once())])


def reconstructed(model: Model, x: Tensor) -> Tensor:
    """What `Model.reconstruct` gives of any number of examples (n, ...), in chunks."""
    return torch.cat([model.reconstruct(part) for part in x.split(model.rows_at_once())])


def components_used(aggregated: Float[Tensor, " k"]) -> int:
    """Categories whose share of the aggregated posterior (eq. 14) is at least 0.1 / K."""
    return int((aggregated >= 0.1 / len(aggregated)).sum())


def exact_terms(
    model: Model,
    observed: Float[Tensor, "n f"],
    generator: torch.Generator,
    mine: tuple[int, int] = (0, 1),
) -> Terms:
    """The terms of the one-hot bound, every category enumerated, one z each; each (n), nats.

    With ``mine`` = (i, n) only those of each n-th chunk from the i-th on, under the same noise;
    None where there is none.
    """
    parts = []
    for number, x in enumerate(observed.split(model.rows_at_once())):
        normal = torch.randn(len(x), model.normal_dim, generator=generator, device=x.device)
        if number % mine[1] == mine[0]:
            parts.append(model.exact_terms(x, normal))
    return _joined(parts)


@single_precision()
def elbo_of_each(model: Model, x: Tensor, seed: int = 0) -> Float[Tensor, " n"]:
    """The one-hot bound (eq. 7) on data (n, ...) in the user's units, nats for each example.

    Noise is seeded by the example itself and the seed, so that its bound does not depend on those
    beside it.
    """
    likelihood, generator = model.likelihood, torch.Generator()
    if not len(x):
        return torch.zeros(0, device=x.device)
    each = []
    for row in x.flatten(1).float().cpu().numpy() + 0.0:  # -0.0 and 0.0 are one number
        digest = hashlib.blake2b(row.tobytes(), digest_size=7, salt=str(seed).encode()[-16:])
        generator.manual_seed(int.from_bytes(digest.digest()))
        binary = likelihood.noise((1, len(row)), generator)
        each.append((binary, torch.randn(1, model.normal_dim, generator=generator)))
    binary, normal = (torch.cat(part).to(x.device) for part in zip(*each, strict=True))
    observed = likelihood.draw(likelihood.store(likelihood.observe(x.flatten(1))), binary)
    observed, normal = observed.to(x.dtype), normal.to(x.dtype)
    rows = model.rows_at_once()
    parts = zip(observed.split(rows), normal.split(rows), strict=True)
    return torch.cat([model.exact_terms(*part).elbo() for part in parts])


def sampled_terms(
    model: Model,
    observed: Float[Tensor, "n f"],
    generator: torch.Generator,
    mine: tuple[int, int] = (0, 1),
) -> Terms:
    """The terms of the one-hot bound with one category and one z of each example; (n), nats.

    Its mean estimates that of `exact_terms`, and its cost does not grow with the categories;
    ``mine`` as there.
    """
    return one_draw(model, observed, generator, 1.0, "straight_through", mine)


@torch.no_grad()
def one_draw(
    model: Model,
    observed: Float[Tensor, "n f"],
    generator: torch.Generator,
    temperature: float,
    expectation: str,
    mine: tuple[int, int] = (0, 1),
) -> Terms:
    """The terms with one draw of each example's noise, see `Model.terms`; (n), nats.

    ``mine`` as for `exact_terms`.
    """
    parts = []
    for number, x in enumerate(observed.split(model.rows_at_once())):
        noise = draw_noise(model, len(x), generator)
        if number % mine[1] == mine[0]:
            parts.append(model.terms(x, noise, temperature, expectation))
    return _joined(parts)


def _joined(parts: Sequence[Terms]) -> Any:
    if not parts:
        return None
    return Terms(*(torch.cat(term) for term in zip(*parts, strict=True)))


def represent(
    model: Model, x: Float[Tensor, "n ..."], representation: Representation
) -> Float[np.ndarray, "n d"]:
    """Any number of examples as points: their `codes`, or the data `standardised`."""
    device = model.aggregated.device
    parts = [representation(model, part.to(device)).cpu() for part in x.split(model.rows_at_once())]
    return torch.cat(parts).numpy()


def codes(model: Model, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
    """Posterior means of z."""
    return model.embed(x)


def standardised(model: Model, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n i"]:
    """Examples as the networks read them."""
    return model.read(model.likelihood.observe(x.flatten(1)))

"""The mixture that a model of tables (`models.residual`) starts from, found in its data."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax
from torch import Tensor

from cpvae.clustering.communities import communities
from cpvae.clustering.gaussians import (
    EM_STEPS,
    Gaussians,
    Points,
    fit_gaussians,
    numbers_alone,
    stability_under_em,
    stable_gaussians,
)
from cpvae.clustering.overlap import overlap_mixture
from cpvae.models.inference import exact_terms
from cpvae.models.residual import ResidualCPVAE
from cpvae.streams import stream, torch_stream
from cpvae.training.initialise import as_table, needs_mixture, rows_of_graph

COMPARED_BY_EM = 4_000  # examples on which communities and mixtures are compared
MOST_WITH_GAPS = 10_000  # rows that a mixture is fitted to where numbers are missing


class Start(NamedTuple):
    """A mixture of the numbers as they are read, and of the other columns.

    ``of_categories`` is one of plain numbers, whose responsibilities are q(c|x); None where they
    are those of ``mixture``.
    """

    mixture: Gaussians
    of_categories: Gaussians | None = None


def start_as_mixture(
    model: ResidualCPVAE,
    x: Float[Tensor, "n f"],
    seed: int,
    weight: Float[Tensor, " n"] | None = None,
    given: Float[Tensor, "n k"] | None = None,
) -> Start:
    """Makes the model the mixture of the data; where rows have weights, that of weighted rows.

    Arguments:
        model: from `build`
        x: rows in the data's units
        seed: of the search
        weight: of the rows
        given: responsibilities of the components, where they are not to be searched for
    """
    if given is not None:
        model.number_head.fit_bends(_observed(model, x), given)
        of = None if weight is None else weight.double().numpy()
        start = Start(fit_gaussians(points(model, x), given.double().numpy(), weight=of))
        model.start_from(*start)
        return start
    if weight is None:
        return _found(model, x, seed)
    generator = torch_stream(seed, "initialisation", 1)
    order = torch.multinomial(weight, len(x), replacement=True, generator=generator)
    return start_on_all(model, x, _found(model, x[order], seed), weight)


def _found(model: ResidualCPVAE, x: Float[Tensor, "n f"], seed: int) -> Start:
    """Finds the mixture of the data, bends the model's columns for it, and makes the model it.

    A table that `needs_mixture` starts from the components of one, moved on by EM with full
    covariances. For others two proposals are made, a mixture and communities, and neither a label
    nor the likelihood chooses, which likes to cut clusters of other shapes than ellipses. The more
    stable one is taken: a mixture that EM finds from any start, or communities that EM leaves as
    they are. EM is then kept off them, and bends too: both may move categories.
    """
    likelihood = model.likelihood
    if not needs_mixture(len(x), model.shape, likelihood.kinds):
        found = _stable(model, x, seed)
        if found is not None:
            of_each = _responsibilities(found, numbers_alone(_plain(model, x)))
            model.number_head.fit_bends(_observed(model, x), torch.from_numpy(of_each))
            start = Start(fit_gaussians(points(model, x), of_each), found)
            model.start_from(*start)
            return start
    return _by_em(model, x, seed)


def start_on_all(
    model: ResidualCPVAE,
    x: Float[Tensor, "n f"],
    start: Start,
    weight: Float[Tensor, " n"] | None = None,
) -> Start:
    """Makes the model the same mixture, fitted once more to these rows."""
    of = None if weight is None else weight.double().cpu().numpy()
    rows = points(model, x)
    if start.of_categories is None:
        responsibilities = _responsibilities(start.mixture, rows)
        start = Start(fit_gaussians(rows, responsibilities, weight=of))
    else:
        raw = numbers_alone(_plain(model, x))
        found = fit_gaussians(raw, _responsibilities(start.of_categories, raw), weight=of)
        mixture = fit_gaussians(rows, _responsibilities(found, raw), weight=of)
        start = Start(mixture, found)
    model.start_from(*start)
    return start


def points(model: ResidualCPVAE, x: Float[Tensor, "n f"]) -> Points:
    """Rows as the model reads them."""
    likelihood, n_binary = model.likelihood, model.n_binary
    observed = likelihood.observe(x.to(model.aggregated.device))
    read = likelihood.standardised(observed).double().cpu()
    after = n_binary + np.repeat(np.arange(len(likelihood.n_levels)), likelihood.n_levels)
    column = np.concatenate([np.arange(n_binary), np.arange(n_binary), after])
    chances = model.chances_of(read).numpy()
    return Points(read[:, : model.n_numbers].numpy(), chances, column.astype(int))


def _by_em(model: ResidualCPVAE, x: Float[Tensor, "n f"], seed: int) -> Start:
    """From the components of a mixture.

    Where columns have limits it is found twice, in plain numbers and in those that were bent for
    the first one, and the one with the better bound is taken.
    """
    head, some = model.number_head, x
    if x.isnan().any():
        order = torch.randperm(len(x), generator=torch_stream(seed, "initialisation"))
        some = x[order[:MOST_WITH_GAPS]]
    tries = []
    for _ in range(2 if head.has_limits() else 1):
        table = as_table(model, some)
        found = overlap_mixture(table, model.n_components, stream(seed, "mixture"))
        chances = found.log_prob(table)
        member = np.zeros((len(some), model.n_components))
        member[:, : chances.shape[1]] = softmax(chances, axis=1)
        head.fit_bends(_observed(model, some), torch.from_numpy(member))
        start = Start(fit_gaussians(points(model, some), member, steps=EM_STEPS))
        model.start_from(*start)
        noise = torch_stream(seed, "mixture", 2)
        observed = model.likelihood.observe(some[:COMPARED_BY_EM])
        bound = exact_terms(model, observed, noise).elbo().mean().item()
        tries.append((bound, start, copy.deepcopy(head)))
    _, start, best = max(tries, key=lambda each: each[0])
    head.load_state_dict(best.state_dict())
    model.start_from(*start)
    return start


def _stable(model: ResidualCPVAE, x: Float[Tensor, "n f"], seed: int) -> Gaussians | None:
    """The Gaussians of a mixture or of communities, None where communities are more than K."""
    rows, k = np.nan_to_num(_plain(model, x)), model.n_components
    some = rows_of_graph(len(x), seed).numpy()
    found = communities(rows[some], k, stream(seed, "initialisation", 1), uneven=True)
    if found.parts > k:
        return None
    inside = found.category >= 0
    near, member = rows[some][inside], np.eye(k)[found.category[inside]]
    few = slice(COMPARED_BY_EM)
    stability, mixture = stable_gaussians(rows[some][few], k, stream(seed, "mixture", 1))
    if stability > stability_under_em(numbers_alone(near[few]), member[few]):
        return mixture
    return fit_gaussians(numbers_alone(near), member)


def _plain(model: ResidualCPVAE, x: Float[Tensor, "n f"]) -> Float[np.ndarray, "n w"]:
    """Standardised numbers, neither bent nor limited."""
    return _observed(model, x).double().cpu().numpy()


def _observed(model: ResidualCPVAE, x: Float[Tensor, "n f"]) -> Float[Tensor, "n w"]:
    observed = model.likelihood.observe(x.to(model.aggregated.device))
    return model.likelihood.of_first_head(observed)


def _responsibilities(found: Gaussians, rows: Points) -> Float[np.ndarray, "n k"]:
    return softmax(found.log_prob(rows), axis=1)

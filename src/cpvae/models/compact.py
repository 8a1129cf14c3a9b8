"""As many categories as the data needs: unused ones are dropped, redundant ones are merged.

What it costs to call the examples of category i by the name of j is E log p(x|z, c) - KL(z) given
i, less the same given j, over the examples of i (nats per example, eq. 7). Categories are joined
from the cheapest pair up, and for every number of categories on the way the merged model is built
(`ConditionalPriorVAE.merged`; nothing is trained) and its one-hot bound is taken on data. The bound
then says how many there should be: KL(q(c|x) || p(c)) charges for every category, so one that
carries no information about x gains nothing.

A merged category has as its p(c) the share of the training data that it holds, the best there is
for the bound. With 1/K a large cluster could be shared by many categories at no cost, and merging
them would gain nothing.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.clustering.communities import merge_connected
from cpvae.models.base import Model
from cpvae.models.build import MODELS, WithCategories, has_categories
from cpvae.models.inference import cluster_probs, codes, exact_terms, represent, standardised
from cpvae.models.precision import single_precision
from cpvae.streams import torch_stream

MOST_EXAMPLES = 10_000  # whose neighbours are looked at
TOLERANCE = 0.1  # nats below the best bound

Groups = list[list[int]]


class Compacted(NamedTuple):
    """A model with fewer categories: category i is what ``groups[i]`` were.

    ``config`` has the keywords of `models.build` for it. Categories in no group were dropped.
    ``curve`` has (number of categories, bound) for every number that was tried; bounds are one-hot,
    in nats per example of the data given.
    """

    model: WithCategories
    config: dict[str, Any]
    groups: Groups
    elbo_before_nats: float
    elbo_after_nats: float
    curve: list[tuple[int, float]]


@single_precision()
def compact(
    model: Model,
    config: dict[str, Any],
    x: Tensor,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    connected_in: Tensor | None = None,
) -> Compacted:
    """Drops and merges categories while the bound allows it, and then connected ones, if asked to.

    A large or long cluster is worth several categories to the bound. Categories that are connected
    in ``connected_in`` as halves of one cluster are, in the graphs of nearest neighbours among
    codes and among data, are then merged too, whatever the bound loses; see
    `communities.merge_connected`.

    Arguments:
        model: a fitted CP-VAE
        config: the keywords of `models.build` that it was built from
        x: data (n, ...) in the data's units that decides, best held out
        tolerance: take the fewest categories whose bound is no further below the best, in nats
        seed: of binarisation and noise, the same for every number of categories
        connected_in: data (m, ...) in which connected categories are merged, best all the training
            data

    Raises:
        ValueError: another model than CP-VAE.
    """
    if not has_categories(model):
        raise ValueError("Only the model 'cpvae' has categories that can be merged.")
    view = look(model, x, seed)
    before = _elbo(model, view.observed, seed)
    tried = [(before, [[k] for k in range(model.n_components)]), *_tries(model, view, seed)]
    best = max(elbo for elbo, _ in tried)
    after, groups = min(
        (t for t in tried if t[0] >= best - tolerance), key=lambda t: (len(t[1]), -t[0])
    )
    if connected_in is not None:
        groups = _connected(model, groups, connected_in, seed)
    groups = sorted(groups, key=lambda group: -float(model.aggregated[group].sum()))
    bounds: dict[int, float] = {}
    for elbo, some in tried:
        bounds[len(some)] = max(elbo, bounds.get(len(some), -math.inf))
    small = model
    if len(groups) < model.n_components:
        small = model.merged(groups, view.features, view.log_qc)
        config = {**config, "n_components": len(groups)}
        if "mixing_weights" in MODELS[config.get("model", "cpvae")].settings:
            config["mixing_weights"] = "learned"
        after = _elbo(small, view.observed, seed)
    return Compacted(small.eval(), config, groups, before, after, sorted(bounds.items()))


def _tries(model: WithCategories, view: "View", seed: int) -> list[tuple[float, Groups]]:
    """The bound of every number of categories that is tried, with and without unused ones."""
    shares, tries = view.log_qc.exp().mean(0), []
    by_number = {len(groups): groups for groups in _joined(view.costs)}
    for joined in (by_number[number] for number in _numbers(model.n_components)):
        used = [g for g in joined if shares[g].sum() >= 0.1 / model.n_components]
        for groups in [joined] if len(used) == len(joined) else [joined, used]:
            if len(groups) < model.n_components:
                merged = model.merged(groups, view.features, view.log_qc)
                tries.append((_elbo(merged, view.observed, seed), groups))
    return tries


class View(NamedTuple):
    """What merging needs to know of the data: observed (n, f), features (n, h), log q(c|x) (n, k),
    and the costs (k, k) of calling i's examples j.
    """

    observed: Tensor
    features: Tensor
    log_qc: Tensor
    costs: Tensor


@torch.no_grad()
def look(model: WithCategories, x: Tensor, seed: int) -> View:
    """What a model makes of data (n, ...), with binarisation and noise of a seed."""
    generator = torch_stream(seed, "compact", 0, x.device)
    observed = model.likelihood.observe(x.flatten(1), generator)
    parts = []
    for part in observed.split(max(1, model.rows_at_once() // model.n_components)):
        normal = torch.randn(len(part), model.normal_dim, generator=generator, device=x.device)
        parts.append((*model.infer(part), model.given_each(part, normal)))
    features, log_qc, given = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    weight = log_qc.softmax(0)  # of an example among those of a category
    costs = (weight * given).sum(0).unsqueeze(1) - weight.T @ given
    return View(observed, features, log_qc, costs)


def _elbo(model: WithCategories, observed: Tensor, seed: int) -> float:
    generator = torch_stream(seed, "compact", 1, observed.device)
    return exact_terms(model, observed, generator).elbo().mean().item()


def _numbers(k: int) -> list[int]:
    """Numbers of categories to try: all up to 20, and beyond that about every twentieth more."""
    numbers = [k]
    while numbers[-1] > 1:
        numbers.append(min(numbers[-1] - 1, int(numbers[-1] / 1.05)))
    return numbers


def _joined(costs: Float[Tensor, "k k"]) -> list[Groups]:
    """Groups of categories for every number of them, joined by the mean cost of both ways."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    k = len(costs)
    if k == 1:
        return [[[0]]]
    both = ((costs + costs.T) / 2).clamp_min(0).fill_diagonal_(0).double().cpu().numpy()
    tree = cut_tree(linkage(squareform(both, checks=False), "average"))
    return [
        [np.flatnonzero(column == group).tolist() for group in range(column.max() + 1)]
        for column in tree.T
    ]


@torch.no_grad()
def _connected(model: WithCategories, groups: Groups, x: Tensor, seed: int) -> Groups:
    """Groups merged where they are connected in data, or in `MOST_EXAMPLES` examples of it."""
    generator = torch_stream(seed, "compact", 2)
    rows = torch.randperm(len(x), generator=generator)[:MOST_EXAMPLES]
    x = x[rows.to(x.device)]
    probs = cluster_probs(model, x)
    found = torch.stack([probs[:, group].sum(1) for group in groups], 1).argmax(1).cpu().numpy()
    joined = merge_connected([represent(model, x, as_) for as_ in (codes, standardised)], found)
    places = dict(zip(found.tolist(), joined.tolist(), strict=True))
    merged = [
        sorted(k for i, group in enumerate(groups) if places.get(i) == place for k in group)
        for place in range(joined.max() + 1)
    ]
    return merged + [group for i, group in enumerate(groups) if i not in places]

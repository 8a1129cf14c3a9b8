"""As many categories as the data needs: those that nobody is in go, those that say the same merge.

What it costs to call the examples of category i by the name of j is E log p(x|z, c) - KL(z) given
i, less the same given j, over the examples of i (nats per example, eq. 7). Categories are joined
from the cheapest pair up, and for every number of categories on the way the merged model is built
and its one-hot bound is taken on data. The bound then says how many there should be: p(c) charges
for a name, so a name that tells nothing brings nothing.

No step is trained: a merged category has the mean of its members' weights, the mean and covariance
of their mixture, and a logit that gives it their joint probability. Its p(c) is the share of the
training data that it holds (eq. 14), the best there is for the bound: where kinds differ in number
1/K would be in the way of every merging, as many names share a large kind at no cost.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.clustering import communities
from cpvae.evaluation.metrics import cluster_probs, exact_terms
from cpvae.models.base import ConditionalPriorVAE, Model, build
from cpvae.training.initialise import COMPARED, codes_of, data_of, points_of

TOLERANCE = 0.1  # nats below the best bound

Groups = list[list[int]]


class Compacted(NamedTuple):
    """A model with fewer categories: category i is what ``groups[i]`` were.

    ``config`` has the keywords of `models.build` for it. Categories in no group were dropped.
    ``curve`` has (number of categories, bound) for every number that was tried; bounds are one-hot,
    in nats per example of the data given.
    """

    model: ConditionalPriorVAE
    config: dict[str, Any]
    groups: Groups
    elbo_before_nats: float
    elbo_after_nats: float
    curve: list[tuple[int, float]]


def compact(
    model: Model,
    config: dict[str, Any],
    x: Tensor,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    whole: Tensor | None = None,
) -> Compacted:
    """Drops and merges categories while the bound allows it, and then, if asked to, kinds.

    A large or long kind is worth several categories to the bound. Where data are given as
    ``whole``, categories that hang together among neighbours in it, as halves of one kind do, are
    merged as well, whatever that costs: see `communities.whole`.

    Arguments:
        model: a fitted CP-VAE
        config: the keywords of `models.build` that it was built from
        x: data (n, ...) in the user's units that decides, best what was not trained on
        tolerance: take the fewest categories whose bound is no further below the best, in nats
        seed: of binarisation and noise, the same for every number of categories
        whole: data (m, ...) in which kinds are to be whole, best all that was trained on

    Raises:
        ValueError: another model than CP-VAE.
    """
    if not isinstance(model, ConditionalPriorVAE):
        raise ValueError("Only the model 'cpvae' has categories that can be merged.")
    view = _look(model, x, seed)
    before = _elbo(model, view.observed, seed)
    shares = view.log_qc.exp().mean(0)
    tried: list[tuple[float, Groups]] = [(before, [[k] for k in range(model.n_components)])]
    ways = {len(groups): groups for groups in _joined(view.costs)}
    for joined in (ways[number] for number in _numbers(model.n_components)):
        alive = [g for g in joined if shares[g].sum() >= 0.1 / model.n_components]
        for groups in [joined] if len(alive) == len(joined) else [joined, alive]:
            if len(groups) < model.n_components:
                elbo = _elbo(_merged(model, config, groups, view)[0], view.observed, seed)
                tried.append((elbo, groups))
    best = max(elbo for elbo, _ in tried)
    after, groups = min(
        (t for t in tried if t[0] >= best - tolerance), key=lambda t: (len(t[1]), -t[0])
    )
    if whole is not None:
        groups = _whole(model, groups, whole, seed)
    bounds: dict[int, float] = {}
    for elbo, some in tried:
        bounds[len(some)] = max(elbo, bounds.get(len(some), -math.inf))
    small = model
    if len(groups) < model.n_components:
        small, config = _merged(model, config, groups, view)
        if whole is not None:
            after = _elbo(small, view.observed, seed)
    return Compacted(small.eval(), config, groups, before, after, sorted(bounds.items()))


class _View(NamedTuple):
    """What merging needs to know of the data: observed (n, f), features (n, h), log q(c|x) (n, k),
    and the costs (k, k) of calling i's examples j.
    """

    observed: Tensor
    features: Tensor
    log_qc: Tensor
    costs: Tensor


@torch.no_grad()
def _look(model: ConditionalPriorVAE, x: Tensor, seed: int) -> _View:
    generator = torch.Generator(x.device).manual_seed(seed)
    observed = model.likelihood.observe(x.flatten(1), generator)
    parts = []
    for part in observed.split(max(1, model.rows_at_once() // model.n_components)):
        normal = torch.randn(len(part), model.normal_dim, generator=generator, device=x.device)
        parts.append((*model.infer(part), model.given_each(part, normal)))
    features, log_qc, given = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    weight = log_qc.softmax(0)  # of an example among those of a category
    costs = (weight * given).sum(0).unsqueeze(1) - weight.T @ given
    return _View(observed, features, log_qc, costs)


def _elbo(model: ConditionalPriorVAE, observed: Tensor, seed: int) -> float:
    generator = torch.Generator(observed.device).manual_seed(seed)
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
def _whole(model: ConditionalPriorVAE, groups: Groups, x: Tensor, seed: int) -> Groups:
    """Groups joined where they hang together in data, or in `COMPARED` examples of it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:COMPARED]
    x = x[rows.to(x.device)]
    probs = cluster_probs(model, x)
    found = torch.stack([probs[:, group].sum(1) for group in groups], 1).argmax(1).cpu().numpy()
    joined = communities.whole([points_of(model, x, kind) for kind in (codes_of, data_of)], found)
    places = dict(zip(found.tolist(), joined.tolist(), strict=True))
    many = [
        sorted(k for i, group in enumerate(groups) if places.get(i) == place for k in group)
        for place in range(joined.max() + 1)
    ]
    return many + [group for i, group in enumerate(groups) if i not in places]


@torch.no_grad()
def _merged(
    model: ConditionalPriorVAE, config: dict[str, Any], groups: Groups, view: _View
) -> tuple[ConditionalPriorVAE, dict[str, Any]]:
    """A model of one category a group, and its configuration."""
    config = {**config, "n_components": len(groups), "weights": "learned"}
    small = build(**config)
    assert isinstance(small, ConditionalPriorVAE)
    state = model.state_dict()
    mix = _weights(groups, view.log_qc)
    weight = mix @ state["classifier.weight"]
    logits = model.classifier(view.features)
    joint, log_q = (
        torch.stack([t[:, g].logsumexp(1) for g in groups], 1) for t in (logits, view.log_qc)
    )
    state["classifier.bias"] = (log_q.softmax(0) * (joint - view.features @ weight.T)).sum(0)
    state["classifier.weight"] = weight
    state["posterior_gate.weight"] = state["posterior_gate.weight"] @ mix.T
    decoder = next(key for key in state if key.startswith("decoder.") and key.endswith("weight"))
    for key in ("posterior.weight", decoder):  # the category comes last in what they read
        rest, category = state[key].split(
            [state[key].shape[1] - model.n_components, mix.shape[1]], 1
        )
        state[key] = torch.cat([rest, category @ mix.T], 1)
    state |= _moments(model, mix)
    aggregated = torch.stack([state["aggregated"][g].sum() for g in groups])
    state["aggregated"] = aggregated / aggregated.sum()
    state["prior.logits"] = state["aggregated"].clamp_min(1e-6).log()
    small.load_state_dict(state)
    return small.to(view.observed.device).eval(), config


def _weights(groups: Groups, log_qc: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
    """Share of each category in its group; rows sum to 1."""
    log_shares = log_qc.logsumexp(0)
    mix = torch.zeros(len(groups), log_qc.shape[1], device=log_qc.device)
    for row, group in enumerate(groups):
        mix[row, group] = log_shares[group].softmax(0)
    return mix


def _moments(model: ConditionalPriorVAE, mix: Float[Tensor, "m k"]) -> dict[str, Tensor]:
    """The prior of every group: the Gaussian with the moments of its members' mixture."""
    mixture = model.mixture()
    mean = mix @ mixture.mean
    apart = mixture.mean.unsqueeze(0) - mean.unsqueeze(1)  # (m, k, d)
    scale = torch.exp(0.5 * mixture.logvar)
    if mixture.unit_tril is None:
        var = mix @ scale**2 + torch.einsum("mk,mkd->md", mix, apart**2)
        return {"prior.mean": mean, "prior.logvar": var.log()}
    root = mixture.unit_tril * scale.unsqueeze(1)  # (k, d, d)
    covariance = torch.einsum("mk,kij->mij", mix, root @ root.mT)
    covariance = covariance + torch.einsum("mk,mki,mkj->mij", mix, apart, apart)
    tril = torch.linalg.cholesky(covariance)
    diagonal = tril.diagonal(dim1=1, dim2=2)
    below = torch.tril(tril / diagonal.unsqueeze(1), -1)
    return {"prior.mean": mean, "prior.logvar": 2 * diagonal.log(), "prior.below_diagonal": below}

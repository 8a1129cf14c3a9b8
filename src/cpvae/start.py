"""Where categories start: communities of examples that are neighbours.

As long as c says nothing, z has to say all, and examples of a kind get codes that are near one
another. The graph that joins every code with its nearest ones falls into communities (Blondel et
al. 2008), which find kinds of any shape, where a Gaussian mixture or k-means would cut the long
ones and join the close ones. Where z needs few dimensions, the data themselves tell more than their
codes; which of the two does shows in how much denser communities are inside than between one
another. Categories begin there, and from then on follow the objective alone.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.models import ConditionalPriorVAE

NEIGHBOURS = 15
EXAMPLES = 50_000  # that are looked at, at most: the time for neighbours grows with the square
COMPARED = 10_000  # of them, on which codes and data are compared
SEARCHES = 60_000  # points that the searches for communities go over in all, in 4 to 16 of them


class Communities(NamedTuple):
    """What `communities` found.

    ``off`` is 0 where their number is K and falls below with the distance to it, ``modularity`` is
    how much more of the edges lie inside them than would by chance, and ``category`` (n) has for
    each point the place of its community by size, or -1 beyond the K largest.
    """

    off: int
    modularity: float
    category: Int[np.ndarray, " n"]


def start(model: ConditionalPriorVAE, x: Tensor, seed: int) -> Int[Tensor, " n"]:
    """The category that each example starts in.

    Arguments:
        model: whose codes z say all
        x: training data (n, ...) in the user's units
        seed: of the examples that are looked at, and of the search for communities

    Returns:
        For each example its community among codes or among data, whichever are more modular, by
        size, or -1: where there are more communities than the model has categories, those in the
        smallest have none, and so have most examples of data with more than `EXAMPLES`.
    """
    device = model.aggregated.device
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
    parts = [part.to(device) for part in x[rows].split(model.rows_at_once())]
    codes = torch.cat([model.embed(part).cpu() for part in parts]).numpy()
    observed = [model.likelihood.observe(part.flatten(1)) for part in parts]
    data = torch.cat([model.likelihood.inputs(part).cpu() for part in observed]).numpy()
    k = model.n_components
    tried = [(points, communities(points[:COMPARED], k, seed)) for points in (codes, data)]
    points, found = max(tried, key=lambda each: each[1][:2])
    if len(points) > COMPARED:
        found = communities(points, k, seed)
    category = torch.full((len(x),), -1)
    category[rows] = torch.from_numpy(found.category)
    return category


def communities(points: Float[np.ndarray, "n d"], n_components: int, seed: int) -> Communities:
    """Communities in the graph that joins each point with its nearest ones.

    They maximise the modularity (Louvain's method) at a resolution that gives ``n_components`` of
    them, or as near to that number as there is; the best of a few searches is taken. Points that
    agree to four digits are one: among equals the nearest ones would be drawn by chance.
    """
    from sklearn.neighbors import kneighbors_graph  # these take a second
    from sknetwork.clustering import get_modularity

    _, first, same = np.unique(points.round(4), axis=0, return_index=True, return_inverse=True)
    if len(first) == 1:
        return Communities(1 - n_components, 0.0, np.zeros(len(points), np.int64))
    order = np.argsort(first)  # of first appearance
    graph = kneighbors_graph(points[first[order]], min(NEIGHBOURS, len(first) - 1))
    graph = (graph + graph.T).tocsr()
    tries = []
    for i in range(min(16, max(4, SEARCHES // len(first)))):
        found = _search(graph, n_components, seed + i)
        tries.append((-abs(_count(found) - n_components), get_modularity(graph, found), found))
    off, modularity, found = max(tries, key=lambda each: each[:2])
    of_each = found[np.argsort(order)[same.ravel()]]
    by_size = np.argsort(np.argsort(-np.bincount(of_each), kind="stable"))
    category = by_size[of_each]
    return Communities(off, modularity, np.where(category < n_components, category, -1))


def _search(graph: Any, n_components: int, seed: int) -> Int[np.ndarray, " n"]:
    """Louvain's method at that resolution, between 0.01 and 100, that comes nearest to K."""
    from sknetwork.clustering import Louvain

    low, high = 0.01, 100.0
    tries = []
    for _ in range(16):
        resolution = (low * high) ** 0.5
        found = Louvain(resolution, random_state=seed, shuffle_nodes=True).fit_predict(graph)
        tries.append(found)
        if _count(found) == n_components:
            break
        low, high = (resolution, high) if _count(found) < n_components else (low, resolution)
    return min(tries, key=lambda found: abs(_count(found) - n_components))


def _count(found: Int[np.ndarray, " n"]) -> int:
    return int(found.max()) + 1

"""Where categories start: communities of examples whose codes are neighbours.

As long as c says nothing, z has to say all, and examples of a kind get codes that are near one
another. The graph that joins every code with its nearest ones falls into communities (Blondel et
al. 2008), which find kinds of any shape, where a Gaussian mixture or k-means would cut the long
ones and join the close ones. Categories begin there, and from then on follow the objective alone.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.models import ConditionalPriorVAE

NEIGHBOURS = 15
EXAMPLES = 50_000  # that are looked at, at most: the time for neighbours grows with the square
SEARCHES = 4  # for communities


def start(model: ConditionalPriorVAE, x: Tensor, seed: int) -> Int[Tensor, " n"]:
    """The category that each example starts in.

    Arguments:
        model: whose codes z say all
        x: training data (n, ...) in the user's units
        seed: of the examples that are looked at, and of the search for communities

    Returns:
        For each example its community, by size, or -1: where there are more communities than the
        model has categories, those in the smallest have none, and so have most examples of data
        with more than `EXAMPLES`.
    """
    device = model.aggregated.device
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
    parts = x[rows].split(model.rows_at_once())
    codes = torch.cat([model.embed(part.to(device)).cpu() for part in parts])
    category = torch.full((len(x),), -1)
    category[rows] = torch.from_numpy(communities(codes.numpy(), model.n_components, seed))
    return category


def communities(
    codes: Float[np.ndarray, "n d"], n_components: int, seed: int
) -> Int[np.ndarray, " n"]:
    """The community of each code, largest first, in the graph of nearest neighbours.

    Communities maximise the modularity (Louvain's method) at a resolution that gives
    ``n_components`` of them, or as near to that number as there is; the best of a few searches is
    taken. Codes in smaller communities than the K largest get -1.
    """
    from sklearn.neighbors import kneighbors_graph  # these take a second
    from sknetwork.clustering import get_modularity

    graph = kneighbors_graph(codes, min(NEIGHBOURS, len(codes) - 1))
    graph = (graph + graph.T).tocsr()
    tries = [_search(graph, n_components, seed + i) for i in range(SEARCHES)]
    best = max(
        tries, key=lambda found: (-abs(_count(found) - n_components), get_modularity(graph, found))
    )
    return np.where(best < n_components, best, -1).astype(np.int64)


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

"""Communities of points that are neighbours: clusters of any shape, even or uneven in size.

The graph that joins every point with its nearest ones falls into communities that maximise the
modularity (Blondel et al. 2008), at the resolution that gives as many as are wanted. Modularity
likes communities of one size: it cuts a large cluster in two before it keeps a small one apart,
since all edges count alike (Fortunato and Barthelemy 2007). Where clusters may be uneven in size,
and two communities are connected as halves of one cluster are, finer ones are joined until as many
are left, by the normalised cut (Shi and Malik 2000), in which every community counts alike.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

NEIGHBOURS = 15
SEARCHES = 60_000  # points that the searches for communities go over in all, in 4 to 16 of them
FINER = (2, 4, 8)  # times as many communities, of which neighbours are joined
HALVES = 0.09  # share of its edges that leads from one half of a cluster to the other, at least
RESOLUTIONS = 0.01, 100.0  # between which the first search looks for as many as are wanted
NEAR = 1.5  # times or a part of the resolution that was found before: where all others look
LOOSER = 0.75  # of half that share or more, at most, where joined ones are connected more weakly

Graph = Any  # sparse matrix of scipy


class Communities(NamedTuple):
    """What `communities` found.

    ``off`` is 0 where their number is K and falls below with the distance to it, ``quality`` is
    their modularity, or, where they may be uneven, the share of its edges that stay inside a
    community, the mean over them, and ``category`` (n) has for each point the place of its
    community by size, or -1 beyond the K largest. The graph falls into ``parts`` without an edge
    between them. The best search found them at ``resolution``.
    """

    off: int
    quality: float
    category: Int[np.ndarray, " n"]
    parts: int
    resolution: float | None = None

    @property
    def score(self) -> tuple[int, float]:
        """What better communities have more of: nearness to K first, then quality."""
        return self.off, self.quality


def communities(
    points: Float[np.ndarray, "n d"],
    n_components: int,
    seed: int,
    uneven: bool = False,
    resolution: float | None = None,
) -> Communities:
    """Communities in the graph that joins each point with its nearest ones.

    There are ``n_components`` of them, or as near to that number as there is: the most modular of a
    few searches, or, where they may be ``uneven``, finer ones that were joined. Points that agree
    to four digits are one: among equals the nearest ones would be drawn by chance. Only the first
    search goes over all resolutions, where none is given near which there are that many.
    """
    from scipy.sparse.csgraph import connected_components
    from sknetwork.clustering import get_modularity  # takes a second

    _, first, same = np.unique(points.round(4), axis=0, return_index=True, return_inverse=True)
    if len(first) == 1:
        return Communities(1 - n_components, 0.0, np.zeros(len(points), np.int64), 1)
    order = np.argsort(first)  # of first appearance
    graph = _graph(points[first[order]])
    tries = []
    for i in range(min(16, max(4, SEARCHES // len(first)))):
        found, resolution = _search(graph, n_components, seed + i, resolution)
        quality = get_modularity(graph, found)
        tries.append((_off(found, n_components), quality, resolution, found))
    off, quality, resolution, found = max(tries, key=lambda each: each[:2])
    if uneven:
        found = _uneven(graph, found, n_components, seed)
        off, quality = _off(found, n_components), 1 - cut(graph, found)
    of_each = found[np.argsort(order)[same.ravel()]]
    by_size = np.argsort(np.argsort(-np.bincount(of_each), kind="stable"))
    category = by_size[of_each]
    category = np.where(category < n_components, category, -1)
    parts, _ = connected_components(graph, directed=False)
    return Communities(off, quality, category, parts, resolution)


def merge_connected(
    views: Sequence[Float[np.ndarray, "n _"]], category: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Categories merged two by two while two are connected as halves of one cluster are.

    They are where at least `HALVES` of the edges of the smaller one lead to the other, in the graph
    of nearest neighbours of every view. The most strongly connected are merged first.

    Arguments:
        views: points (n, d) of the same examples, near one another where examples are alike
        category: of each example

    Returns:
        For each example the place of what its category is in now, from 0 up.
    """
    number, found = np.unique(category, return_inverse=True)
    member = np.arange(len(number))
    graphs = [_graph(points) for points in views]
    while member.max() > 0:
        connections = np.min(
            [_connections(_edges(graph, member[found])) for graph in graphs], axis=0
        )
        i, j = sorted(divmod(int(connections.argmax()), len(connections)))
        if connections[i, j] < HALVES:
            break
        member[member == j] = i
        member[member > j] -= 1
    return member[found]


def _graph(points: Float[np.ndarray, "n d"]) -> Graph:
    """Points joined with their nearest ones."""
    from sklearn.neighbors import kneighbors_graph  # takes a second

    graph = kneighbors_graph(points, min(NEIGHBOURS, len(points) - 1))
    return (graph + graph.T).tocsr()


def _uneven(
    graph: Graph, found: Int[np.ndarray, " n"], n_components: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Those found, or finer ones that were joined, where two of the former are like halves."""
    joined = [
        join(graph, _search(graph, times * n_components, seed)[0], n_components)
        for times in FINER
        if times * n_components * NEIGHBOURS <= len(found)
    ]
    best = min(joined, key=lambda each: cut(graph, each), default=found)
    before, after = connection(graph, found), connection(graph, best)
    halves = before >= HALVES or (2 * before >= HALVES and after <= LOOSER * before)
    return best if halves and cut(graph, best) < cut(graph, found) else found


def _off(found: Int[np.ndarray, " n"], n_components: int) -> int:
    return -abs(_count(found) - n_components)


def cut(graph: Graph, found: Int[np.ndarray, " n"]) -> float:
    """Share of its edges that leave a community, the mean over communities."""
    edges = _edges(graph, found)
    return float(1 - np.mean(np.diag(edges) / edges.sum(1)))


def connection(graph: Graph, found: Int[np.ndarray, " n"]) -> float:
    """Largest share of the edges of a community that lead to one other, at least as large."""
    return float(_connections(_edges(graph, found)).max())


def _connections(edges: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Share of the edges of one of two communities, the smaller, that lead to the other."""
    ends = edges.sum(1)
    connections = edges / np.minimum.outer(ends, ends)
    np.fill_diagonal(connections, 0.0)
    return connections


def join(graph: Graph, found: Int[np.ndarray, " n"], n_components: int) -> Int[np.ndarray, " n"]:
    """Communities joined two by two, always those that leave the least `cut`, until K are left."""
    edges = _edges(graph, found)
    member = np.arange(len(edges))
    stays = np.stack([_stays(edges, i) for i in range(len(edges))])
    np.fill_diagonal(stays, -np.inf)
    for _ in range(len(edges) - n_components):
        i, j = divmod(int(stays.argmax()), len(edges))
        member[member == j] = i
        edges[i] += edges[j]
        edges[:, i] += edges[:, j]
        edges[j] = edges[:, j] = 0.0
        edges[j, j] = 1.0  # any number: it is gone
        gone = np.isneginf(stays[i]) | (np.arange(len(edges)) == j)
        stays[i] = stays[:, i] = np.where(gone, -np.inf, _stays(edges, i))
        stays[j] = stays[:, j] = -np.inf
    return np.unique(member[found], return_inverse=True)[1]


def _stays(edges: Float[np.ndarray, "k k"], i: int) -> Float[np.ndarray, " k"]:
    """By how much the share of edges that stay inside grows, in all, where i and another join."""
    inside, ends = np.diag(edges), edges.sum(1)
    joined = (inside[i] + inside + 2 * edges[i]) / (ends[i] + ends)
    return joined - inside[i] / ends[i] - inside / ends


def _edges(graph: Graph, found: Int[np.ndarray, " n"]) -> Float[np.ndarray, "k k"]:
    """Edges from communities to communities, those inside one from both of their ends."""
    from scipy.sparse import csr_matrix

    n = len(found)
    of = csr_matrix((np.ones(n), (np.arange(n), found)))
    return (of.T @ graph @ of).toarray()


def _search(
    graph: Graph, n_components: int, seed: int, near: float | None = None
) -> tuple[Int[np.ndarray, " n"], float]:
    """Louvain's method at the resolution that comes nearest to K communities, and that."""
    from sknetwork.clustering import Louvain

    low, high = RESOLUTIONS if near is None else (near / NEAR, near * NEAR)
    tries = []
    for _ in range(16 if near is None else 8):
        resolution = (low * high) ** 0.5
        found = Louvain(resolution, random_state=seed, shuffle_nodes=True).fit_predict(graph)
        tries.append((found, resolution))
        if _count(found) == n_components:
            break
        low, high = (resolution, high) if _count(found) < n_components else (low, resolution)
    return min(tries, key=lambda each: abs(_count(each[0]) - n_components))


def _count(found: Int[np.ndarray, " n"]) -> int:
    return int(found.max()) + 1

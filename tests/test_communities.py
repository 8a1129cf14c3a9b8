import functools
import itertools

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import make_blobs, make_moons
from sklearn.neighbors import kneighbors_graph

from cpvae.clustering.communities import communities, connection, cut, join, merge_connected
from cpvae.evaluation.metrics import cluster_scores


def test_communities_follow_shapes_that_no_gaussian_has():
    x, y = make_moons(600, noise=0.06, random_state=0)
    found = communities(x.astype(np.float32), 2, 0).category
    assert cluster_scores(y, found)["accuracy"] > 0.98
    assert np.array_equal(found, communities(x.astype(np.float32), 2, 0).category)


@pytest.mark.parametrize("n_components", [2, 4, 12])
def test_the_number_asked_for_is_met_or_the_smallest_have_none(n_components):
    x, y = make_blobs([150, 120, 90, 60], 3, cluster_std=0.4, random_state=1)
    found = communities(x, n_components, 0).category
    assert found.max() == n_components - 1
    sizes = np.bincount(found[found >= 0])
    assert (np.diff(sizes) <= 0).all()
    if n_components == 2:  # blobs that no edge joins cannot be one community
        assert sizes.tolist() == [150, 120]
        assert (found == -1).sum() == 150
    else:
        assert cluster_scores(y, found)["purity"] == 1


def test_equal_examples_are_in_one_community():
    """However many there are: more than a point has neighbours in the graph."""
    rng = np.random.default_rng(0)
    kinds = rng.random((4, 8)).round()
    few = np.abs(kinds[rng.integers(4, size=500)] - (rng.random((500, 8)) < 0.05))
    found = communities(few + 1e-6 * rng.random(few.shape), 4, 0)
    assert found.off == 0
    assert found.parts == 1  # as sixteen patterns have fifteen neighbours each
    for pattern in np.unique(few, axis=0):
        assert len(np.unique(found.category[(few == pattern).all(1)])) == 1
    alone = communities(np.ones((30, 2)), 3, 0)
    assert (alone.off, alone.quality) == (-2, 0)
    assert not alone.category.any()


def _uneven_kinds(seed):
    rng = np.random.default_rng(seed)
    y = rng.choice(5, 3000, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    shape = rng.normal(size=(5, 12, 12)) / 12**0.5
    x = rng.uniform(-1.5, 1.5, size=(5, 12))[y]
    x += np.einsum("nij,nj->ni", shape[y], rng.normal(size=(3000, 12)))
    return (x - x.mean(0)) / x.std(0), y


@functools.cache
def _even_communities(seed):
    return communities(_uneven_kinds(seed)[0], 5, 0, uneven=False).category


@pytest.mark.parametrize("seed", [0, 1])
def test_a_large_kind_stays_whole_beside_small_ones(seed):
    """The most modular communities cut it."""
    x, y = _uneven_kinds(seed)
    even, uneven = _even_communities(seed), communities(x, 5, 0, uneven=True).category
    assert cluster_scores(y, even)["accuracy"] < 0.8
    assert cluster_scores(y, uneven)["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [(0.1, 0.1, True), (0.06, 0.04, True), (0.06, 0.05, False), (0.04, 0.01, False)],
)
def test_finer_communities_are_joined_where_two_look_like_halves(
    monkeypatch, before, after, joined
):
    even = _even_communities(0)
    connections = iter([before, after])
    monkeypatch.setattr(
        "cpvae.clustering.communities.connection", lambda graph, found: next(connections)
    )
    uneven = communities(_uneven_kinds(0)[0], 5, 0, uneven=True).category
    assert joined != np.array_equal(even, uneven)


def test_even_kinds_stay_as_the_most_modular_ones_are():
    x, _ = make_blobs([400] * 4, 10, cluster_std=3.0, random_state=0)
    even, uneven = (communities(x, 4, 0, uneven).category for uneven in (False, True))
    assert np.array_equal(even, uneven)


def test_halves_of_a_kind_are_joined_and_kinds_are_not():
    x, kind = make_blobs([600, 300, 100], 8, cluster_std=1.5, random_state=0)
    category = 2 * kind + (x[:, 0] > np.array([np.median(x[kind == k, 0]) for k in range(3)])[kind])
    category = 7 * np.where(kind == 2, 4, category)  # the last is whole; names may be any numbers
    joined = merge_connected([x], category)
    assert len(np.unique(joined)) == 3
    assert cluster_scores(kind, joined)["accuracy"] == 1
    apart = x + 100.0 * category[:, None]
    assert np.array_equal(
        merge_connected([x, apart], category), np.unique(category, return_inverse=True)[1]
    )
    assert not merge_connected([x], np.zeros(len(x), int)).any()


def test_the_cut_is_the_normalised_cut():
    """Shi and Malik (2000), of which networkx has that of two communities, as a sum."""
    x, found = make_blobs([40, 25], 2, cluster_std=2.0, random_state=0)
    graph = kneighbors_graph(x, 5)
    graph = (graph + graph.T).tocsr()
    sides = [set(np.flatnonzero(found == side)) for side in (0, 1)]
    asked = nx.normalized_cut_size(nx.from_scipy_sparse_array(graph), *sides, weight="weight")
    assert 0 < cut(graph, found) == pytest.approx(asked / 2)


def test_the_connection_is_of_the_two_that_hang_together_most():
    edges = np.array([[40, 4, 0], [4, 10, 6], [0, 6, 90]])  # 44, 20 and 96 ends
    assert connection(csr_matrix(edges), np.arange(3)) == 6 / 20
    assert connection(csr_matrix(edges), np.zeros(3, int)) == 0


def test_those_are_joined_that_leave_the_least_cut():
    rng = np.random.default_rng(0)
    edges = rng.integers(9, size=(6, 6))
    graph = csr_matrix(edges + edges.T + 20 * np.eye(6))
    found = np.arange(6)
    for left in (5, 4, 3, 2):
        pairs = itertools.combinations(range(left + 1), 2)
        after = [_renumbered(np.where(found == j, i, found)) for i, j in pairs]
        found = min(after, key=lambda each: cut(graph, each))
        assert np.array_equal(join(graph, np.arange(6), left), found)
    assert np.array_equal(join(graph, found, 2), found)


def _renumbered(found):
    return np.unique(found, return_inverse=True)[1]

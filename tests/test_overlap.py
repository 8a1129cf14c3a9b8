import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from cpvae.clustering.overlap import Table, overlap_mixture
from cpvae.evaluation.metrics import cluster_scores


def table(numbers, one_hot=None, n_levels=()):
    return Table(numbers, np.zeros((len(numbers), 0)) if one_hot is None else one_hot, n_levels)


def accuracy_of_components(y, rows, n_components, seed=0):
    found = overlap_mixture(rows, n_components, seed).assign(rows)[:, 0, 0].numpy()
    return cluster_scores(y, found)["accuracy"]


def test_a_small_kind_is_found_before_a_large_one_is_cut():
    x, y = make_blobs([800, 60, 40], 5, center_box=(-4, 4), random_state=0)
    cut = KMeans(3, n_init=10, random_state=0).fit_predict(x)
    assert cluster_scores(y, cut)["accuracy"] < 0.6
    for seed in range(3):
        assert accuracy_of_components(y, table(x), 3, seed) > 0.98


def test_long_kinds_that_lie_side_by_side_are_not_cut():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 700, p=[0.6, 0.3, 0.1])
    along = np.linalg.qr(rng.standard_normal((5, 5)))[0] * [6, 3, 1, 0.5, 0.5]
    x = rng.standard_normal((700, 5)) @ along.T + 5 * y[:, None] * along[:, 3]
    cut = KMeans(3, n_init=10, random_state=0).fit_predict(x)
    assert cluster_scores(y, cut)["accuracy"] < 0.6
    for seed in range(3):
        assert accuracy_of_components(y, table(x), 3, seed) > 0.98


def test_a_few_rows_far_from_all_are_no_piece():
    x, y = make_blobs([200, 200, 3], 4, cluster_std=0.5, random_state=0)
    assert accuracy_of_components(y, table(x), 2) > 0.99


def test_missing_numbers_are_not_a_kind():
    x, y = make_blobs([300, 100], 6, center_box=(-5, 5), random_state=0)
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    assert accuracy_of_components(y, table(x), 2) > 0.95
    x[:, 2] = np.nan
    assert accuracy_of_components(y, table(x), 2) > 0.9


def test_two_values_are_categories_and_categories_tell_kinds():
    """As numbers, columns of two values would cut the table in halves that nothing else has."""
    rng = np.random.default_rng(0)
    y = rng.choice(2, 600, p=[0.7, 0.3])
    noise = rng.integers(2, size=(600, 3))
    number = rng.standard_normal(600) + 2 * y
    level = np.where(rng.random(600) < 0.9, y, 2)
    rows = table(np.column_stack([noise, number]).astype(float), np.eye(3)[level], [3])
    assert accuracy_of_components(y, rows, 2) > 0.9
    found = overlap_mixture(rows, 2, 0)
    assert found.middle[:3].tolist() == [0.5, 0.5, 0.5]
    some = Table(rows.numbers[:1], rows.one_hot[:1], [3])
    assert (found.assign(some) == found.assign(rows)[:1]).all()


def test_a_value_that_many_rows_share_is_not_a_kind():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y = rng.choice(2, 800, p=[0.7, 0.3])
        count = np.log1p(rng.poisson(0.3 * (1 + y)))
        numbers = rng.standard_normal((800, 2)) + 2.5 * y[:, None]
        rows = table(np.column_stack([count / count.std(), numbers]))
        assert accuracy_of_components(y, rows, 2, seed) > 0.95


@pytest.mark.parametrize("n_features", [1, 2, 6, 30])
@pytest.mark.parametrize("n", [500, 2500])
@pytest.mark.parametrize("n_components", [2, 6])
def test_pieces_of_one_gaussian_hang_together(n_features, n, n_components):
    rows = table(np.random.default_rng(0).standard_normal((n, n_features)))
    group = overlap_mixture(rows, n_components, 0).assign(rows)[:, 1]
    together = (group == group.mode(0).values).all(1).float().mean()
    assert together == 1


def test_more_categories_than_rows_that_differ():
    rows = table(np.repeat(np.eye(3), 20, axis=0))
    group = overlap_mixture(rows, 7, 0).assign(rows)[:, 1].unique(dim=0)
    assert group[-1, 1] == 6
    assert len(group) == 3
    some = table(rows.numbers[::10])  # six rows, two of a kind
    found = overlap_mixture(some, 5, 0).assign(some)
    assert len(found[:, 0].unique(dim=0)) == 3


def test_a_table_wider_than_long_has_pieces_too():
    x, y = make_blobs([30, 20], 200, center_box=(-1, 1), random_state=0)
    assert accuracy_of_components(y, table(x), 2) == 1

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from cpvae.evaluate import cluster_scores
from cpvae.pieces import pieces


def test_a_small_kind_is_found_before_a_large_one_is_cut():
    x, y = make_blobs([800, 60, 40], 5, center_box=(-4, 4), random_state=0)
    cut = KMeans(3, n_init=10, random_state=0).fit_predict(x)
    assert cluster_scores(y, cut)["accuracy"] < 0.6
    for seed in range(3):
        piece = pieces(x, 3, seed).of(x)[:, 0, 0].numpy()
        assert cluster_scores(y, piece)["accuracy"] > 0.98


def test_a_few_points_far_from_all_are_no_piece():
    x, y = make_blobs([200, 200, 3], 4, cluster_std=0.5, random_state=0)
    found = pieces(x, 2, 0).of(x)[:, 0, 0].numpy()
    assert cluster_scores(y, found)["accuracy"] > 0.99


@pytest.mark.parametrize("n_features", [1, 2, 6, 30])
@pytest.mark.parametrize("n", [500, 5000])
@pytest.mark.parametrize("n_components", [2, 6])
def test_pieces_of_one_gaussian_hang_together(n_features, n, n_components):
    points = np.random.default_rng(0).standard_normal((n, n_features))
    group = pieces(points, n_components, 0).of(points)[:, 1]
    together = (group == group.mode(0).values).all(1).float().mean()
    assert together == 1 if n_features < 30 else together > 0.98


def test_more_categories_than_rows_that_differ():
    points = np.repeat(np.eye(3), 20, axis=0)
    group = pieces(points, 7, 0).of(points)[:, 1].unique(dim=0)
    assert group[-1, 1] == 6
    assert len(group) == 3
    found = pieces(points[::10], 5, 0).of(points)  # six rows, two of a kind
    assert len(found[:, 0].unique(dim=0)) == 3

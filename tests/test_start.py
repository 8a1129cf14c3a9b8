import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_moons

from cpvae.evaluate import cluster_scores
from cpvae.start import communities


def test_communities_follow_shapes_that_no_gaussian_has():
    x, y = make_moons(600, noise=0.06, random_state=0)
    found = communities(x.astype(np.float32), 2, 0)
    assert cluster_scores(y, found)["accuracy"] > 0.98
    assert np.array_equal(found, communities(x.astype(np.float32), 2, 0))


@pytest.mark.parametrize("n_components", [2, 4, 12])
def test_the_number_asked_for_is_met_or_the_smallest_have_none(n_components):
    x, y = make_blobs([150, 120, 90, 60], 3, cluster_std=0.4, random_state=1)
    found = communities(x, n_components, 0)
    assert found.max() == n_components - 1
    sizes = np.bincount(found[found >= 0])
    assert (np.diff(sizes) <= 0).all()
    if n_components == 2:  # blobs that no edge joins cannot be one community
        assert sizes.tolist() == [150, 120]
        assert (found == -1).sum() == 150
    else:
        assert cluster_scores(y, found)["purity"] == 1

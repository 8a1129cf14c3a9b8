import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from cpvae.clustering.communities import communities
from cpvae.evaluation.metrics import cluster_scores
from cpvae.models.build import build
from cpvae.models.inference import cluster_probs
from cpvae.training.initialise import initial_clusters, needs_mixture
from cpvae.training.start import start_as_mixture


def test_categories_start_in_codes_or_in_data_whichever_tell_kinds_apart():
    x, y = make_blobs([450, 350, 250], 8, cluster_std=0.5, random_state=1)
    x = torch.from_numpy(x).float()
    model = build(shape=(8,), n_components=3, latent_dim=2, likelihood="gaussian")
    with torch.no_grad():
        model.posterior.weight.zero_()  # all codes are the same
    (found,) = initial_clusters([model], x, [0])
    assert (found == found[:, :1, :1]).all()
    assert cluster_scores(y, found[:, 0, 0].numpy())["accuracy"] == 1
    model.embed = lambda part: part[:, :4]
    model.likelihood.inputs = torch.zeros_like
    assert cluster_scores(y, initial_clusters([model], x, [0])[0][:, 0, 0].numpy())["accuracy"] == 1


def test_examples_beyond_the_largest_communities_are_free():
    x, y = make_blobs([450, 350, 250], 8, cluster_std=0.5, random_state=1)
    x = torch.from_numpy(x).float()
    model = build(shape=(1, 2, 4), n_components=2, latent_dim=2, likelihood="gaussian", seed=1)
    (found,) = initial_clusters([model], x.view(-1, 1, 2, 4), [1])
    for kind, between in enumerate([[0, 0], [1, 1], [0, 1]]):
        assert (found[y == kind] == torch.tensor(between)).all()


def test_a_table_of_more_separate_parts_than_categories_starts_at_pieces():
    x, y = make_blobs([450, 350, 250], 8, cluster_std=0.5, random_state=1)
    model = build(shape=(8,), n_components=2, latent_dim=2, likelihood="gaussian")
    (found,) = initial_clusters([model], torch.from_numpy(x).float(), [0])
    assert torch.equal(found[:, 0, 0], found[:, 0, 1])
    assert {len(found[y == kind, 0].unique()) for kind in range(3)} == {1}
    assert set(found[:, 0].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("n_components", [3, 9])
def test_a_small_table_starts_at_pieces_and_those_of_a_kind_hang_together(n_components):
    """Ten rows of a kind are too few for fifteen neighbours."""
    x, y = make_blobs([90, 10, 10], 4, cluster_std=0.5, random_state=3)
    model = build(shape=(4,), n_components=n_components, latent_dim=2, likelihood="gaussian")
    (found,) = initial_clusters([model], torch.from_numpy(x).float(), [0])
    piece, group = found.unbind(1)
    assert torch.equal(piece[:, 0], piece[:, 1])
    assert 3 <= len(piece.unique()) <= n_components
    assert (group[:, 0] <= piece[:, 0]).all()
    assert (piece[:, 0] <= group[:, 1]).all()
    groups, kind = group.unique(dim=0, return_inverse=True)
    assert cluster_scores(y, kind.numpy())["purity"] == 1
    assert (groups[0, 0], groups[-1, 1]) == (0, n_components - 1)
    assert torch.equal(groups[1:, 0], groups[:-1, 1] + 1)
    assert len(groups) == 3


def test_a_mixed_table_starts_at_pieces_however_many_rows_it_has():
    """Neighbours are of one category each: communities cut a kind in which two are even."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, 1500, p=[0.7, 0.2, 0.1])
    level = rng.integers(2, size=(len(y), 4))
    x = np.column_stack([0.5 * rng.standard_normal((len(y), 5)) + 0.85 * y[:, None], level])
    config = {"shape": (9,), "n_components": 3, "latent_dim": 2, "likelihood": "mixed"}
    kinds = {"kinds": ["gaussian"] * 5 + ["binary"] * 4, "n_levels": [0] * 9}
    model = build(**config, **kinds, loc=[0.0] * 9, scale=[1.0] * 9)
    (found,) = initial_clusters([model], torch.from_numpy(x).float(), [0])
    assert cluster_scores(y, found[:, 0, 0].numpy())["accuracy"] > 0.97
    cut = communities(x, 3, 0).category
    assert cluster_scores(y, np.where(cut < 0, 3, cut))["accuracy"] < 0.8


def test_several_models_start_as_each_would_alone():
    x, _ = make_blobs([450, 350, 250], 8, cluster_std=0.5, random_state=1)
    x = torch.from_numpy(x).float()
    config = {"shape": (8,), "n_components": 3, "latent_dim": 2, "likelihood": "gaussian"}
    models, seeds = [build(**config, seed=seed) for seed in (0, 1, 2)], [5, 6, 7]
    together = initial_clusters(models, x, seeds)
    for model, seed, found in zip(models, seeds, together, strict=True):
        assert torch.equal(found, initial_clusters([model], x, [seed])[0])


def test_one_column_of_categories_among_many_of_numbers_changes_no_start():
    x, labels = make_blobs([500, 300, 200], n_features=11, cluster_std=1.5, random_state=0)
    coin = np.random.default_rng(0).integers(0, 2, (1000, 1))
    table = torch.from_numpy(np.hstack([x, coin]).astype(np.float32))
    scale = [*x.std(0).tolist(), 1.0]
    kinds = {"kinds": ["number"] * 11 + ["binary"], "n_levels": [0] * 12}
    units = {"shape": [12], "loc": [*x.mean(0).tolist(), 0.0], "scale": scale}
    given = {"model": "residual", "likelihood": "mixed", "n_components": 3, "hidden": [4]}
    model = build(**units, **kinds, **given, limits=[[0.0, None, None]] * 12, latent_dim=11)
    assert not needs_mixture(1000, (12,), model.likelihood.kinds)
    assert needs_mixture(1000, (12,), ["number"] * 10 + ["binary"] * 2)
    start = start_as_mixture(model, table, 0)
    assert start.of_categories is not None  # communities, or a stable mixture, of the numbers
    found = cluster_probs(model.eval(), table)
    torch.testing.assert_close(found.sum(1), torch.ones(1000))
    assert cluster_scores(labels, found.argmax(1).numpy())["accuracy"] > 0.99

import numpy as np
import pytest
import torch

from cpvae import CPVAE
from cpvae.data.augment import Augment, affine, masking, named
from cpvae.evaluation.metrics import cluster_scores


def test_affine_moves_images_a_little_and_each_in_its_own_way():
    x = torch.zeros(200, 1, 28, 28)
    x[:, :, 8:20, 8:20] = 1
    flat = x.flatten(1)
    move = affine((1, 28, 28))
    noise = torch.rand(200, move.n_random, generator=torch.Generator().manual_seed(0))
    moved = move.change(flat, noise)
    assert moved.shape == flat.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not torch.equal(moved, flat)
    assert not torch.equal(moved[0], moved[1])
    assert (moved.sum(1) / flat.sum(1)).mean().item() == pytest.approx(1, abs=0.1)


def test_affine_with_nothing_to_do_changes_nothing(generator):
    x = torch.rand(3, 2 * 6 * 6, generator=generator)
    still = affine((2, 6, 6), angle=0.0, zoom=0.0, shift=0.0)
    torch.testing.assert_close(
        still.change(x, torch.rand(3, 6, generator=generator)), x, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("side", "pixels"), [(8, 1.0), (28, 1.4)])
def test_affine_shifts_by_a_pixel_at_least(side, pixels):
    x = torch.zeros(1, 1, side, side)
    x[..., side // 2, side // 2] = 1
    uniform = torch.tensor([[0.5, 0.5, 0.5, 0.5, 1.0, 0.5]])  # nothing but a shift across
    moved = affine((1, side, side), zoom=0.0).change(x.flatten(1), uniform).view(side, side)
    middle = (moved.sum(0) * torch.arange(side)).sum() / moved.sum()
    assert side // 2 - middle.item() == pytest.approx(pixels, abs=1e-4)


def test_named():
    with pytest.raises(ValueError, match="leave the invariance term off"):
        named("affine", (7,))
    with pytest.raises(ValueError, match="choose from affine"):
        named("blur", (1, 8, 8))
    assert named(None, (7,)) is None
    own = Augment(1, torch.add)
    assert named(own, (7,)) is own


def test_masking_makes_a_share_of_the_values_go_missing(generator):
    change = masking((5,), share=0.3)
    x = torch.randn(4000, 5, generator=generator)
    moved = change.change(x, torch.rand(4000, change.n_random, generator=generator))
    gone = moved.isnan()
    assert gone.float().mean(0) == pytest.approx([0.3] * 5, abs=0.03)
    assert (moved[~gone] == x[~gone]).all()
    with pytest.raises(ValueError, match="masking is for tables"):
        named("masking", (1, 8, 8))


def test_masking_makes_categories_stay_where_values_go_missing(blobs):
    x, labels = blobs
    holes = np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, x)
    holes[np.isnan(holes).all(1)] = x[np.isnan(holes).all(1)]
    moves = []
    for invariance in (None, "masking"):
        how = {"model": "cpvae", "max_epochs": 25, "random_state": 0}
        model = CPVAE(3, invariance=invariance, **how).fit(x)
        assert cluster_scores(labels, model.predict(x))["accuracy"] > 0.95
        before, after = model.predict_proba(x), model.predict_proba(holes)
        moves.append(np.abs(before - after).sum(1).mean())
    assert moves[1] < 0.8 * moves[0], moves
    with pytest.raises(ValueError, match="makes values go missing, which a Bernoulli likelihood"):
        CPVAE(3, max_epochs=1, invariance="masking").fit((x > 5).astype(float))

import pytest
import torch

from cpvae.augment import Augment, affine, named


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


def test_named():
    with pytest.raises(ValueError, match="leave the invariance term off"):
        named("affine", (7,))
    with pytest.raises(ValueError, match="choose from affine"):
        named("blur", (1, 8, 8))
    assert named(None, (7,)) is None
    own = Augment(1, torch.add)
    assert named(own, (7,)) is own

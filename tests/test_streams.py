"""No two purposes of a seed draw the same numbers."""

import itertools

import numpy as np
import pytest
import torch

from cpvae import CPVAE
from cpvae.models.build import build
from cpvae.streams import NUMBERS, PURPOSES, numpy_stream, stream, torch_stream
from cpvae.training.loop import validate, validation_data


def test_streams_of_a_seed_never_meet():
    numbers = (0, 1, 2, 1000, NUMBERS - 1)
    for seed in (0, 1, 2, 2**31, 2**40):
        found = [stream(seed, purpose, number) for purpose in PURPOSES for number in numbers]
        assert len(set(found)) == len(PURPOSES) * len(numbers)
        assert all(0 <= each < 2**32 for each in found)
        assert seed not in found
    assert len({stream(seed, "weights") for seed in range(1000)}) == 1000
    with pytest.raises(ValueError, match="use one from 0 to"):
        stream(0, "order", NUMBERS)
    with pytest.raises(ValueError, match="not in"):
        stream(0, "nonsense")


@pytest.mark.parametrize("draw", [torch_stream, numpy_stream])
def test_every_pair_of_streams_has_no_common_block(draw):
    """A block is two numbers in a row, of a thousand that each stream draws first."""

    def blocks(purpose, number):
        generator = draw(3, purpose, number)
        if draw is torch_stream:
            x = torch.rand(1000, generator=generator, dtype=torch.float64).numpy()
        else:
            x = generator.random(1000)
        return set(zip(x[:-1].tolist(), x[1:].tolist(), strict=True))

    each = [blocks(purpose, number) for purpose in PURPOSES for number in (0, 1)]
    assert all(not one & other for one, other in itertools.combinations(each, 2))


def test_noise_of_the_validation_is_not_the_start_of_the_prior():
    """It was: the prior's means and that noise came from the same seed."""
    model = build("mog", shape=(1,), likelihood="gaussian", n_components=50, latent_dim=4, seed=3)
    noise = []
    model.exact_terms = lambda x, normal, of=model.exact_terms: (
        noise.append(normal) or of(x, normal)
    )
    x = torch.linspace(-1, 1, 600).unsqueeze(1)
    validate(model, validation_data(model, x, 3), 3)
    means = model.prior.mean.detach()
    assert torch.cdist(torch.cat(noise), means).min() > 1e-3


def test_a_whole_fit_uses_no_seed_twice_but_for_the_same_purpose(monkeypatch):
    """Every generator that is seeded on the way from data to figures, one epoch after another."""
    seeded = []
    real = torch.Generator.manual_seed

    def note(generator, seed):
        seeded.append(seed)
        return real(generator, seed)

    class Noted(torch.Generator):
        manual_seed = note

    monkeypatch.setattr(torch, "Generator", Noted)
    # its noise is seeded by the rows themselves
    monkeypatch.setattr("cpvae.evaluation.densities.quantiles", lambda *_: [0.0])
    x = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    model = CPVAE(3, max_epochs=8, random_state=5, recipe={"pretraining_epochs": 1}).fit(x)
    fitted = list(seeded)
    model.evaluate(x, n_samples=2)
    model.sample(5)
    validation = stream(5, "validation")  # the same noise in every epoch, so that epochs compare
    once = [seed for seed in fitted if seed != validation]
    assert len(once) == len(set(once)) == 2 + 2 * 8  # weights, validation; order, noise
    assert fitted.count(validation) == 8
    assert not set(seeded[len(fitted) :]) & set(fitted)

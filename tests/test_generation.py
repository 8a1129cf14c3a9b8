"""What generated examples are judged by, held against oracles."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.linalg import sqrtm
from sklearn import config_context

from cpvae import data
from cpvae.evaluation.classifier import fit_classifier
from cpvae.evaluation.generation import density_and_coverage, frechet_distance, quality
from cpvae.models.build import build


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 6)).astype(np.float32)
    return real, (0.8 * rng.normal(size=(250, 6)) + 0.3).astype(np.float32)


@pytest.mark.parametrize("memory", [0.05, 1000])  # MiB: many chunks, and one
def test_density_and_coverage_are_those_of_prdc(samples, memory):
    with config_context(working_memory=memory):
        ours = density_and_coverage(*samples)
    theirs = compute_prdc(*samples, nearest_k=5)
    assert ours["density"] == pytest.approx(theirs["density"], rel=1e-6)
    assert ours["coverage"] == pytest.approx(theirs["coverage"], rel=1e-6)
    assert 0 < ours["coverage"] < 1


def test_too_few_examples_are_refused(samples):
    with pytest.raises(ValueError, match="no 5-th neighbours"):
        density_and_coverage(samples[0][:5], samples[1])


def test_frechet_distance_is_the_formula(samples):
    real, generated = samples
    first, second = np.cov(real.T), np.cov(generated.T)
    gap = real.mean(0) - generated.mean(0)
    expected = gap @ gap + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(real, real + 2) == pytest.approx(4 * 6, rel=1e-4)


def test_a_classifier_learns_and_leaves_the_global_generator_alone():
    splits = data.load("digits")
    before = torch.random.get_rng_state()
    eye = fit_classifier(splits.train.tensor(), torch.from_numpy(splits.train.labels), epochs=15)
    assert torch.equal(before, torch.random.get_rng_state())
    right = eye.predict(splits.test.tensor()).numpy() == splits.test.labels
    assert right.mean() > 0.9
    assert eye.features(splits.test.tensor()).shape == (len(right), 64)


def test_quality_of_a_model_that_generates_known_images():
    """Component k of a stub draws real images of class k, so every figure is known."""
    splits = data.load("digits")
    x, labels = splits.train.tensor(), splits.train.labels
    eye = fit_classifier(x, torch.from_numpy(labels), epochs=15)
    model = build(shape=(1, 8, 8), n_components=2, latent_dim=2, hidden=(8, 8))
    model.aggregated.copy_(torch.tensor([0.75, 0.25]))
    real = [x[eye.predict(x) == k] for k in (0, 1)]

    def decode(z, c):
        rows = (c.argmax(1) == 1).long()
        images = torch.stack([real[k][i % len(real[k])] for i, k in enumerate(rows.tolist())])
        return torch.logit(images.flatten(1), eps=1e-6)

    model.decode = decode
    result = quality(model, eye, x, labels)
    assert result["component_agreement"] == 1
    assert result["class_shares_generated"][0] == pytest.approx(0.75, abs=0.05)
    assert sum(result["class_shares_generated"][:2]) == pytest.approx(1)
    shares = zip(result["class_shares_real"], result["class_shares_generated"], strict=True)
    distance = sum(abs(a - b) for a, b in shares) / 2
    assert result["class_share_distance"] == pytest.approx(distance, abs=1e-3)
    assert result["coverage"] < 0.5
    assert result["density"] > 0.9
    assert result["classifier_accuracy"] > 0.9

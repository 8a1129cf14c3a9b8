"""Weights of rows and a start of one's own: against weighted moments and scikit-learn's mixture."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from cpvae import CPVAE
from cpvae.clustering.gaussians import fit_gaussians, numbers_alone
from cpvae.data.splits import Source, split

RNG = np.random.default_rng(0)
GROUP = RNG.integers(2, size=240)
X = (RNG.normal(size=(240, 2)) + 8 * GROUP[:, None]).astype(np.float32)
WEIGHT = np.where(GROUP == 1, 3.0, 1.0) * RNG.uniform(0.5, 1.5, 240)
QUICK = {"n_components": 2, "max_epochs": 1, "random_state": 0, "accelerator": "cpu"}


def test_in_em_a_row_that_weighs_three_is_three_rows():
    weight = RNG.integers(0, 4, 240)
    soft = RNG.dirichlet((1, 1), 240)
    weighted = fit_gaussians(numbers_alone(X), soft, weight=weight.astype(float))
    repeated = fit_gaussians(numbers_alone(X.repeat(weight, 0)), soft.repeat(weight, 0))
    np.testing.assert_allclose(weighted.means, repeated.means)
    np.testing.assert_allclose(weighted.log_weights, repeated.log_weights)
    variances = (np.diagonal(each.covariances, axis1=1, axis2=2) for each in (weighted, repeated))
    np.testing.assert_allclose(*variances)
    moved = fit_gaussians(numbers_alone(X), soft, 50, weight.astype(float))
    inside = weight @ np.eye(2)[GROUP] / weight.sum()
    np.testing.assert_allclose(np.sort(np.exp(moved.log_weights)), np.sort(inside), atol=0.01)


def test_weights_count_in_the_mixture_and_in_the_shares():
    model = CPVAE(**QUICK).fit(X, sample_weight=WEIGHT)
    first = model.predict(X)[GROUP == 0][0]
    share = WEIGHT[GROUP == 0].sum() / WEIGHT.sum()  # a quarter; of the rows it is a half
    assert model.weights_[first] == pytest.approx(share, abs=0.03)
    assert model.model_.log_pc().exp()[first].item() == pytest.approx(share, abs=0.03)
    weighted = np.average(X[GROUP == 0], axis=0, weights=WEIGHT[GROUP == 0])
    np.testing.assert_allclose(model.means_[first], weighted, atol=0.1)


def test_rows_without_weight_are_as_if_they_were_not_there_and_equal_weights_are_none():
    gone = np.arange(240) % 5 == 0
    weight = np.where(gone, 0.0, WEIGHT)
    strange = np.where(gone[:, None], 1e3, X)
    with_zeros = CPVAE(**QUICK).fit(strange, sample_weight=weight, start=GROUP)
    without = CPVAE(**QUICK).fit(X[~gone], sample_weight=WEIGHT[~gone], start=GROUP[~gone])
    np.testing.assert_array_equal(with_zeros.score_samples(X), without.score_samples(X))
    same = [np.full(240, 2.0), None]
    equal = [CPVAE(**QUICK).fit(X, sample_weight=each, start=GROUP) for each in same]
    np.testing.assert_array_equal(*(each.score_samples(X) for each in equal))


def test_the_held_out_bound_is_that_of_weighted_rows():
    model = CPVAE(**QUICK).fit(X, sample_weight=WEIGHT, start=GROUP)
    numbers = np.arange(240)
    held_out = split(Source("x", X, numbers), 0, 0.1, 0.0).valid.labels
    start = model.history_[0]
    assert start["epoch"] == 0
    # the kept model was fitted again with the held-out rows, so that the bound is about the same
    bound = np.average(model.score_samples(X[held_out]), weights=WEIGHT[held_out])
    assert start["valid_elbo_nats"] == pytest.approx(bound, abs=0.1)


def test_a_start_of_ones_own_numbers_the_components():
    x = np.concatenate([X, X[:80] + np.float32([20, 0])])
    label = np.concatenate([2 - 2 * GROUP, np.ones(80, int)])
    settings = {**QUICK, "n_components": 3}
    model = CPVAE(**settings).fit(x, start=label)
    np.testing.assert_array_equal(model.predict(x), label)
    mixture = GaussianMixture(3, random_state=3).fit(x)
    started = CPVAE(**settings).fit(x, start=mixture)
    np.testing.assert_array_equal(started.predict(x), mixture.predict(x))
    np.testing.assert_allclose(started.means_, mixture.means_, atol=0.3)
    soft = CPVAE(**settings).fit(x, start=mixture.predict_proba(x))
    np.testing.assert_array_equal(soft.score_samples(x), started.score_samples(x))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample_weight": [1.0] * 239}, "sample_weight"),
        ({"sample_weight": np.zeros(240)}, "0 for all rows|non-zero"),
        ({"sample_weight": -WEIGHT}, "[Nn]egative"),
        ({"start": GROUP[:9]}, "start has 9 rows, and X has 240"),
        ({"start": np.arange(240) % 3}, "start has 3 components, and n_components=2"),
        ({"start": WEIGHT}, "whole numbers from 0 up"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        CPVAE(**QUICK).fit(X, **given)
    with pytest.raises(ValueError, match="for the model 'residual'"):
        CPVAE(**QUICK, model="cpvae").fit(X, sample_weight=WEIGHT)

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture

from cpvae.clustering.mixture import Mixture, Rows, fit_mixture

FORMS = {"tied": (True, False), "full": (False, False), "diag": (False, True)}


def numbers_only(x):
    return Rows(x, np.zeros((len(x), 0)), np.zeros(0, int))


@pytest.mark.parametrize("diagonal", [False, True])
def test_log_prob_is_that_of_gaussians_and_categories(diagonal):
    rng = np.random.default_rng(0)
    means, factors = rng.standard_normal((2, 3)), np.tril(rng.uniform(0.5, 2, (2, 3, 3)))
    if diagonal:
        factors = factors * np.eye(3)
    chances = np.array([[0.2, 0.8, 0.1, 0.3, 0.6], [0.5, 0.5, 0.7, 0.2, 0.1]])
    precision = np.linalg.inv(factors)
    if diagonal:
        precision = np.diagonal(precision, axis1=1, axis2=2)
    mixture = Mixture(np.log([0.3, 0.7]), means, precision, np.log(chances))
    x, one_hot = rng.standard_normal((4, 3)), np.eye(5)[[0, 1, 0, 1]] + np.eye(5)[[2, 3, 4, 4]]
    of_first = multivariate_normal(means[0], factors[0] @ factors[0].T).logpdf(x)
    of_categories = np.log([0.2 * 0.1, 0.8 * 0.3, 0.2 * 0.6, 0.8 * 0.6])
    found = mixture.log_prob(x, one_hot)
    assert np.allclose(found[:, 0], np.log(0.3) + of_first + of_categories)


@pytest.mark.parametrize("form", FORMS)
def test_em_ends_where_that_of_scikit_learn_does(form):
    x, y = make_blobs([300, 200, 60], 3, random_state=2)
    x = x @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0.2, 0, 0.4]])
    member = np.eye(3)[np.where(np.arange(len(y)) % 5, y, (y + 1) % 3)]
    good, found = fit_mixture(numbers_only(x), member, *FORMS[form], at_least=10)
    means = [x[y == kind].mean(0) for kind in range(3)]
    theirs = GaussianMixture(3, covariance_type=form, means_init=means).fit(x)
    order = np.argsort(-theirs.weights_)
    assert np.allclose(np.exp(found.log_weights), theirs.weights_[order], atol=1e-3)
    assert np.allclose(found.means, theirs.means_[order], atol=0.02)
    log_prob = np.logaddexp.reduce(found.log_prob(x, np.zeros((len(x), 0))), axis=1).mean()
    assert log_prob == pytest.approx(theirs.score(x), abs=0.01)  # the floor of a variance
    assert good == pytest.approx(-theirs.bic(x) / (2 * len(x)), abs=0.02)  # no entropy: far apart


def test_categories_are_charged_for_and_counted():
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=500)
    level = np.where(rng.random(500) < 0.9, kind, 2)
    rows = Rows(np.zeros((500, 0)), np.eye(3)[level], np.zeros(3, int))
    good, found = fit_mixture(rows, np.ones((500, 1)), True, True, at_least=10)
    share = (np.bincount(level) + 0.5) / 501.5
    assert np.allclose(np.exp(found.log_chances), share)
    expected = np.log(share)[level].mean() - 2 * np.log(500) / 1000
    assert good == pytest.approx(expected)


def test_a_component_of_few_rows_is_left_out_and_no_gain():
    x, y = make_blobs([200, 200, 5], 2, random_state=1)
    rows, member = numbers_only(x), np.eye(3)[y]
    three, found = fit_mixture(rows, member, True, True, at_least=3)
    assert len(found.means) == 3
    two, found = fit_mixture(rows, member, True, True, at_least=10)
    assert len(found.means) == 2
    assert two < three

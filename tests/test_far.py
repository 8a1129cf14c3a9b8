"""Rows far from all others: the bound falls smoothly, is finite, and stays a bound."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, nbinom

from cpvae.clustering.gaussians import Gaussians
from cpvae.models.build import MODELS, build
from cpvae.models.functional import (
    REACH,
    log_mean_exp,
    negative_binomial_log_prob,
    soft_logvar,
    soft_reach,
)

FARS = 10.0 ** np.arange(7)
LIMITS = [(0.0, None, None), (1.0, -0.5, None), (0.1, -9.0, 9.0)]
COLUMNS = {"kinds": ("number",) * 3, "limits": LIMITS}


def wild(model, soft_bounds=True):
    """A model whose networks exaggerate, as those do that were trained for long."""
    more = {"likelihood": "mixed", **COLUMNS, "latent_dim": 3} if model == "residual" else {}
    few = 1 if model in ("vae", "hvae") else 2
    usual = {"likelihood": "gaussian", "latent_dim": 2, "n_components": few, "hidden": (16, 16)}
    made = build(model, shape=(3,), **{**usual, **more}, soft_bounds=soft_bounds, seed=1)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if value.ndim > 1 and name.split(".")[0] not in ("prior", "roots", "posterior_maps"):
                value.add_(torch.randn(value.shape, generator=noise) / (2 * value.shape[1]) ** 0.5)
    if model == "residual":
        made.number_head.bend[1:] = 1.0
    return made.double().eval()


@torch.no_grad()
def scores(model, rows):
    """The bound of each row, the mean of a few draws; nats."""
    noise = torch.Generator().manual_seed(1)
    observed = model.likelihood.observe(rows.repeat(20, 1))
    normal = torch.randn(len(observed), model.normal_dim, generator=noise).to(rows)
    return model.exact_terms(observed, normal).elbo().view(20, -1).mean(0)


def far(model, times, dtype=torch.float64):
    signs = torch.tensor([[1, 1, 1], [-1, -1, -1], [1, -1, 1]], dtype=dtype)
    return scores(model.to(dtype), torch.cat([signs * k for k in times])).view(len(times), 3)


def not_ruined(found):
    """Whether scores fall as the square of the distance, and networks add no more than so much."""
    return np.isfinite(found).all() and (found > -(3e7 + 10 * FARS[:, None] ** 2)).all()


@pytest.mark.parametrize("model", MODELS)
def test_a_bound_falls_smoothly_and_is_finite(model):
    found = far(wild(model), FARS).numpy()
    assert np.isfinite(found).all()
    assert (np.diff(found[1:], axis=0) < 0).all(), found
    assert not_ruined(found)
    assert far(wild(model), [1e12, 1e20, 1e38]).isfinite().all()
    single = torch.float32
    assert far(wild(model), [1e12, 1e20, 3e38], single).isfinite().all()
    np.testing.assert_allclose(far(wild(model), FARS, single).numpy(), found, rtol=0.02, atol=0.2)


@pytest.mark.parametrize("model", ["mog", "vamp", "hvae", "hvamp"])
def test_without_soft_bounds_one_far_row_ruins_a_mean(model):
    assert not not_ruined(far(wild(model, soft_bounds=False), FARS).numpy())


def test_what_is_softened_is_the_identity_where_data_are():
    x = torch.linspace(-REACH, REACH, 101, dtype=torch.float64)
    assert torch.equal(soft_reach(x), x)
    beyond = torch.logspace(math.log10(REACH), 38, 500, dtype=torch.float64).requires_grad_()
    read = soft_reach(beyond)
    (slope,) = torch.autograd.grad(read.sum(), beyond)
    assert (read.diff() > 0).all()
    assert (slope.diff() <= 0).all()
    assert slope[0] == pytest.approx(1)
    assert read[-1] < 500
    assert torch.equal(soft_reach(-beyond), -read)
    logvar = torch.tensor([-1e30, -100.0, -8, -3, 0, 4, 100, 1e30])
    expected = torch.tensor([-10.0, -10, -8, -3, 0, 4, 6, 6])
    torch.testing.assert_close(soft_logvar(logvar), expected)


def test_the_bound_of_a_far_row_is_below_its_likelihood():
    """That of a model with one latent dimension, by a sum over a fine grid of z."""
    model = build("vae", shape=(2,), likelihood="gaussian", latent_dim=1, hidden=(8,), seed=2)
    model.soft_bounds = True
    model = model.double()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2)
        z = torch.linspace(-40, 40, 160_001, dtype=torch.float64).unsqueeze(1)
        log_pz = -0.5 * (z.squeeze(1) ** 2 + math.log(2 * math.pi)) + math.log(80 / 160_000)
        for k in (0.0, 3.0, 10.0, 100.0, 1e4):
            x = model.likelihood.observe(torch.tensor([[k, -k]], dtype=torch.float64))
            log_px = torch.logsumexp(model.likelihood.log_prob(x, model.decode(z)) + log_pz, 0)
            noise = torch.Generator().manual_seed(0)
            normal = torch.randn(4000, 1, generator=noise).double()
            bound = model.exact_terms(x.expand(4000, 2), normal).elbo().mean()
            assert bound < log_px + 0.01 * abs(log_px), k
            weighted = log_mean_exp(model.log_weights(x, 4000, noise), 0)
            assert bound < weighted + 0.01 * abs(log_px), k


def test_the_linear_part_is_exact_for_far_rows():
    """A residual model that nothing was trained of is a mixture, however far a row is."""
    rng = np.random.default_rng(0)
    means, roots = rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 3))
    covariances = roots @ roots.transpose(0, 2, 1) + np.eye(3)
    weights = np.log([0.3, 0.7])
    of = {"shape": (3,), "likelihood": "gaussian", "latent_dim": 3, "n_components": 2}
    model = build("residual", **of, soft_bounds=True).double()
    model.start_from(Gaussians(weights, means, covariances, np.zeros((2, 0))))
    for k in FARS:
        x = k * rng.normal(size=(5, 3))
        parts = zip(means, covariances, strict=True)
        each = [multivariate_normal(*part).logpdf(x) for part in parts]
        expected = logsumexp(weights[:, None] + each, axis=0)
        np.testing.assert_allclose(scores(model, torch.from_numpy(x)), expected, rtol=1e-9)


@pytest.mark.parametrize("dispersion", [0.01, 3.0, 1e4])
@pytest.mark.parametrize("mean", [1.0, 1e4])
def test_far_counts_have_the_probability_that_scipy_gives(dispersion, mean):
    x = torch.tensor([0, 99, 100, 101, 1e4, 1e6, 1e9, 1e20, 1e30], dtype=torch.float64)
    logs = (torch.full_like(x, value).log() for value in (mean, dispersion))
    expected = nbinom.logpmf(x.numpy(), dispersion, dispersion / (dispersion + mean))
    np.testing.assert_allclose(negative_binomial_log_prob(x, *logs), expected, rtol=1e-6, atol=1e-6)

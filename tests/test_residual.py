"""The model that starts as a Gaussian mixture: against scikit-learn's and scipy's densities."""

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture

from cpvae import CPVAE
from cpvae.clustering.gaussians import (
    Gaussians,
    fit_gaussians,
    numbers_alone,
    stability_under_em,
    stable_gaussians,
)
from cpvae.data.schema import Schema
from cpvae.models.build import build
from cpvae.models.onnx import export_onnx
from cpvae.models.pairs import pairs_of
from cpvae.training.loop import TrainingData
from cpvae.training.recipe import Recipe
from cpvae.training.refine import refine

RECIPE = Recipe(max_epochs=150, batch_size=200, learning_rate=5e-3, anneal_epochs=0, patience=50)


def moons(n, seed):
    """Two arcs with noise, far from Gaussian, and a third column that depends on their place."""
    rng = np.random.default_rng(seed)
    kind, angle = rng.integers(2, size=n), rng.uniform(0, np.pi, n)
    x = np.stack([np.cos(angle) + 4 * kind, np.sin(angle), angle**2], 1)
    return torch.from_numpy(x + 0.05 * rng.normal(size=x.shape)).float()


def covariances_of(mixture):
    """Covariances (k, d, d) of scikit-learn's forms."""
    k, d = mixture.means_.shape
    of = {
        "full": lambda c: c,
        "tied": lambda c: np.stack([c] * k),
        "diag": lambda c: np.stack([np.diag(each) for each in c]),
        "spherical": lambda c: np.stack([each * np.eye(d) for each in c]),
    }
    return of[mixture.covariance_type](mixture.covariances_)


def started(mixture):
    k, d = mixture.means_.shape
    model = build(
        "residual", shape=(d,), likelihood="gaussian", n_components=k, latent_dim=d, hidden=(8, 8)
    )
    of = np.log(mixture.weights_), mixture.means_, covariances_of(mixture), np.zeros((k, 0))
    model.start_from(Gaussians(*of))
    return model.eval()


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    kind = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    mix = rng.normal(size=(3, 5, 5))
    x = 3 * rng.normal(size=(3, 5))[kind] + np.einsum(
        "nij,nj->ni", mix[kind], rng.normal(size=(400, 5))
    )
    x[:, 4] = x[:, 3] + 0.15 * x[:, 4]  # nearly collinear
    return x.astype(np.float32)


@pytest.fixture(scope="module", params=["full", "tied", "diag", "spherical"])
def mixture(request, rows):
    return GaussianMixture(3, covariance_type=request.param, random_state=0).fit(rows)


def test_at_the_start_the_bound_is_the_likelihood_of_the_mixture(mixture, rows, generator):
    model, x = started(mixture), torch.from_numpy(rows)
    expected = mixture.score_samples(rows)
    for _ in range(2):  # whatever the draw
        terms = model.exact_terms(x, torch.randn(len(x), 10, generator=generator))
        np.testing.assert_allclose(terms.elbo(), expected, atol=1e-3)
    np.testing.assert_allclose(model.cluster_probs(x), mixture.predict_proba(rows), atol=1e-4)
    weights = model.log_weights(x, 3, generator)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (3, 400)), atol=1e-3)


def test_enumerating_likely_categories_alone_is_a_bound_and_close(mixture, rows, generator):
    model, x = started(mixture), torch.from_numpy(rows)
    prepared, normal = model.prepare(x), torch.randn(len(x), 10, generator=generator)
    qc = prepared[1].exp()
    full, some = (model.bound_of(x, prepared, pairs_of(qc, p), normal).elbo() for p in (0.0, 1e-3))
    assert ((some - full) < 1e-4).all()
    assert ((full - some) < 3e-3).all()
    assert (full - some).mean() < 1e-3
    assert len(pairs_of(qc, 1e-3).row) < len(pairs_of(qc, 0.0).row)


def test_missing_values_leave_the_density_of_the_others(mixture, rows, generator):
    """At the start bound and responsibilities are those of the marginals, as scipy has them."""
    model, x = started(mixture), rows[:6].astype(np.float64)
    gone = np.zeros((6, 5), bool)
    gone[0, 0] = gone[1, 0] = gone[2, [1, 3]] = gone[3] = True
    covariances, there = covariances_of(mixture), ~gone
    holes = torch.from_numpy(np.where(gone, np.nan, x)).float()
    read, log_qc = model.infer(holes)
    expected = [model.complete(read, torch.full((6,), k))[0] for k in range(3)]
    marginal = np.zeros(6)
    for i in range(6):
        o, m = there[i], gone[i]
        joint = np.log(mixture.weights_)
        each = list(zip(mixture.means_, covariances, strict=True))
        if o.any():
            joint = joint + [multivariate_normal(a[o], s[o][:, o]).logpdf(x[i, o]) for a, s in each]
        marginal[i] = np.logaddexp.reduce(joint)
        np.testing.assert_allclose(log_qc[i].exp(), np.exp(joint - marginal[i]), atol=1e-3)
        for k, (a, s) in enumerate(each):
            filled = a[m] + s[m][:, o] @ np.linalg.solve(s[o][:, o], x[i, o] - a[o])
            np.testing.assert_allclose(expected[k][i, m], filled, atol=2e-3)
    for _ in range(3):  # whatever the draw, of z and of the missing numbers
        bound = model.exact_terms(holes, torch.randn(6, 10, generator=generator)).elbo()
        np.testing.assert_allclose(bound, marginal, atol=1e-3)
    in_em = Gaussians(np.log(mixture.weights_), mixture.means_, covariances, np.zeros((3, 0)))
    joint = in_em.log_prob(numbers_alone(holes.double().numpy()))
    np.testing.assert_allclose(np.logaddexp.reduce(joint, axis=1), marginal, atol=1e-3)


def test_draws_of_a_component_have_its_mean_and_covariance(mixture):
    model = started(mixture)
    x, drawn = model.sample(40_000, component=1, generator=torch.Generator().manual_seed(0))
    assert (drawn == 1).all()
    np.testing.assert_allclose(x.mean(0), mixture.means_[1], atol=0.1)
    expected = covariances_of(mixture)[1]
    np.testing.assert_allclose(np.cov(x.numpy().T), expected, atol=0.05 * np.abs(expected).max())
    prior = model.mixture()
    lower = prior.unit_tril * torch.exp(0.5 * prior.logvar).unsqueeze(-2)
    whole = lower @ lower.mT + torch.diag_embed(model.log_noise.exp())
    np.testing.assert_allclose(whole.detach(), covariances_of(mixture), rtol=1e-3, atol=1e-4)


def test_codes_are_posterior_means_at_the_most_probable_category(mixture, rows):
    model, x = started(mixture), torch.from_numpy(rows)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.posterior.output.weight)
    (z, c), log_qc = model.code(x)
    assert torch.equal(c.argmax(1), log_qc.argmax(1))
    for k in range(3):
        mine = log_qc.argmax(1) == k
        mean = model.posterior_given(x[mine], k).mean
        expected = model.means[k] + mean @ model.roots[k].T
        torch.testing.assert_close(z[mine], expected, atol=1e-3, rtol=1e-3)


def test_training_leaves_the_mixture_only_for_a_gain(generator):
    x = moons(900, 0)
    model = build(
        "residual", shape=(3,), likelihood="gaussian", n_components=2, latent_dim=3, hidden=(32, 32)
    )
    records = []
    history = refine(model, TrainingData(x[:700], x[700:]), RECIPE, None, records.append)
    assert records == history
    assert history[0]["epoch"] == history[0]["gain_nats"] == history[0]["gain_se_nats"] == 0
    best = max((r for r in history if r["counts"]), key=lambda r: r["valid_elbo_nats"])
    assert best["gain_nats"] > 10 * best["gain_se_nats"] > 0
    assert best["gain_nats"] == pytest.approx(
        best["valid_elbo_nats"] - history[0]["valid_elbo_nats"], abs=1e-4
    )
    test = moons(2000, 1)
    start = build(
        "residual", shape=(3,), likelihood="gaussian", n_components=2, latent_dim=3, hidden=(32, 32)
    )
    still = Recipe(max_epochs=1, batch_size=700, learning_rate=1e-12, anneal_epochs=0)
    refine(start, TrainingData(x[:700], x[700:]), still)
    normal = torch.randn(len(test), 6, generator=generator)
    gain = model.exact_terms(test, normal).elbo() - start.exact_terms(test, normal).elbo()
    assert gain.mean() > 0.8 * best["gain_nats"]
    found, before = (each.cluster_probs(test).argmax(1) for each in (model, start))
    assert (found == before).float().mean() > 0.9  # `start` was fitted to the held-out rows too


def test_where_nothing_is_gained_the_mixture_of_all_rows_is_kept():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(600, 4)) @ rng.normal(size=(4, 4)) + 8 * (np.arange(600)[:, None] % 2)
    x = torch.from_numpy(x).float()
    model = build("residual", shape=(4,), likelihood="gaussian", n_components=2, latent_dim=4)
    history = refine(model, TrainingData(x[:500], x[500:]), RECIPE)
    assert (
        max((r for r in history if r["counts"]), key=lambda r: r["valid_elbo_nats"])["epoch"] == 0
    )
    assert history[-1]["epoch"] < RECIPE.max_epochs  # it saw that early
    mean, covariance = x.double().mean(0), x.double().T.cov()
    found = model.sample(50_000, generator=torch.Generator().manual_seed(1))[0].double()
    np.testing.assert_allclose(found.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(found.T.cov(), covariance, atol=0.03 * covariance.abs().max())


def test_the_same_seed_gives_the_same_model_and_another_one_another():
    x = moons(300, 0)
    fits = [CPVAE(2, random_state=seed, max_epochs=30).fit(x.numpy()) for seed in (0, 0, 1)]
    first, again, other = (fitted.score_samples(x.numpy()[:20]) for fitted in fits)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_tables_of_numbers_start_as_a_mixture_and_others_do_not():
    x = moons(300, 0).numpy()
    holes = x.copy()
    holes[::9, 0] = np.nan
    chosen = {
        "numbers": CPVAE(2, max_epochs=2).fit(x),
        "in the unit interval": CPVAE(2, max_epochs=2).fit((x - x.min(0)) / np.ptp(x, 0)),
        "with gaps": CPVAE(2, max_epochs=2).fit(holes),
    }
    assert {fitted.config_["model"] for fitted in chosen.values()} == {"residual"}
    others = [
        CPVAE(2, max_epochs=2).fit((x > 0.5).astype(float)),
        CPVAE(2, max_epochs=2, invariance="masking").fit(x),
        CPVAE(2, max_epochs=2, latent_dim=2).fit(x),
        CPVAE(2, max_epochs=2, recipe={"kl_z_start": 2.0}).fit(x),
        CPVAE(2, max_epochs=2).fit(x[:8]),
    ]
    assert {fitted.config_["model"] for fitted in others} == {"cpvae"}


def test_what_it_cannot_do_it_says():
    x = moons(300, 0).numpy()
    with pytest.raises(ValueError, match="averaging has no use for the model 'residual'"):
        CPVAE(2, model="residual", recipe={"averaging": 3}).fit(x)
    with pytest.raises(ValueError, match="latent_dim and network out"):
        CPVAE(2, model="residual", latent_dim=2).fit(x)
    with pytest.raises(ValueError, match="needs a column of numbers"):
        CPVAE(2, model="residual").fit((x > 0.5).astype(float))


def test_it_goes_on_from_where_it_is():
    x = moons(400, 0).numpy()
    model = CPVAE(2, max_epochs=30, warm_start=True).fit(x)
    before = model.score(x)
    model.fit(x)
    assert model.score(x) > before - 0.05
    assert model.history_[0]["epoch"] == 0
    assert model.history_[0]["gain_nats"] == 0


def test_it_learns_on_from_data_in_parts():
    x = moons(1200, 0).numpy()
    model = CPVAE(2, max_epochs=30).fit(x[:400])
    before, records = model.score(x), len(model.history_)
    for part in np.array_split(x, 12):
        model.partial_fit(part)
    assert model.score(x) > before - 0.05  # the mixture knew the first 400 rows alone
    assert len(model.history_) == records + 12
    assert np.isfinite(model.partial_fit(x[:1]).score(x))


# --- the mixture it starts from -------------------------------------------------------------------


def test_gaussians_of_clusters_are_moments_and_em_is_scikit_learns():
    x, y = make_blobs([300, 200], 3, cluster_std=[1.0, 2.0], random_state=0)
    points = numbers_alone(x)
    found = fit_gaussians(points, np.eye(2)[y])
    np.testing.assert_allclose(np.exp(found.log_weights), [0.6, 0.4])
    for k in range(2):
        np.testing.assert_allclose(found.means[k], x[y == k].mean(0))
        diagonal = np.diagonal(found.covariances[k])
        np.testing.assert_allclose(diagonal, x[y == k].var(0) + 1e-3)
    parts = zip(found.means, found.covariances, strict=True)
    expected = np.stack([multivariate_normal(m, s).logpdf(x) for m, s in parts], 1)
    np.testing.assert_allclose(found.log_prob(points), expected + found.log_weights, atol=1e-8)


def test_few_rows_shrink_correlations():
    x = np.random.default_rng(0).normal(size=(40, 15))
    found = fit_gaussians(numbers_alone(x), np.ones((40, 1)))
    empirical = np.cov(x.T, bias=True)
    off = ~np.eye(15, dtype=bool)
    assert np.abs(found.covariances[0][off]).sum() < 0.5 * np.abs(empirical[off]).sum()


def test_stability_is_that_of_clusters_which_are_there():
    x, y = make_blobs([300, 300, 300], 3, cluster_std=0.5, random_state=0)
    stability, mixture = stable_gaussians(x, 3, 0)
    assert stability == 1
    assert (np.bincount(mixture.log_prob(numbers_alone(x)).argmax(1)) == 300).all()
    assert stability_under_em(numbers_alone(x), np.eye(3)[y]) == 1
    noise = np.random.default_rng(0).normal(size=(400, 8))
    assert stable_gaussians(noise, 6, 0)[0] < 0.5
    assert (
        stability_under_em(
            numbers_alone(x), np.eye(3)[np.random.default_rng(0).integers(3, size=900)]
        )
        < 0.1
    )


def test_it_is_exported(rows, tmp_path):
    mixture = GaussianMixture(3, random_state=0).fit(rows)
    model, x = started(mixture), torch.from_numpy(rows[:20])
    files = export_onnx(model, Schema((5,)), tmp_path)
    encoder, decoder = (onnxruntime.InferenceSession(file) for file in files[:2])
    probabilities, *latent = encoder.run(None, {"x": rows[:20]})
    np.testing.assert_allclose(probabilities, model.cluster_probs(x), atol=1e-4)
    names = [given.name for given in decoder.get_inputs()]
    (mean,) = decoder.run(None, dict(zip(names, latent, strict=True)))
    np.testing.assert_allclose(mean, model.reconstruct(x), atol=1e-3, rtol=1e-3)


def test_components_have_weights_means_and_covariances_in_the_datas_units(rows):
    x = 100 + 7 * rows[:, :3]
    model = CPVAE(2, likelihood="gaussian", max_epochs=1, random_state=0).fit(x)
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(2, 3, 3))
    covariances = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(3)
    of = np.log([0.3, 0.7]), rng.normal(size=(2, 3)), covariances, np.zeros((2, 0))
    model.model_.start_from(Gaussians(*of))
    assert model.model_.is_plain_mixture()
    np.testing.assert_allclose(model.weights_.sum(), 1, rtol=1e-5)
    assert model.means_.shape == (2, 3)
    drawn, _ = model.sample(40_000, component=1)
    np.testing.assert_allclose(model.means_[1], drawn.mean(0), atol=0.06 * drawn.std(0).max())
    covariance = np.cov(drawn.T)
    np.testing.assert_allclose(
        model.covariances_[1], covariance, atol=0.05 * np.abs(covariance).max()
    )
    with torch.no_grad():
        model.model_.decoder.output.bias += 0.01  # now from draws
    assert not model.model_.is_plain_mixture()
    np.testing.assert_allclose(model.means_[1], drawn.mean(0), atol=0.06 * drawn.std(0).max())
    assert not hasattr(CPVAE(), "means_")

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import norm

from cpvae.evaluation import metrics
from cpvae.evaluation.metrics import (
    MEANING,
    MOST_DRAWS,
    MOST_ROUNDS,
    NOISE_ERROR,
    bound_draws,
    cluster_scores,
    estimate,
    evaluate,
    kl_split,
    log_likelihood,
)
from cpvae.models.base import Terms, draw_noise
from cpvae.models.build import build
from cpvae.models.inference import components_used, exact_terms, sampled_terms
from cpvae.streams import torch_stream


def test_all_keys_are_there_and_finite(any_model, generator):
    x = torch.rand(30, *any_model.shape, generator=generator)
    labels = np.arange(30) % 3
    result = evaluate(any_model, x, labels, n_samples=20)
    assert all(math.isfinite(value) for value in result.values())
    counts = {"n_examples", "n_components", "importance_samples", "draws"}
    assert {key for key in result if "_se_" not in key} - counts <= set(MEANING)
    errors = {key.replace("_noise", "").replace("_se", "") for key in result if "_se_" in key}
    assert errors <= set(result)
    kl = result["kl_z_nats"] + result.get("kl_c_nats", 0.0)  # without c there is no KL(c)
    bound = result["reconstruction_nats"] - kl
    assert result["elbo_exact_nats"] == pytest.approx(bound, rel=1e-4, abs=1e-3)
    noise = [result[f"{name}_noise_se_nats"] for name in ("elbo_exact", "log_likelihood")]
    assert result["elbo_exact_nats"] < result["log_likelihood_nats"] + 4 * math.hypot(*noise)
    clustered = {"accuracy", "purity", "nmi", "ari"} & set(result)
    assert len(clustered) == (4 if result["n_components"] > 1 else 0)
    assert "accuracy" not in evaluate(any_model, x, n_samples=2)
    assert result == evaluate(any_model, x, labels, n_samples=20)


@pytest.mark.parametrize("rows", [1000, 4, 3, 1])
def test_every_sample_counts_once_whatever_the_chunks(rows, build_small, monkeypatch):
    """Of 10 weights each of 7 examples, told by their numbers; rows that are decoded at once."""
    model = build_small({"shape": (6,), "likelihood": "bernoulli"})
    log_w = np.random.default_rng(0).normal(size=(10, 7), scale=3)
    seen = [0] * 7

    def log_weights(x, n_samples, generator):
        columns = x[:, 0].long().tolist()
        first = {seen[i] for i in columns}.pop()
        for i in columns:
            seen[i] += n_samples
        return torch.from_numpy(log_w[first : first + n_samples, columns])

    monkeypatch.setattr(model, "rows_at_once", lambda: rows)
    monkeypatch.setattr(model, "log_weights", log_weights)
    observed = torch.arange(7.0).unsqueeze(1).repeat(1, 6)
    progress = []
    value, _ = log_likelihood(
        model, observed, 10, torch.Generator(), lambda *done: progress.append(done), most_error=1e9
    )
    assert value.mean == pytest.approx(np.log(np.exp(log_w).mean(0)).mean(), abs=1e-6)
    assert seen == [10] * 7
    assert progress[-1] == (7, 7)


def test_figures_are_means_of_the_terms_under_the_noise_of_the_seed(
    any_model, generator, monkeypatch
):
    monkeypatch.setattr(metrics, "MOST_DRAWS", 2)
    x = torch.rand(30, *any_model.shape, generator=generator)
    with torch.no_grad():  # one component is next to never taken
        if any_model.has_categories:
            any_model.classifier.bias[2] -= 12
    result = evaluate(any_model, x, n_samples=2, seed=3, temperature=0.2)
    stream = torch_stream(3, "evaluation")
    observed = any_model.likelihood.observe(x.flatten(1), stream)
    draws = [exact_terms(any_model, observed, stream) for _ in range(2)]
    terms = Terms(*(torch.stack(each).mean(0) for each in zip(*draws, strict=True)))
    expected = {"elbo_exact_nats": terms.elbo(), "kl_z_nats": terms.kl_z}
    expected["reconstruction_nats"] = terms.log_px
    if any_model.has_categories:
        expected["kl_c_nats"] = terms.kl_c
        noises = [draw_noise(any_model, 30, stream) for _ in range(2)]
        with torch.no_grad():
            relaxed = [any_model.terms(observed, noise, 0.2, "relaxed") for noise in noises]
        expected["elbo_relaxed_nats"] = torch.stack([each.elbo() for each in relaxed])
        shares = any_model.cluster_probs(x).mean(0)
        assert result["components_used"] == int((shares >= 0.1 / 4).sum()) < 4
    for key, each in expected.items():
        assert result[key] == pytest.approx(each.double().mean().item(), rel=1e-5), key
    if any_model.n_components > 1:
        q = draws[0].log_qc.double().exp().numpy()
        information = rel_entr(q, q.mean(0)).sum(1).mean()
        assert result["mutual_information_c_nats"] == pytest.approx(information, abs=1e-5)


def test_likelihood_with_rounded_products_is_close_and_leaves_the_model(any_model, observed):
    """Same noise; then the model takes products in single precision again."""
    seeded = [torch.Generator().manual_seed(0) for _ in range(3)]
    before, _ = log_likelihood(any_model, observed, 200, seeded[0], most_error=math.inf)
    rounded, _ = log_likelihood(
        any_model, observed, 200, seeded[1], precision="bfloat16", most_error=math.inf
    )
    assert rounded != before
    assert rounded.mean == pytest.approx(before.mean, rel=0.02)
    again, _ = log_likelihood(any_model, observed, 200, seeded[2], most_error=math.inf)
    assert again == before


def weighing(spread):
    """A model whose log-weights are Gaussian, with the example itself for a mean."""

    def log_weights(x, n_samples, generator):
        noise = torch.randn(n_samples, len(x), generator=generator, dtype=torch.float64)
        return x[:, 0] + spread * noise

    model = build("vae", shape=(1,), likelihood="gaussian", latent_dim=1)
    model.log_weights = log_weights
    return model


def test_errors_of_the_noise_are_those_between_seeds():
    """Of the bound and of the likelihood: the standard deviation of 300 estimates."""
    x = torch.linspace(-3, 3, 12).unsqueeze(1)
    model, found = weighing(0.7), []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        likelihood, n = log_likelihood(model, x, 40, generator, most_error=math.inf)
        found.append((likelihood, estimate(model.log_weights(x, 10, generator))))
    assert n == 40
    for each in zip(*found, strict=True):
        between = np.std([one.mean for one in each])
        assert np.mean([one.noise_error for one in each]) == pytest.approx(between, rel=0.15)
        over_examples = x.std().item() / 12**0.5
        assert np.mean([one.error for one in each]) == pytest.approx(over_examples, rel=0.05)


def test_draws_are_added_until_the_error_of_the_noise_is_small():
    x = torch.zeros(20, 1)
    generator = torch.Generator().manual_seed(0)
    likelihood, n = log_likelihood(weighing(0.7), x, 10, generator)
    assert likelihood.noise_error <= NOISE_ERROR
    assert 10 < n < 10 * MOST_ROUNDS
    assert likelihood.mean == pytest.approx(0.5 * 0.7**2, abs=5 * NOISE_ERROR)
    _, n = log_likelihood(weighing(4.0), x, 10, generator)
    assert n == 10 * MOST_ROUNDS

    def terms(spread):
        noise = spread * torch.randn(20, generator=generator)
        return Terms(noise, torch.zeros(20), torch.zeros(20), torch.zeros(20, 1))

    draws = bound_draws(lambda: terms(0.3))
    assert 2 < len(draws.log_px) < MOST_DRAWS
    assert estimate(draws.elbo()).noise_error == pytest.approx(NOISE_ERROR, rel=0.4)
    assert len(bound_draws(lambda: terms(30.0)).log_px) == MOST_DRAWS
    assert len(bound_draws(lambda: terms(0.01)).log_px) == 2


def test_one_sampled_category_estimates_the_enumerated_bound(any_cpvae, observed_cpvae, generator):
    many = observed_cpvae.repeat(1000, 1)
    sampled = sampled_terms(any_cpvae, many, generator)
    exact = exact_terms(any_cpvae, many, generator)
    assert (sampled.log_qc == exact.log_qc).all()
    error = sampled.elbo().std().item() / len(many) ** 0.5
    assert sampled.elbo().mean().item() == pytest.approx(exact.elbo().mean().item(), abs=6 * error)


@pytest.mark.parametrize("gate", ["probabilities", "category"])
def test_each_term_of_the_split_kl_is_an_integral(gate, build_small, generator):
    """Eq. 13 in double precision: sums over examples and categories, z on a grid."""
    config = {"shape": (6,), "likelihood": "bernoulli", "mixing_weights": "learned"}
    model = build_small({**config, "latent_dim": 2, "gate": gate})
    with torch.no_grad():
        model.classifier.weight.mul_(6)  # so that categories and codes say something of x
        model.posterior.weight.mul_(4)
    x = torch.randint(2, (6, 6), generator=generator).float()
    many = x.repeat(700, 1)  # the same empirical distribution, many draws
    split = kl_split(model, many, exact_terms(model, many, generator), generator)

    side, step = np.linspace(-12, 12, 301, retstep=True)
    z = np.stack(np.meshgrid(side, side), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        qc = model.log_qc(x).double().exp().numpy()
        posteriors = [model.posterior_given(x, k) for k in range(4)]
        prior = model.mixture()
        p_c = prior.logits.double().softmax(0).numpy()

    def densities(gaussian):
        mean, logvar = (t.detach().double().numpy() for t in (gaussian.mean, gaussian.logvar))
        return norm.pdf(z, mean, np.exp(0.5 * logvar)).prod(-1)  # (z, rows)

    joint = np.stack([qc[:, k] * densities(q) for k, q in enumerate(posteriors)])  # (k, z, x)
    q_zc, q_c = joint.mean(-1), qc.mean(0)
    p_zc = q_c[:, None] * densities(prior).T  # with q(c), so that it has q(c) p(z|c)
    information = rel_entr(joint, q_zc[:, :, None]).sum() * step**2 / 6
    assert 0.3 < information < math.log(6)
    split.pop("mutual_information_se_nats")
    assert split == {
        "mutual_information_nats": pytest.approx(information, abs=0.03),
        "aggregated_kl_z_nats": pytest.approx(rel_entr(q_zc, p_zc).sum() * step**2, abs=0.03),
        "aggregated_kl_c_nats": pytest.approx(rel_entr(q_c, p_c).sum(), abs=1e-5),
    }


def test_components_used_counts_shares_from_a_tenth_of_an_even_one():
    assert components_used(torch.tensor([0.5, 0.46, 0.03, 0.01])) == 3
    assert components_used(torch.ones(1)) == 1


def test_cluster_scores_match_one_to_one():
    labels = np.array([0] * 5 + [1] * 5 + [2] * 5)
    renamed = np.array([2] * 5 + [0] * 5 + [1] * 5)
    assert cluster_scores(labels, renamed) == pytest.approx(
        {"accuracy": 1, "purity": 1, "nmi": 1, "ari": 1}
    )
    split = np.array([0] * 3 + [3] * 2 + [1] * 5 + [2] * 5)  # one class in two categories
    assert cluster_scores(labels, split)["accuracy"] == pytest.approx(13 / 15)
    assert cluster_scores(labels, split)["purity"] == 1
    merged = np.array([0] * 10 + [1] * 5)
    assert cluster_scores(labels, merged)["accuracy"] == pytest.approx(10 / 15)
    assert cluster_scores(labels, merged)["purity"] == pytest.approx(10 / 15)

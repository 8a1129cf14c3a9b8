import math

import numpy as np
import pytest
import torch

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
from cpvae.models.base import Terms
from cpvae.models.functional import log_mean_exp
from cpvae.models.inference import components_used, exact_terms, sampled_terms


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
    if any_model.has_categories:
        split = sum(
            result[key]
            for key in ("mutual_information_nats", "aggregated_kl_z_nats", "aggregated_kl_c_nats")
        )
        assert split == pytest.approx(result["kl_c_nats"] + result["kl_z_nats"], rel=1e-4, abs=1e-3)
    noise = [result[f"{name}_noise_se_nats"] for name in ("elbo_exact", "log_likelihood")]
    assert result["elbo_exact_nats"] < result["log_likelihood_nats"] + 4 * math.hypot(*noise)
    clustered = {"accuracy", "purity", "nmi", "ari"} & set(result)
    assert len(clustered) == (4 if result["n_components"] > 1 else 0)
    assert "accuracy" not in evaluate(any_model, x, n_samples=2)
    assert result == evaluate(any_model, x, labels, n_samples=20)


def test_likelihood_does_not_depend_on_the_chunks(any_model, observed, monkeypatch):
    """Equal in the mean: chunks draw other noise, so many samples are compared."""
    whole, _ = log_likelihood(any_model, observed, 3000, torch.Generator().manual_seed(0))
    monkeypatch.setattr(type(any_model), "rows_at_once", lambda model: 700)
    chunked, _ = log_likelihood(any_model, observed, 3000, torch.Generator().manual_seed(0))
    assert whole.mean == pytest.approx(chunked.mean, abs=0.2, rel=0.02)


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


class Weights:
    """A model whose log-weights are Gaussian with a mean of its own for each example."""

    compute, rows_at_once = "float32", staticmethod(lambda: 5000)

    def __init__(self, spread):
        self.spread = spread

    def log_weights(self, x, n_samples, generator):
        noise = torch.randn(n_samples, len(x), generator=generator, dtype=torch.float64)
        return x[:, 0] + self.spread * noise


def test_errors_of_the_noise_are_those_between_seeds():
    """Of the bound and of the likelihood: the standard deviation of 300 estimates."""
    x = torch.linspace(-3, 3, 12).unsqueeze(1)
    model, found = Weights(0.7), []
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
    likelihood, n = log_likelihood(Weights(0.7), x, 10, generator)
    assert likelihood.noise_error <= NOISE_ERROR
    assert 10 < n < 10 * MOST_ROUNDS
    assert likelihood.mean == pytest.approx(0.5 * 0.7**2, abs=5 * NOISE_ERROR)
    _, n = log_likelihood(Weights(4.0), x, 10, generator)
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


def test_mutual_information_is_enumeration_by_hand(any_cpvae, observed_cpvae, generator):
    """Against log q(z,c) summed example by example, and never above log n."""
    terms = exact_terms(any_cpvae, observed_cpvae, generator)
    many = observed_cpvae.repeat(300, 1)  # the same empirical distribution, many draws
    split = kl_split(any_cpvae, many, exact_terms(any_cpvae, many, generator), generator)
    features, log_qc = any_cpvae.infer(observed_cpvae)
    total, n = 0.0, 4000
    with torch.no_grad():
        for i in range(8):
            c = torch.multinomial(log_qc[i].exp(), n, replacement=True, generator=generator)
            joint = torch.empty(n, 8)
            for k in range(4):
                posteriors = any_cpvae.posterior_given(observed_cpvae, k)
                mine = c == k
                normal = torch.randn(int(mine.sum()), 3, generator=generator)
                z = posteriors.mean[i] + torch.exp(0.5 * posteriors.logvar[i]) * normal
                for j in range(8):
                    q = torch.distributions.Normal(
                        posteriors.mean[j], torch.exp(0.5 * posteriors.logvar[j])
                    )
                    joint[mine, j] = q.log_prob(z).sum(-1) + log_qc[j, k]
            total += (joint[:, i] - log_mean_exp(joint, 1)).mean().item() / 8
    assert split["mutual_information_nats"] == pytest.approx(total, abs=0.08)
    assert split["mutual_information_nats"] <= math.log(8) + 1e-3
    assert terms.kl_c.shape == (8,)


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

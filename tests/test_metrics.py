import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import norm

from cpvae.evaluation.metrics import MEANING, cluster_scores, evaluate, kl_split, log_likelihood
from cpvae.models.inference import components_used, exact_terms, sampled_terms


def test_all_keys_are_there_and_finite(any_model, generator):
    x = torch.rand(30, *any_model.shape, generator=generator)
    labels = np.arange(30) % 3
    result = evaluate(any_model, x, labels, n_samples=20)
    assert all(math.isfinite(value) for value in result.values())
    assert set(result) - {"n_examples", "n_components", "importance_samples"} <= set(MEANING)
    kl = result["kl_z_nats"] + result.get("kl_c_nats", 0.0)  # without c there is no KL(c)
    bound = result["reconstruction_nats"] - kl
    assert result["elbo_exact_nats"] == pytest.approx(bound, rel=1e-4, abs=1e-3)
    assert result["log_likelihood_nats"] > result["elbo_exact_nats"] - 0.5
    clustered = {"accuracy", "purity", "nmi", "ari"} & set(result)
    assert len(clustered) == (4 if result["n_components"] > 1 else 0)
    assert "accuracy" not in evaluate(any_model, x, n_samples=2)
    assert result == evaluate(any_model, x, labels, n_samples=20)


def test_likelihood_does_not_depend_on_the_chunks(any_model, observed, monkeypatch):
    """Equal in the mean: chunks draw other noise, so many samples are compared."""
    whole = log_likelihood(any_model, observed, 3000, torch.Generator().manual_seed(0))
    monkeypatch.setattr(type(any_model), "rows_at_once", lambda model: 700)
    chunked = log_likelihood(any_model, observed, 3000, torch.Generator().manual_seed(0))
    assert whole == pytest.approx(chunked, abs=0.2, rel=0.02)


def test_likelihood_with_rounded_products_is_close_and_leaves_the_model(any_model, observed):
    """Same noise; then the model takes products in single precision again."""
    seeded = [torch.Generator().manual_seed(0) for _ in range(3)]
    before = log_likelihood(any_model, observed, 200, seeded[0])
    rounded = log_likelihood(any_model, observed, 200, seeded[1], precision="bfloat16")
    assert rounded != before
    assert rounded == pytest.approx(before, rel=0.02)
    assert log_likelihood(any_model, observed, 200, seeded[2]) == before


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

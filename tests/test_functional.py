import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from cpvae.models.functional import (
    Gaussian,
    Mixture,
    categorical_kl,
    component_kl,
    component_log_prob,
    gaussian_kl,
    gumbel,
    log_mean_exp,
    mixture_log_prob,
)

B, K, D = 5, 7, 4


def a_mixture(full: bool) -> tuple[Mixture, MultivariateNormal]:
    torch.manual_seed(0)
    mean, logvar = 3 * torch.randn(K, D) + 20, torch.randn(K, D)
    unit = torch.tril(torch.randn(K, D, D), -1) + torch.eye(D) if full else None
    scale = torch.diag_embed(torch.exp(0.5 * logvar))
    tril = unit @ scale if unit is not None else scale
    return Mixture(torch.zeros(K), mean, logvar, unit), MultivariateNormal(mean, scale_tril=tril)


@pytest.mark.parametrize("full", [False, True])
def test_density_of_each_component_is_torch_distributions(full):
    mixture, oracle = a_mixture(full)
    z = torch.randn(B, D) + 20
    torch.testing.assert_close(
        component_log_prob(z, mixture), oracle.log_prob(z.unsqueeze(1)), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("full", [False, True])
def test_kl_to_each_component_is_torch_distributions(full):
    mixture, oracle = a_mixture(full)
    q = Gaussian(torch.randn(B, D) + 20, torch.randn(B, D))
    expected = torch.stack(
        [
            kl_divergence(
                MultivariateNormal(q.mean[i], scale_tril=torch.diag(torch.exp(0.5 * q.logvar[i]))),
                oracle,
            )
            for i in range(B)
        ]
    )
    torch.testing.assert_close(component_kl(q, mixture), expected, rtol=1e-4, atol=1e-3)


def test_kl_of_a_component_from_itself_is_zero():
    mixture, _ = a_mixture(full=False)
    kl = component_kl(Gaussian(mixture.mean, mixture.logvar), mixture)
    torch.testing.assert_close(kl.diagonal(), torch.zeros(K), atol=1e-3, rtol=0)


@pytest.mark.parametrize("full", [False, True])
def test_samples_of_a_component_have_the_moments_that_the_density_states(full, generator):
    mixture, oracle = a_mixture(full)
    n = 200_000
    component = torch.full((n,), 3)
    z = mixture.sample(component, torch.randn(n, D, generator=generator))
    torch.testing.assert_close(z.mean(0), oracle.mean[3], atol=0.05, rtol=0)
    torch.testing.assert_close(z.T.cov(), oracle.covariance_matrix[3], atol=0.25, rtol=0.03)


@pytest.mark.parametrize("full", [False, True])
def test_density_and_responsibilities_of_an_uneven_mixture_are_torch_distributions(full):
    mixture, components = a_mixture(full)
    mixture = mixture._replace(logits=torch.linspace(-2, 3, K))
    weights = Categorical(logits=mixture.logits)
    z = torch.randn(B, D) + 20
    log_pz, log_responsibilities = mixture_log_prob(z, mixture)
    expected = MixtureSameFamily(weights, components).log_prob(z)
    torch.testing.assert_close(log_pz, expected, rtol=1e-4, atol=1e-3)
    by_bayes = (components.log_prob(z.unsqueeze(1)) + weights.logits).log_softmax(1)
    torch.testing.assert_close(log_responsibilities, by_bayes, rtol=1e-4, atol=1e-3)


def test_kl_between_gaussians_is_torch_distributions():
    q, p = Gaussian(*torch.randn(2, B, D)), Gaussian(*torch.randn(2, B, D))
    oracles = [Normal(g.mean, torch.exp(0.5 * g.logvar)) for g in (q, p)]
    torch.testing.assert_close(gaussian_kl(q, p), kl_divergence(*oracles).sum(-1))


def test_one_dimensional_density_integrates_to_one():
    mixture = Mixture(torch.zeros(2), torch.tensor([[-1.0], [2.0]]), torch.tensor([[0.3], [-1.0]]))
    z = torch.linspace(-20, 20, 20_001).unsqueeze(1)
    integral = component_log_prob(z, mixture).exp().sum(0) * 40 / 20_000
    torch.testing.assert_close(integral, torch.ones(2), atol=1e-4, rtol=0)


def test_gaussian_log_prob_and_sample(generator):
    q = Gaussian(torch.randn(B, D), torch.randn(B, D))
    normal = Normal(q.mean, torch.exp(0.5 * q.logvar))
    z = torch.randn(B, D)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z).sum(-1))
    torch.testing.assert_close(q.sample(torch.ones(B, D)), normal.mean + normal.stddev)


def test_categorical_kl_is_torch_distributions():
    log_q, log_p = torch.randn(B, K).log_softmax(-1), torch.randn(K).log_softmax(-1)
    expected = kl_divergence(Categorical(logits=log_q), Categorical(logits=log_p))
    torch.testing.assert_close(categorical_kl(log_q, log_p), expected)


def test_gumbel_is_finite_at_both_ends_and_has_the_right_mean(generator):
    assert gumbel(torch.tensor([0.0, 1.0])).isfinite().all()
    noise = gumbel(torch.rand(200_000, generator=generator))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_log_mean_exp_does_not_overflow():
    assert log_mean_exp(torch.tensor([1000.0, 1000.0]), 0).item() == pytest.approx(1000)
    x = torch.randn(6, 2)
    for dim in (0, 1):
        torch.testing.assert_close(log_mean_exp(x, dim), x.exp().mean(dim).log())

"""The contract that every model keeps, and the bound against its oracles."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from cpvae.choices import EXPECTATIONS, SYSTEMS
from cpvae.models.base import Noise, draw_noise
from cpvae.models.build import MODELS, build
from cpvae.models.functional import Gaussian, component_kl, log_mean_exp


@pytest.mark.parametrize("expectation", EXPECTATIONS)
def test_every_parameter_is_named_and_gets_a_finite_gradient(
    any_model, observed, generator, expectation
):
    terms = any_model.terms(observed, draw_noise(any_model, 8, generator), 0.7, expectation)
    assert all(t.shape == (8,) and t.isfinite().all() for t in terms[:3])
    terms.elbo().mean().backward()
    for name, parameter in any_model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_prior_is_learned_and_saved(any_cpvae):
    assert {"prior.mean", "prior.logvar"} <= {name for name, _ in any_cpvae.named_parameters()}
    assert {"prior.mean", "prior.logvar", "aggregated"} <= set(any_cpvae.state_dict())


def test_state_dict_round_trip_gives_equal_outputs(
    any_cpvae, cpvae_config, observed_cpvae, generator
):
    other = build(n_components=4, latent_dim=3, hidden=(16, 16), **{**cpvae_config, "seed": 9})
    other.load_state_dict(any_cpvae.state_dict())
    normal = torch.randn(8, 3, generator=generator)
    torch.testing.assert_close(
        other.exact_terms(observed_cpvae, normal), any_cpvae.exact_terms(observed_cpvae, normal)
    )


def test_exact_is_enumeration_by_hand(any_cpvae, observed_cpvae, generator, monkeypatch):
    noise = draw_noise(any_cpvae, 8, generator)
    features, log_qc = any_cpvae.infer(observed_cpvae)
    log_px, kl_z = torch.zeros(8), torch.zeros(8)
    each = any_cpvae.given_each(observed_cpvae, noise.normal)
    for k in range(4):
        c = F.one_hot(torch.full((8,), k), 4).float()
        q = any_cpvae.encode(features, log_qc.exp() if any_cpvae.gate == "probabilities" else c)
        params = any_cpvae.decode(q.mean + torch.exp(0.5 * q.logvar) * noise.normal, c)
        log_px_k = any_cpvae.likelihood.log_prob(observed_cpvae, params)
        kl_k = component_kl(q, any_cpvae.prior())[:, k]
        log_px += log_qc[:, k].exp() * log_px_k
        kl_z += log_qc[:, k].exp() * kl_k
        torch.testing.assert_close(each[:, k], log_px_k - kl_k, atol=1e-4, rtol=1e-5)
    exact = any_cpvae.terms(observed_cpvae, noise, expectation="exact")
    torch.testing.assert_close(exact.log_px, log_px)
    torch.testing.assert_close(exact.kl_z, kl_z)
    p_c = Categorical(logits=any_cpvae.mixture().logits)
    torch.testing.assert_close(exact.kl_c, kl_divergence(Categorical(logits=log_qc), p_c))
    for rows in (1000, 5):  # 32 pairs of example and category at once, or five
        monkeypatch.setattr(any_cpvae, "rows_at_once", lambda rows=rows: rows)
        sparse = any_cpvae.exact_terms(observed_cpvae, noise.normal)
        torch.testing.assert_close(sparse[:3], exact[:3], atol=1e-4, rtol=1e-5)
    if any_cpvae.gate == "probabilities":  # then KL(z) has no noise from c
        one = any_cpvae.terms(observed_cpvae, noise, 0.5, "straight_through")
        torch.testing.assert_close(one.kl_z, exact.kl_z)


def test_straight_through_is_an_unbiased_estimate_of_the_exact_bound(
    any_cpvae, observed_cpvae, generator
):
    n = 4000
    one = observed_cpvae[:1].repeat(n, 1)
    noise = draw_noise(any_cpvae, n, generator)
    with torch.no_grad():
        exact = any_cpvae.terms(one, noise, expectation="exact").elbo()
        sampled = any_cpvae.terms(one, noise, 0.5, "straight_through").elbo()
    difference = sampled - exact
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(n)


def test_straight_through_decodes_one_hot_categories(any_cpvae, observed_cpvae, generator):
    seen = []
    any_cpvae.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -4:]))
    noise = draw_noise(any_cpvae, 8, generator)
    any_cpvae.terms(observed_cpvae, noise, 0.5, "straight_through")
    any_cpvae.terms(observed_cpvae, noise, 0.5, "relaxed")
    one_hot, relaxed = seen
    torch.testing.assert_close(one_hot.max(1).values, torch.ones(8))
    assert (relaxed.max(1).values < 0.9999).any()


def test_importance_weights_average_to_the_bound_and_rise_above_it(any_model, observed, generator):
    x = observed[:2]
    log_w = any_model.log_weights(x, 5_000, generator)
    normal = torch.randn(5_000, any_model.normal_dim, generator=generator)
    for i in range(2):
        bound = any_model.exact_terms(x[i : i + 1].repeat(5_000, 1), normal).elbo()
        error = 5 * math.sqrt((log_w[:, i].var() + bound.var()) / 5_000)
        assert abs(log_w[:, i].mean() - bound.mean()) < error
    by_samples = [log_mean_exp(log_w.view(s, -1, 2), 0).mean() for s in (1, 5, 50, 500)]
    assert by_samples == sorted(by_samples)
    assert by_samples[-1] > by_samples[0]


def test_log_likelihood_of_a_linear_gaussian_model_is_known(generator):
    """With x | z Gaussian and a linear decoder, log p(x) is a mixture of two Gaussian densities."""
    config = {"shape": (2,), "likelihood": "gaussian", "mixing_weights": "learned"}
    model = build(**config, n_components=2, latent_dim=1, noise_scale=0.5)
    weight = torch.tensor([[1.0], [-0.5]])

    def decode(z, c):
        return z @ weight.T + c @ torch.tensor([[0.0, 0.0], [2.0, 1.0]])

    model.decode = decode
    with torch.no_grad():
        model.prior.mean.copy_(torch.tensor([[-1.0], [1.0]]))
        model.prior.logits.copy_(torch.tensor([3 * 0.8, 3 * 0.2]).log())
    x = torch.tensor([[0.5, 0.5], [3.0, 0.2]])
    covariance = weight @ weight.T + 0.25 * torch.eye(2)
    means = torch.tensor([[-1.0, 0.5], [3.0, 0.5]])  # decoder at the prior mean of each component
    components = torch.distributions.MultivariateNormal(means, covariance)
    expected = (components.log_prob(x.unsqueeze(1)).exp() @ torch.tensor([0.8, 0.2])).log()
    estimate = log_mean_exp(model.log_weights(model.likelihood.observe(x), 200_000, generator), 0)
    torch.testing.assert_close(estimate, expected, atol=0.03, rtol=0)


def test_state_dict_round_trip_of_any_model(any_model, observed, generator):
    other = copy.deepcopy(any_model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(any_model.state_dict())
    normal = torch.randn(8, any_model.normal_dim, generator=generator)
    torch.testing.assert_close(
        other.exact_terms(observed, normal), any_model.exact_terms(observed, normal)
    )


@pytest.mark.parametrize("name", ["mog", "vamp"])
def test_kl_of_a_mixture_prior_averages_to_an_integral(name, generator):
    """One dimension, so that KL(q || p) can be integrated on a grid."""
    model = build(name, shape=(2,), n_components=3, latent_dim=1, hidden=(8, 8), seed=4)
    x = torch.tensor([[1.0, 0.0]])
    n = 100_000
    noise = Noise(torch.randn(n, 1, generator=generator), torch.empty(n, 0))
    with torch.no_grad():
        kl = model.terms(x.repeat(n, 1), noise).kl_z
        q, mixture = model.encode(x), model.prior(model.encode)
        z = torch.linspace(-12, 12, 20_001).unsqueeze(1)
        log_q = q.log_prob(z)
        each = Normal(mixture.mean[:, 0], torch.exp(0.5 * mixture.logvar[:, 0])).log_prob(z)
        log_p = log_mean_exp(each, 1)
        integral = torch.trapezoid(log_q.exp() * (log_q - log_p), z[:, 0])
    assert abs(kl.mean() - integral) < 5 * kl.std() / math.sqrt(n)


def test_hierarchical_bound_is_that_of_the_two_densities(generator):
    """log p(x, z1, z2) - log q(z1, z2 | x) written out with torch.distributions."""
    model = build("hvae", shape=(6,), latent_dim=2, hidden=(8, 8), seed=3)
    x = torch.randint(2, (1, 6), generator=generator).float()
    n = 50_000
    with torch.no_grad():
        terms = model.terms(
            x.repeat(n, 1), Noise(torch.randn(n, 4, generator=generator), torch.empty(n, 0))
        )
        q2 = Normal(*_mean_std(model.encode(x)))
        z2 = q2.sample((n,)).squeeze(1)
        q1 = Normal(*_mean_std(model.encode_lower(model.trunk1(x).repeat(n, 1), z2)))
        z1 = q1.sample()
        p1 = Normal(*_mean_std(model.lower_prior(z2)))
        log_p = Normal(0.0, 1.0).log_prob(z2).sum(1) + p1.log_prob(z1).sum(1)
        log_p += model.likelihood.log_prob(x, model.decode(z2, z1))
        weights = log_p - q2.log_prob(z2).sum(1) - q1.log_prob(z1).sum(1)
    error = 5 * math.sqrt((weights.var() + terms.elbo().var()) / n)
    assert abs(weights.mean() - terms.elbo().mean()) < error


def _mean_std(gaussian):
    return gaussian.mean, torch.exp(0.5 * gaussian.logvar)


@pytest.mark.parametrize("name", ["vamp", "hvamp"])
def test_pseudo_inputs_start_at_examples_and_all_components_are_drawn_at_random(name, generator):
    model = build(name, shape=(6,), n_components=5, latent_dim=2, hidden=(8, 8))
    x = torch.randint(2, (40, 6), generator=generator).float()
    model.prior.start_from(x, generator)
    nearest = torch.cdist(model.prior.pseudo_inputs.detach(), x).min(1)
    assert nearest.values.max() < 0.1
    assert nearest.indices.max() >= 5  # not the first ones
    assert not model.prior.starts_from_data
    starts = []
    for _ in range(2):
        model.prior.start_from(x, torch.Generator().manual_seed(7))
        starts.append(model.prior.pseudo_inputs.detach().clone())
    assert torch.equal(*starts)
    _, drawn = model.sample(500, generator=generator)
    assert drawn[:20].tolist() != sorted(drawn[:20].tolist())
    assert torch.bincount(drawn, minlength=5).min() > 60


def test_pseudo_inputs_may_start_at_random():
    prior = build("vamp", shape=(6,), n_components=5, pseudo_inputs="random").prior
    assert not prior.starts_from_data
    assert 0 <= prior.pseudo_inputs.min() < prior.pseudo_inputs.max() <= 1
    with torch.no_grad():
        prior.pseudo_inputs.copy_(torch.linspace(-1, 2, 30).view(5, 6))
    mixture = prior(lambda inputs: Gaussian(inputs, -inputs))
    torch.testing.assert_close(mixture.mean, torch.linspace(-1, 2, 30).view(5, 6).clamp(0, 1))
    torch.testing.assert_close(mixture.logvar, -mixture.mean)
    with pytest.raises(ValueError, match="choose from data, random"):
        build("vamp", shape=(6,), pseudo_inputs="zeros")


def test_components_are_drawn_with_the_weights_of_the_prior_unless_the_model_has_a_c(generator):
    for name, expected in [("mog", 0.25), ("vamp", 0.25), ("cpvae", 0.0)]:
        model = build(name, shape=(6,), n_components=4, latent_dim=2, hidden=(8, 8))
        model.aggregated.copy_(torch.tensor([0.5, 0.5, 0.0, 0.0]))
        _, drawn = model.sample(2000, generator=generator)
        assert abs((drawn == 3).float().mean() - expected) < 0.04


def test_means_of_the_prior_start_with_the_spread_that_was_asked_for():
    mean = build(shape=(6,), n_components=200, prior_scale=0.3).prior.mean
    assert mean.std().item() == pytest.approx(0.3, rel=0.05)
    assert mean.mean().item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_merged_components_have_the_moments_of_their_mixture(covariance, build_small):
    """Sum of p (S + m m^T) less the square of the mean, as numpy has it."""
    prior = build_small({"shape": (6,), "covariance": covariance}).prior
    with torch.no_grad():
        prior.mean.mul_(20)
    share = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 1.0]])
    logits = torch.tensor([0.2, -0.4])

    def moments(mixture):
        scale = np.exp(0.5 * mixture.logvar.detach().double().numpy())
        tril = np.stack([np.eye(3)] * len(scale))
        if mixture.unit_tril is not None:
            tril = mixture.unit_tril.detach().double().numpy()
        return mixture.mean.detach().double().numpy(), tril * scale[:, None]

    mean, root = moments(prior())
    second = root @ root.transpose(0, 2, 1) + mean[:, :, None] * mean[:, None]
    expected = share.double().numpy() @ mean
    second = np.tensordot(share.double().numpy(), second, 1)
    covariances = second - expected[:, :, None] * expected[:, None]
    small = prior.merged(share, logits)
    found, root = moments(small())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if covariance == "diag":
        covariances = covariances * np.eye(3)
    np.testing.assert_allclose(root @ root.transpose(0, 2, 1), covariances, atol=1e-4, rtol=1e-4)
    assert (small.n_components, small.logits.tolist()) == (2, logits.tolist())


def test_a_setting_of_another_model_is_refused():
    with pytest.raises(ValueError, match="one of cpvae"):
        build("vae", shape=(6,), gate="category")
    with pytest.raises(ValueError, match="no setting of the model 'cpvae'"):
        build(shape=(6,), nonsense=1)


def test_component_samples_come_from_that_component(any_model, generator):
    last = any_model.n_components - 1
    x, component = any_model.sample(20, component=last, generator=generator)
    assert x.shape == (20, *any_model.shape)
    assert component.tolist() == [last] * 20


def test_codes_of_a_component_have_the_moments_of_its_prior(any_model, generator):
    last = any_model.n_components - 1
    with torch.no_grad():
        z = any_model.draw(torch.full((50_000,), last), generator)[0]
        prior = any_model.mixture()
    factor = torch.diag(torch.exp(0.5 * prior.logvar[last]))
    if prior.unit_tril is not None:
        factor = prior.unit_tril[last] @ factor
    torch.testing.assert_close(z.mean(0), prior.mean[last], atol=0.05, rtol=0)
    torch.testing.assert_close(z.T.cov(), factor @ factor.T, atol=0.05, rtol=0.05)


def test_each_example_is_drawn_from_its_own_component(any_cpvae, generator):
    component = torch.tensor([2, 0, 3, 3])
    with torch.no_grad():
        any_cpvae.prior.mean.copy_(100 * torch.arange(4.0).unsqueeze(1).expand(4, 3))
        z, c = any_cpvae.draw(component, generator)
    assert (z / 100).round().tolist() == [[k] * 3 for k in component.tolist()]
    assert c.argmax(1).tolist() == component.tolist()
    assert (c.sum(1) == 1).all()


def test_the_code_is_what_the_bound_decodes_without_noise(any_model, observed):
    normal, gumbel = (torch.zeros(8, n) for n in (any_model.normal_dim, any_model.gumbel_dim))
    terms = any_model.terms(observed, Noise(normal, gumbel), 0.5, "straight_through")
    code, log_qc = any_model.code(observed)
    log_px = any_model.likelihood.log_prob(observed, any_model.decode(*code))
    torch.testing.assert_close(log_px, terms.log_px)
    torch.testing.assert_close(log_qc, terms.log_qc)
    torch.testing.assert_close(any_model.log_qc(observed), log_qc)


def test_components_of_models_without_c_are_inferred_by_bayes(any_model, observed, generator):
    """Responsibilities at z, of the noise that was given; written out with torch.distributions."""
    if any_model.has_categories:
        pytest.skip("it has a q(c|x)")
    noise = draw_noise(any_model, 8, generator)
    with torch.no_grad():
        mixture = any_model.mixture()
        mean, std = _mean_std(any_model.encode(any_model.likelihood.inputs(observed)))
        z = mean + std * noise.normal[:, :3]
        scale = torch.diag_embed(torch.exp(0.5 * mixture.logvar))
        tril = scale if mixture.unit_tril is None else mixture.unit_tril @ scale
        log_prob = MultivariateNormal(mixture.mean, scale_tril=tril).log_prob(z.unsqueeze(1))
        terms = any_model.terms(observed, noise)
    torch.testing.assert_close(terms.log_qc, log_prob.log_softmax(1), atol=1e-4, rtol=1e-4)


def test_what_users_ask_is_of_data_in_its_own_units(any_model, generator):
    x, _ = any_model.sample(6, generator=generator)
    again, _ = any_model.sample(6, generator=generator)
    assert not torch.equal(x, again)
    with torch.no_grad():
        observed = any_model.likelihood.observe(x.flatten(1))
        code, log_qc = any_model.code(observed)
        mean = any_model.likelihood.mean(any_model.decode(*code))
    torch.testing.assert_close(any_model.embed(x), code[0])
    torch.testing.assert_close(any_model.cluster_probs(x), log_qc.exp())
    torch.testing.assert_close(any_model.reconstruct(x).flatten(1), mean)


def test_a_mean_is_what_many_draws_from_the_same_codes_have(generator):
    """One component of next to no spread, so that all draws are of one code."""
    for likelihood in ("bernoulli", "gaussian"):
        model = build(shape=(6,), likelihood=likelihood, n_components=3, latent_dim=2, seed=2)
        with torch.no_grad():
            model.prior.logvar.fill_(-30)
        mean, component = model.sample(5, component=0, mean=True, generator=generator)
        assert component.tolist() == [0] * 5
        torch.testing.assert_close(mean, mean[:1].expand(5, 6), atol=1e-4, rtol=0)
        drawn, component = model.sample(20_000, component=0, generator=generator)
        assert not component.any()
        torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.04, rtol=0)
        variance = mean[0] * (1 - mean[0]) if likelihood == "bernoulli" else torch.ones(6)
        torch.testing.assert_close(drawn.var(0), variance, atol=0.04, rtol=0)


def test_noise_is_standard_normal_and_gumbel(generator):
    normal, gumbel = draw_noise(build(shape=(6,), latent_dim=5), 20_000, generator)
    for noise, mean, variance in ((normal, 0.0, 1.0), (gumbel, 0.5772, math.pi**2 / 6)):
        assert noise.mean().item() == pytest.approx(mean, abs=0.02)
        assert noise.var().item() == pytest.approx(variance, abs=0.05)


def test_a_gate_with_no_weights_leaves_the_features_as_they_are(generator):
    model = build(shape=(6,), n_components=4, latent_dim=3, hidden=(8, 8))
    features, gate = torch.randn(5, 8, generator=generator), torch.eye(4)[[0, 1, 2, 3, 0]]
    with torch.no_grad():
        model.posterior_gate.weight.zero_()
        q = model.encode(features, gate)
        mean, logvar = model.posterior(torch.cat([features, gate], 1)).split(3, 1)
    torch.testing.assert_close((q.mean, q.logvar), (mean, logvar))


def test_components_are_drawn_from_the_aggregated_posterior_or_the_uniform(any_cpvae, generator):
    any_cpvae.aggregated.copy_(torch.tensor([0.7, 0.0, 0.3, 0.0]))
    _, drawn = any_cpvae.sample(4000, generator=generator)
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, any_cpvae.aggregated, atol=0.04, rtol=0)
    _, drawn = any_cpvae.sample(4000, from_="uniform", generator=generator)
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.04, rtol=0)


def test_sampling_does_not_touch_the_global_generator(any_model):
    before = torch.random.get_rng_state()
    any_model.sample(3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least one"),
        ({"n": 1, "component": 4}, "from 0 to 3"),
        ({"n": 1, "component": -1}, "from 0 to 3"),
        ({"n": 1, "from_": "prior"}, "choose from aggregated, uniform"),
    ],
)
def test_sample_refuses(any_cpvae, arguments, message):
    with pytest.raises(ValueError, match=message):
        any_cpvae.sample(**arguments)


def test_users_verbs_have_the_shapes_they_state(any_model, generator):
    x = torch.rand(5, *any_model.shape, generator=generator)
    probs = any_model.cluster_probs(x)
    torch.testing.assert_close(probs.sum(1), torch.ones(5))
    assert probs.shape == (5, any_model.n_components)
    assert any_model.embed(x).shape == (5, 3)
    assert any_model.reconstruct(x).shape == x.shape


def test_one_component_is_a_vae_with_one_learned_gaussian_prior(generator):
    """K = 1 is eq. 15: no KL of c, and the KL to a single Gaussian."""
    model = build(shape=(6,), n_components=1, latent_dim=3, hidden=(8, 8))
    x = torch.randint(2, (8, 6), generator=generator).float()
    terms = model.exact_terms(x, torch.randn(8, 3, generator=generator))
    features, log_qc = model.infer(x)
    q = model.encode(features, log_qc.exp())
    prior = Normal(model.prior.mean[0], torch.exp(0.5 * model.prior.logvar[0]))
    posterior = Normal(q.mean, torch.exp(0.5 * q.logvar))
    torch.testing.assert_close(terms.kl_c, torch.zeros(8))
    torch.testing.assert_close(
        terms.kl_z, torch.distributions.kl_divergence(posterior, prior).sum(-1)
    )


def test_build_refuses_unknown_names_and_is_seeded():
    with pytest.raises(ValueError, match="choose from cpvae, residual, vae, mog"):
        build("nonsense", shape=(3,))
    with pytest.raises(ValueError, match="bernoulli, gaussian"):
        build(shape=(3,), likelihood="poisson")
    before = torch.random.get_rng_state()
    one, same, other = (build(shape=(3,), seed=s).prior.mean for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())
    assert set(MODELS) == set(SYSTEMS)


def test_the_contract_runs_on_every_model(configurations):
    assert {config.get("model", "cpvae") for config in configurations} == set(SYSTEMS) - {
        "residual"  # its contract is in test_residual.py
    }


def test_weights_start_from_glorot_gate_by_gate():
    layer = build(shape=(784,), hidden=(300, 300)).trunk.layers[0].layer
    bound = math.sqrt(6 / (784 + 300))
    for half in layer.weight.chunk(2):
        assert half.abs().max() <= bound
        assert half.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not layer.bias.any()


def test_missing_values_leave_bounds_and_gradients_finite(any_model, observed, generator):
    if not any_model.likelihood.takes_missing:
        pytest.skip("pixels that are drawn as zeros and ones are never missing")
    x = observed.clone()
    x[::2, :5] = torch.nan  # of every kind of column there is
    noise = draw_noise(any_model, len(x), generator)
    for expectation in ("relaxed", "straight_through", "exact"):
        terms = any_model.terms(x, noise, 0.5, expectation)
        any_model.zero_grad()
        terms.elbo().sum().backward()
        assert all(
            torch.isfinite(p.grad).all() for p in any_model.parameters() if p.grad is not None
        )
        whole = any_model.terms(observed, noise, 0.5, expectation)
        for with_missing, complete in zip(terms, whole, strict=True):  # rows do not meet
            torch.testing.assert_close(with_missing[1::2], complete[1::2])
        assert (terms.log_px[::2] != whole.log_px[::2]).all()
    weights = any_model.log_weights(x, 5, generator)
    assert torch.isfinite(weights).all()

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from cpvae.likelihoods import BernoulliLikelihood, GaussianLikelihood


def test_bernoulli_is_torch_distributions():
    logits, x = 5 * torch.randn(4, 6), torch.randint(2, (4, 6)).float()
    expected = Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(BernoulliLikelihood().log_prob(x, logits), expected)


def test_binarisation_is_anew_each_time_has_the_right_mean_and_keeps_zero_and_one(generator):
    p_x = BernoulliLikelihood()
    x = torch.tensor([0.0, 0.3, 1.0]).repeat(100_000, 1)
    drawn = p_x.observe(x, generator)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), x[0], atol=0.01, rtol=0)
    assert not torch.equal(drawn, p_x.observe(x, generator))
    assert p_x.observe(x) is x


def test_stored_grey_values_are_drawn_with_their_probability_to_16_bits(generator):
    p_x = BernoulliLikelihood()
    x = torch.tensor([[0.0, 1e-4, 0.25, 15 / 16, 254 / 255, 1.0]])
    stored = p_x.store(x)
    torch.testing.assert_close(p_x.restore(stored), x, atol=2**-16, rtol=0)
    noise = torch.arange(-(2**15), 2**15 - 1, dtype=torch.int16).unsqueeze(1).expand(-1, 6)
    chance = p_x.draw(stored.expand_as(noise), noise).double().mean(0)  # over every noise there is
    torch.testing.assert_close(chance, x[0].double(), atol=3e-5, rtol=0)
    assert chance[0] == 0
    assert chance[-1] == 1
    drawn = p_x.noise((1000, 7), generator)
    assert drawn.dtype == torch.int16
    assert drawn.max() < 2**15 - 1
    assert drawn.double().mean().abs() < 700  # 2**15 / sqrt(3 * 7000), three times over


def gaussian(noise_scale: float | None) -> GaussianLikelihood:
    return GaussianLikelihood(torch.tensor([1.0, -50.0]), torch.tensor([0.5, 20.0]), noise_scale)


@pytest.mark.parametrize("noise_scale", [None, 0.7])
def test_gaussian_is_the_density_of_the_data_in_its_own_units(noise_scale):
    p_x = gaussian(noise_scale)
    x, params = torch.tensor([[1.2, -40.0]]), torch.tensor([[0.3, -0.1]])
    mean = p_x.loc + p_x.scale * params
    std = p_x.scale * p_x.noise_var().sqrt()
    if noise_scale:
        torch.testing.assert_close(std, torch.full((2,), noise_scale))
    expected = Normal(mean, std).log_prob(x).sum(-1)
    torch.testing.assert_close(p_x.log_prob(p_x.observe(x), params), expected)
    torch.testing.assert_close(p_x.mean(params), mean)


def test_gaussian_samples_have_the_stated_noise(generator):
    p_x = gaussian(0.7)
    x = p_x.sample(torch.zeros(100_000, 2), generator)
    torch.testing.assert_close(x.mean(0), p_x.loc, atol=0.02, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.7), atol=0.01, rtol=0)


def test_noise_is_learned_above_a_floor_or_fixed():
    learned, fixed = gaussian(None), gaussian(0.7)
    assert [name for name, _ in learned.named_parameters()] == ["log_noise"]
    assert not list(fixed.parameters())
    assert "log_noise" in fixed.state_dict()
    with torch.no_grad():
        learned.log_noise.fill_(-100)
    torch.testing.assert_close(learned.noise_var(), torch.full((2,), 0.05**2))


def test_missing_values_are_left_out_of_the_density(generator):
    loc, scale = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2.0, 0.5, 1.0])
    whole = GaussianLikelihood(loc, scale)
    part = GaussianLikelihood(loc[[0, 2]], scale[[0, 2]])
    x = torch.randn(7, 3, generator=generator)
    params = torch.randn(7, 3, generator=generator, requires_grad=True)
    gone = x.clone()
    gone[:, 1] = math.nan
    seen = whole.observe(gone)
    torch.testing.assert_close(
        whole.log_prob(seen, params), part.log_prob(part.observe(x[:, [0, 2]]), params[:, [0, 2]])
    )
    whole.log_prob(seen, params).sum().backward()
    assert torch.isfinite(params.grad).all()
    assert (params.grad[:, 1] == 0).all()
    assert torch.isfinite(whole.log_noise.grad).all()
    assert whole.log_noise.grad[1] == 0
    torch.testing.assert_close(whole.filled(seen)[:, 1], torch.zeros(7))
    nothing = torch.full((2, 3), math.nan)
    torch.testing.assert_close(whole.log_prob(nothing, params[:2]), torch.zeros(2))

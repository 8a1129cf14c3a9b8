import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, NegativeBinomial, Normal

from cpvae.data.kinds import RULES
from cpvae.models import likelihoods
from cpvae.models.heads import HEADS
from cpvae.models.likelihoods import Likelihood


def test_bernoulli_is_torch_distributions():
    logits, x = 5 * torch.randn(4, 6), torch.randint(2, (4, 6)).float()
    expected = Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihoods.bernoulli(6).log_prob(x, logits), expected)


def test_binarisation_is_anew_each_time_has_the_right_mean_and_keeps_zero_and_one(generator):
    p_x = likelihoods.bernoulli(3)
    x = torch.tensor([0.0, 0.3, 1.0]).repeat(100_000, 1)
    drawn = p_x.observe(x, generator)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), x[0], atol=0.01, rtol=0)
    assert not torch.equal(drawn, p_x.observe(x, generator))
    assert p_x.observe(x) is x


def test_stored_grey_values_are_drawn_with_their_probability_to_16_bits(generator):
    p_x = likelihoods.bernoulli(6)
    x = torch.tensor([[0.0, 1e-4, 0.25, 15 / 16, 254 / 255, 1.0]])
    stored = p_x.store(x)
    torch.testing.assert_close(p_x.restore(stored), x, atol=2**-16, rtol=0)
    noise = torch.arange(-(2**15), 2**15 - 1, dtype=torch.int16).unsqueeze(1).expand(-1, 6)
    chance = p_x.draw(stored.expand_as(noise), noise).double().mean(0)  # over every noise there is
    torch.testing.assert_close(chance, x[0].double(), atol=3e-5, rtol=0)
    assert chance[0] == 0
    assert chance[-1] == 1
    drawn = p_x.noise((10_000, 70), generator)  # each level ten times, but for the greatest
    assert drawn.dtype == torch.int16
    assert (drawn.min(), drawn.max()) == (-(2**15), 2**15 - 2)
    assert drawn.double().mean().abs() < 70  # 2**15 / sqrt(3 * 700_000), three times over


def gaussian(noise_scale: float | None) -> Likelihood:
    return likelihoods.gaussian(torch.tensor([1.0, -50.0]), torch.tensor([0.5, 20.0]), noise_scale)


@pytest.mark.parametrize("noise_scale", [None, 0.7])
def test_gaussian_is_the_density_of_the_data_in_its_own_units(noise_scale):
    p_x = gaussian(noise_scale)
    x, params = torch.tensor([[1.2, -40.0]]), torch.tensor([[0.3, -0.1]])
    (head,) = p_x.heads
    mean = head.loc + head.scale * params
    std = head.scale * head.noise_var().sqrt()
    if noise_scale:
        torch.testing.assert_close(std, torch.full((2,), noise_scale))
    expected = Normal(mean, std).log_prob(x).sum(-1)
    torch.testing.assert_close(p_x.log_prob(p_x.observe(x), params), expected)
    torch.testing.assert_close(p_x.mean(params), mean)


def test_gaussian_samples_have_the_stated_noise(generator):
    p_x = gaussian(0.7)
    x = p_x.sample(torch.zeros(100_000, 2), generator)
    torch.testing.assert_close(x.mean(0), p_x.heads[0].loc, atol=0.02, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.7), atol=0.01, rtol=0)


def test_noise_is_learned_above_a_floor_or_fixed():
    learned, fixed = gaussian(None), gaussian(0.7)
    assert [name for name, _ in learned.named_parameters()] == ["heads.0.log_noise"]
    assert not list(fixed.parameters())
    assert "heads.0.log_noise" in fixed.state_dict()
    with torch.no_grad():
        learned.heads[0].log_noise.fill_(-100)
    torch.testing.assert_close(learned.heads[0].noise_var(), torch.full((2,), 0.05**2))


def test_missing_values_are_left_out_of_the_density(generator):
    loc, scale = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2.0, 0.5, 1.0])
    whole = likelihoods.gaussian(loc, scale)
    part = likelihoods.gaussian(loc[[0, 2]], scale[[0, 2]])
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
    assert torch.isfinite(whole.heads[0].log_noise.grad).all()
    assert whole.heads[0].log_noise.grad[1] == 0
    torch.testing.assert_close(whole.inputs(seen)[:, 1], torch.zeros(7))
    nothing = torch.full((2, 3), math.nan)
    torch.testing.assert_close(whole.log_prob(nothing, params[:2]), torch.zeros(2))


def mixed() -> Likelihood:
    """A count, a Gaussian, one of three categories, a binary and one of two categories."""
    kinds = ("count", "gaussian", "categorical", "binary", "categorical")
    loc = torch.tensor([1.5, 4.0, 0.0, 0.0, 0.0])
    scale = torch.tensor([0.5, 3.0, 1.0, 1.0, 1.0])
    likelihood = likelihoods.mixed(kinds, (0, 0, 3, 0, 2), loc, scale)
    with torch.no_grad():
        likelihood.heads[0].log_noise.fill_(-0.4)
        likelihood.heads[2].log_dispersion.fill_(0.7)
    return likelihood


TABLE = [[3.0, 5.5, 2.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0, 1.0], [12.0, 4.0, 1.0, 1.0, 1.0]]


def test_mixed_is_torch_distributions_column_by_column(generator):
    likelihood, x = mixed(), torch.tensor(TABLE)
    params = torch.randn(3, 8, generator=generator)
    noise = 3 * math.sqrt(0.05**2 + math.exp(-0.4))
    mean = torch.exp(1.5 + 0.5 * params[:, 2])
    r = math.exp(0.7)
    expected = (
        Normal(4 + 3 * params[:, 0], noise).log_prob(x[:, 1])
        + Bernoulli(logits=params[:, 1]).log_prob(x[:, 3])
        + NegativeBinomial(r, probs=mean / (mean + r)).log_prob(x[:, 0])
        + Categorical(logits=params[:, 3:6]).log_prob(x[:, 2])
        + Categorical(logits=params[:, 6:8]).log_prob(x[:, 4])
    )
    seen = likelihood.observe(x)
    torch.testing.assert_close(likelihood.log_prob(seen, params), expected)
    assert likelihood.inputs_shape((5,)) == likelihood.params_shape((5,)) == (8,)
    inputs = likelihood.inputs(seen)
    torch.testing.assert_close(inputs[:, 0], (x[:, 1] - 4) / 3)
    torch.testing.assert_close(inputs[:, 2], (torch.log1p(x[:, 0]) - 1.5) / 0.5)
    assert inputs[:, 3:].tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1], [0, 1, 0, 0, 1]]


def test_missing_values_of_mixed_columns_are_left_out(generator):
    likelihood = mixed()
    x = likelihood.observe(torch.tensor(TABLE))
    params = torch.randn(3, 8, generator=generator, requires_grad=True)
    whole = likelihood.log_prob(x, params)
    total = torch.zeros(3)
    for column in range(5):
        alone = torch.full_like(x, math.nan)
        alone[:, column] = x[:, column]
        part = likelihood.log_prob(alone, params)
        total = total + part
        (gradient,) = torch.autograd.grad(part.sum(), params)
        assert torch.isfinite(gradient).all()
        assert int((gradient != 0).any(0).sum()) == (1, 1, 3, 1, 2)[column]
    torch.testing.assert_close(total, whole)
    nothing = torch.full((3, 5), math.nan)
    torch.testing.assert_close(likelihood.log_prob(nothing, params), torch.zeros(3))
    torch.testing.assert_close(likelihood.inputs(nothing), torch.zeros(3, 8))


def test_mixed_samples_have_the_moments_of_their_columns(generator):
    likelihood, n = mixed(), 200_000
    params = torch.tensor([0.3, -0.8, 0.6, 0.1, 1.2, -0.5, 2.0, 0.0]).repeat(n, 1)
    with torch.no_grad():
        x = likelihood.sample(params, generator)
        expected = likelihood.mean(params[:1])[0]
    assert expected[2] == 1  # the most probable of three
    assert expected[4] == 0
    mean, r = math.exp(1.5 + 0.5 * 0.6), math.exp(0.7)
    assert expected[0].item() == pytest.approx(mean)
    assert x[:, 0].mean().item() == pytest.approx(mean, rel=0.01)
    assert x[:, 0].var().item() == pytest.approx(mean + mean**2 / r, rel=0.03)
    assert x[:, 1].mean().item() == pytest.approx(4 + 3 * 0.3, rel=0.01)
    assert x[:, 1].std().item() == pytest.approx(3 * math.sqrt(0.05**2 + math.exp(-0.4)), rel=0.01)
    assert x[:, 3].mean().item() == pytest.approx(expected[3].item(), abs=0.01)
    for column, logits in ((2, params[0, 3:6]), (4, params[0, 6:8])):
        shares = torch.bincount(x[:, column].long()) / n
        torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)
    assert (x[:, 0] == x[:, 0].round()).all()


def test_a_mean_count_has_an_upper_limit():
    head = HEADS["count"](torch.tensor([1.0]), torch.tensor([2.0]), [])
    params = torch.tensor([[1e4]])
    assert head.mean(params).item() == pytest.approx(math.exp(15))
    assert head.log_prob(torch.tensor([[3.0]]), params).isfinite().all()


def test_kinds_of_mixed_columns_are_checked():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="kind='colour' is unknown: choose from gaussian, binary"):
        likelihoods.mixed(("colour",), (0,), one, one)
    with pytest.raises(ValueError, match="'categorical' cannot have 0 categories"):
        likelihoods.mixed(("categorical",), (0,), one, one)


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_keeps_the_contract(kind, generator):
    """Shapes, missing values left out, gradients, and draws that it could observe itself."""
    loc, scale = torch.tensor([0.5, 1.0, 0.8]), torch.tensor([2.0, 0.5, 1.0])
    head = HEADS[kind](loc, scale, [3, 2, 4])
    params = torch.randn(500, head.n_params, generator=generator, requires_grad=True)
    with torch.no_grad():
        x = head.sample(params, generator)
        assert head.mean(params).shape == x.shape == (500, 3)
        assert kind not in RULES or RULES[kind].fits(x.numpy()).all()
        observed = head.encode(x)
        torch.testing.assert_close(head.decode(observed), x)
        assert head.standardised(observed).shape == (500, head.n_inputs)
    whole = head.log_prob(observed, params)
    assert whole.shape == (500,)
    total, together = torch.zeros(500), torch.zeros(500)
    widths = (3, 2, 4) if head.n_levels else (1, 1, 1)
    for column, mine in enumerate(params.split(widths, 1)):
        one = slice(column, column + 1)
        single = HEADS[kind](loc[one], scale[one], [3, 2, 4][one])
        together = together + single.log_prob(observed[:, one], mine)
        alone = torch.full_like(observed, math.nan)
        alone[:, column] = observed[:, column]
        total = total + head.log_prob(alone, params)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(together, whole)
    torch.testing.assert_close(head.log_prob(alone * math.nan, params), torch.zeros(500))
    for gradient in torch.autograd.grad(total.sum(), [params, *head.parameters()]):
        assert torch.isfinite(gradient).all()
    better = head.log_prob(observed, params) - head.log_prob(observed.flip(0), params)
    assert better.mean() > 0  # what was drawn is likelier than what was not

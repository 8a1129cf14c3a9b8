"""Numbers with limits and decimals: probabilities sum to one, densities integrate to one."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from cpvae import CPVAE
from cpvae.data.limits import limits
from cpvae.models.numbers import BENDS, Column, NumberHead, log_normal_interval

KINDS = {
    "answers": (Column(1.0, 0.5, 5.5), np.arange(1, 6)),
    "counts": (Column(1.0, -0.5), np.arange(30_000)),
    "money": (Column(0.1, -0.05), np.arange(400_000) / 10),
}


def head(column, bend, origin, unit):
    made = NumberHead(torch.tensor([origin]), torch.tensor([unit]), [column]).double()
    made.bend[:], made.loc[:], made.scale[:] = bend, 0.3, 1.7
    return made


def log_prob(of, x, mean, logvar):
    params = torch.tensor([[mean, logvar]], dtype=torch.float64).expand(len(x), 2)
    return of.log_prob(of.encode(torch.as_tensor(x, dtype=torch.float64)[:, None]), params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bend", [BENDS[0], 1.0, BENDS[-1]])
@pytest.mark.parametrize("logvar", [-5.0, 0.0, 1.0])
def test_probabilities_of_rounded_values_sum_to_one(kind, bend, logvar):
    column, values = KINDS[kind]
    found = log_prob(head(column, bend, 3.0, 4.0), values, 0.4, logvar)
    assert found.exp().sum() == pytest.approx(1, abs=2e-4)
    assert (found <= 1e-9).all()


@pytest.mark.parametrize("bend", [0.3, 1.0, BENDS[-1]])
@pytest.mark.parametrize(
    ("column", "x"),
    [
        (Column(low=0.0), np.concatenate([[0], np.logspace(-7, 4.5, 300_000)])),
        (Column(high=7.0), 7 - np.concatenate([[0], np.logspace(-7, 4.5, 300_000)])[::-1]),
        (Column(low=0.0, high=7.0), np.linspace(0, 7, 300_001)),
        (Column(), np.linspace(-300, 300, 300_001)),
    ],
)
def test_densities_integrate_to_one(column, x, bend):
    found = log_prob(head(column, bend, 3.0, 4.0), x, 0.4, -1.0).exp()
    assert torch.trapezoid(found, torch.as_tensor(x)) == pytest.approx(1, abs=2e-3)


def test_a_narrow_interval_and_a_wide_one_are_one_formula():
    """Either side of the switch from a tilted line to distribution functions, as scipy has it."""
    for width in (0.04, 0.06, 0.5):
        of = head(Column(width), 0.0, 0.0, 1.0)
        of.loc[:], of.scale[:] = 0.0, 1.0
        x = np.round(np.linspace(-6, 6, 25) / width) * width
        found = log_prob(of, x, 0.0, 0.0)
        upper, lower = norm.logcdf(-np.abs(x) + width / 2), norm.logcdf(-np.abs(x) - width / 2)
        expected = upper + np.log(-np.expm1(lower - upper))
        np.testing.assert_allclose(found, expected, atol=2e-4)
    far = log_normal_interval(torch.tensor([30.0, -31.0]), torch.tensor([31.0, -30.0]))
    np.testing.assert_allclose(far, norm.logsf(30), rtol=1e-5)


@pytest.mark.parametrize("bend", BENDS)
def test_what_is_read_comes_back(bend):
    of = head(Column(low=-1.0, high=4.0), bend, 1.0, 2.0)
    value = of.encode(torch.linspace(-0.5, 3.5, 50, dtype=torch.float64)[:, None])
    torch.testing.assert_close(of._closed(of._opened(value)), value)
    slope = (of._opened(value + 1e-6) - of._opened(value - 1e-6)) / 2e-6
    torch.testing.assert_close(of._log_slope(value), slope.log(), atol=1e-6, rtol=1e-5)


def test_draws_have_the_probabilities_that_the_head_gives():
    of, values = head(KINDS["answers"][0], 0.3, 3.0, 1.2), np.arange(1, 6)
    params = torch.tensor([[0.4, 0.5]], dtype=torch.float64)
    drawn = of.sample(params.expand(200_000, 2), torch.Generator().manual_seed(0))
    share = np.array([(drawn == value).double().mean() for value in values])
    assert share.sum() == 1
    np.testing.assert_allclose(share, log_prob(of, values, 0.4, 0.5).exp(), atol=4e-3)


def test_a_value_beyond_a_limit_scores_lower_the_farther_it_is():
    of = head(KINDS["answers"][0], 0.3, 3.0, 1.2)
    found = log_prob(of, [5.0, 6.0, 9.0, 1e6], 0.4, 0.0)
    assert found.isfinite().all()
    assert (found.diff() < 0).all()


def test_gradients_are_finite_wherever_a_value_is():
    of = head(KINDS["answers"][0], 0.03, 3.0, 1.2).float()
    for mean, logvar in ((0.0, -12.0), (40.0, -12.0), (-40.0, 3.0)):
        params = torch.tensor([[mean, logvar]]).repeat(6, 1).requires_grad_()
        x = torch.tensor([1.0, 2.0, 3.0, 5.0, 77.0, torch.nan])[:, None]
        of.log_prob(of.encode(x), params).sum().backward()
        assert params.grad.isfinite().all()


def test_limits_of_columns():
    rng = np.random.default_rng(0)
    gap = np.nan
    assert limits(np.array([3.0, 1, 2, 5, gap])) == (1, 0.5, 5.5)
    assert limits(rng.poisson(40, 500).astype(float)) == (1, -0.5, None)
    money = np.round(np.exp(rng.normal(3, 1, 500)), 2)
    assert limits(money.astype(np.float32)) == pytest.approx((0.01, -0.005, None))
    assert limits(rng.normal(size=500)) == (0, None, None)
    assert limits(rng.uniform(size=500)) == (0, 0, 1)
    assert limits(np.exp(rng.normal(size=500))) == (0, 0, None)
    piled = np.minimum(rng.normal(size=500).astype(np.float32), 1)
    assert limits(piled) == (0, None, 1)
    assert limits(np.round(rng.normal(0, 1000, 500))) == (1, None, None)
    assert limits(np.full(3, gap)) == (0, None, None)


def test_bends_follow_the_shape_within_components():
    """Skewed in each component: a logarithm. Skewed by its components alone: hardly bent."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=1500)
    skewed = np.exp(rng.normal(2.0 * kind, 0.7))
    two = np.where(kind, rng.normal(400, 20, 1500), rng.normal(100, 20, 1500))
    x = torch.from_numpy(np.stack([skewed, two, rng.normal(size=1500)], 1))
    columns = [Column(low=0.0), Column(low=0.0), Column()]
    of = NumberHead(x.mean(0).float(), x.std(0).float(), columns)
    of.fit_bends(of.encode(x.float()), torch.eye(2)[kind])
    assert of.bend[0] >= 10
    assert of.bend[1] <= 0.3
    assert of.bend[2] == 0
    read = of.standardised(of.encode(x.float()))
    torch.testing.assert_close(read.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(read.std(0), torch.ones(3), atol=1e-2, rtol=0)


def test_a_table_of_money_counts_and_answers_has_no_impossible_draw():
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=400)
    table = np.stack(
        [
            np.round(np.exp(rng.normal(1 + 3 * kind, 1)), 2),
            rng.negative_binomial(2, 0.3 - 0.2 * kind),
            np.clip(np.round(rng.normal(2 + 2 * kind, 1)), 1, 5),
        ],
        1,
    )
    model = CPVAE(2, random_state=0, max_epochs=50).fit(table)
    assert model.config_["model"] == "residual"
    drawn = np.asarray(model.sample(2000)[0])
    money, count, answer = drawn.T
    assert money.min() >= 0
    np.testing.assert_allclose(money, np.round(money, 2), rtol=1e-6)
    assert count.min() == 0
    np.testing.assert_array_equal(count, np.rint(count))
    assert set(answer) == {1, 2, 3, 4, 5}
    for made, true in zip(drawn.T, table.T, strict=True):
        np.testing.assert_allclose(np.median(made), np.median(true), rtol=0.35)
    assert model.score(table) < 0  # rounded values have probabilities

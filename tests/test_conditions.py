"""Rows that meet conditions, and missing values: against what a Gaussian mixture says of them."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal, norm, truncnorm

from cpvae import CPVAE
from cpvae.clustering.gaussians import Gaussians
from cpvae.data.columns import Form
from cpvae.data.conditions import conditions
from cpvae.data.schema import Schema
from cpvae.models.build import build
from cpvae.models.imputation import draw_missing
from cpvae.models.resampling import sample_given

K, D = 3, 4
RNG = np.random.default_rng(5)
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = 1.5 * RNG.normal(size=(K, D))
FACTORS = RNG.normal(size=(K, D, D))
COVARIANCES = FACTORS @ FACTORS.transpose(0, 2, 1) / D + 0.2 * np.eye(D)
ABCD = Schema((D,), tuple("abcd"))


@pytest.fixture(scope="module")
def mixture():
    """The model as this mixture."""
    config = {"shape": (D,), "likelihood": "gaussian", "n_components": K, "latent_dim": D}
    model = build("residual", **config, hidden=(8, 8))
    model.start_from(Gaussians(np.log(WEIGHTS), MEANS, COVARIANCES, np.zeros((K, 0))))
    model.aggregated.copy_(torch.from_numpy(WEIGHTS))
    return model.eval()


@pytest.fixture(scope="module")
def mixed():
    """A fitted table of several kinds, and many rows that it draws without conditions."""
    rng = np.random.default_rng(0)
    group = rng.choice(2, 300, p=[0.7, 0.3])
    frame = pd.DataFrame(
        {
            "plan": pd.Categorical(
                np.array(["free", "pro", "team"])[
                    np.minimum(2, group + (rng.random(300) < 0.3).astype(int))
                ],
                categories=["free", "pro", "team", "gone"],
                ordered=True,
            ),
            "age": np.round(rng.normal(30 + 20 * group, 6)).astype(int),
            "spend": np.round(np.exp(rng.normal(2 + group, 0.5)), 2),
            "active": rng.random(300) < 0.3 + 0.4 * group,
            "churned": (rng.random(300) < 0.5 - 0.3 * group).astype(int),
        }
    )
    model = CPVAE(2, max_epochs=1, random_state=0).fit(frame)
    return model, frame, model.sample(60_000, random_state=1)[0]


def given_values(known, values):
    """Weights, means and covariances of the others where some columns have these values."""
    rest = [i for i in range(D) if i not in known]
    joint, means, covariances = [], [], []
    for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        part = covariance[np.ix_(known, known)]
        joint.append(weight * multivariate_normal(mean[known], part).pdf(values))
        gain = np.linalg.solve(part, covariance[np.ix_(known, rest)]).T
        means.append(mean[rest] + gain @ (values - mean[known]))
        covariances.append(covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(known, rest)])
    return np.array(joint) / np.sum(joint), np.array(means), np.array(covariances)


def moments_of(weights, means, covariances):
    mean = weights @ means
    off = means - mean
    return mean, np.einsum("k,kij->ij", weights, covariances + off[:, :, None] * off[:, None])


def test_given_values_rows_are_of_the_conditional_mixture(mixture):
    found = sample_given(mixture, 20_000, conditions(ABCD, {"b": 0.5, "d": -1.0}))
    assert found.effective > 0.88 * found.proposals  # the proposal is the posterior
    assert found.share is None  # a density
    weights, *of = given_values([1, 3], np.array([0.5, -1.0]))
    mean, covariance = moments_of(weights, *of)
    x = found.x.double().numpy()
    np.testing.assert_array_equal(x[:, [1, 3]], np.tile([0.5, -1.0], (len(x), 1)))
    np.testing.assert_allclose(
        np.bincount(found.component, minlength=K) / len(x), weights, atol=0.02
    )
    np.testing.assert_allclose(x[:, [0, 2]].mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x[:, [0, 2]].T), covariance, atol=0.05)


def test_in_a_range_components_are_weighted_by_their_share_and_numbers_truncated(mixture):
    low, high = 0.3, 1.2
    found = sample_given(mixture, 20_000, conditions(ABCD, ["a>=0.3", "a<1.2"]))
    assert found.effective > 0.88 * found.proposals
    scale = np.sqrt(COVARIANCES[:, 0, 0])
    ends = [(end - MEANS[:, 0]) / scale for end in (low, high)]
    inside = WEIGHTS * (norm.cdf(ends[1]) - norm.cdf(ends[0]))
    assert found.share == pytest.approx(inside.sum(), rel=0.02)
    weights = inside / inside.sum()
    x = found.x.double().numpy()
    np.testing.assert_allclose(
        np.bincount(found.component, minlength=K) / len(x), weights, atol=0.02
    )
    assert ((x[:, 0] >= np.float32(low)) & (x[:, 0] <= np.float32(high))).all()
    of_a = truncnorm.mean(*ends, loc=MEANS[:, 0], scale=scale)
    slope = COVARIANCES[:, :, 0] / COVARIANCES[:, 0, 0, None]
    expected = weights @ (MEANS + slope * (of_a - MEANS[:, 0])[:, None])
    np.testing.assert_allclose(x.mean(0), expected, atol=0.03)
    only = sample_given(mixture, 50, conditions(ABCD, ["a>0.3"]), component=2)
    assert (only.component == 2).all()
    # several ranges at once, and far out in the tails of all components
    several = sample_given(mixture, 20_000, conditions(ABCD, ["a>0", "b<0", "c>0", "d<=1"]))
    draws = mixture.sample(200_000, generator=torch.Generator().manual_seed(3))[0]
    a, b, c, d = draws.T
    there = draws[(a > 0) & (b < 0) & (c > 0) & (d <= 1)]
    assert several.share == pytest.approx(len(there) / len(draws), rel=0.1)
    np.testing.assert_allclose(several.x.mean(0), there.mean(0), atol=0.05)
    np.testing.assert_allclose(several.x.T.cov(), there.T.cov(), atol=0.1)
    tail = sample_given(
        mixture, 100, conditions(ABCD, [f"a>{MEANS[:, 0].max() + 3 * scale.max()}"])
    )
    assert tail.effective > 1000


def test_after_training_weights_make_up_for_the_proposal(mixture):
    torch.manual_seed(0)
    trained = build(
        **{"shape": (D,), "likelihood": "gaussian", "latent_dim": D},
        model="residual",
        n_components=K,
        hidden=(8, 8),
    )
    trained.load_state_dict(mixture.state_dict())
    for network in (trained.decoder, trained.posterior):
        torch.nn.init.normal_(network.output.weight, std=0.3)
    found = sample_given(trained.eval(), 10_000, conditions(ABCD, ["a>0.5", "c<1"]))
    draws, component = trained.sample(300_000, generator=torch.Generator().manual_seed(1))
    kept = (draws[:, 0] > 0.5) & (draws[:, 2] < 1)
    assert 1000 < found.effective < 0.8 * found.proposals
    shares = component[kept].bincount(minlength=K) / kept.sum()
    np.testing.assert_allclose(found.component.bincount(minlength=K) / 10_000, shares, atol=0.03)
    np.testing.assert_allclose(found.x.mean(0), draws[kept].mean(0), atol=0.06)
    np.testing.assert_allclose(found.x.T.cov(), draws[kept].T.cov(), atol=0.1)


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ({"plan": "pro", "age": (40, None)}, "plan == 'pro' and age >= 40"),
        (["plan>=pro", "age<45", "active=true"], "plan != 'free' and age < 45 and active"),
        ({"plan": ["free", "team"], "churned": 1}, "plan != 'pro' and churned == 1"),
        (["age = 32", "spend>10.55", "active!=true"], "age == 32 and spend > 10.55 and not active"),
    ],
)
def test_kinds_of_columns_meet_conditions_as_rows_do_that_are_filtered(mixed, asked, query):
    model, frame, many = mixed
    made, component = model.sample(2000, given=asked, random_state=0)
    assert made.dtypes.equals(frame.dtypes)
    assert len(made.query(query)) == len(made) == len(component)
    there = many.query(query)
    assert len(there) > 100
    error = 4 / np.sqrt(len(there))
    for column in ("age", "spend", "churned", "active"):
        truth = there[column].astype(float)
        off = made[column].astype(float).mean() - truth.mean()
        assert abs(off) <= (error + 0.05) * truth.std() + 1e-9, column


def test_the_model_cpvae_is_asked_too():
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=400)
    frame = pd.DataFrame(
        {
            "a": np.array(["x", "y"])[(rng.random(400) < 0.2 + 0.6 * group).astype(int)],
            "n": rng.poisson(2 + 6 * group),
            "m": rng.normal(3 * group),
        }
    )
    model = CPVAE(2, model="cpvae", max_epochs=2, random_state=0).fit(frame)
    many = model.sample(60_000, random_state=1)[0]
    made, _ = model.sample(3000, given=["a=y", "n>=3", "m<2"], random_state=0)
    there = many.query("a == 'y' and n >= 3 and m < 2")
    assert len(made.query("a == 'y' and n >= 3 and m < 2")) == 3000
    np.testing.assert_allclose(
        made[["n", "m"]].mean(), there[["n", "m"]].mean(), rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["age>=400"], "less than 1e-07 of all rows"),
        (["age=40.5"], "multiples of 1"),
        (["age>50", "age<40"], "No row has age>50, age<40"),
        (["spend<0"], "never below 0"),
        (["plan=gold"], "Column 'plan' has no 'gold': it has free, pro, team"),
        (["age=old"], "Column 'age' has no 'old': it holds numbers"),
        (["size=3"], "There is no column 'size'"),
        (["plan"], "is no condition"),
        (["active>5"], "Column 'active' has no '5'"),
        (["age!=4"], "ask for one value or for a range"),
        ({"age": (1, 2, 3)}, "a range is a pair"),
        ({"age": float("nan")}, "a missing one"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(mixed, asked, message):
    with pytest.raises(ValueError, match=message) as error:
        mixed[0].sample(10, given=asked)
    assert "\n" not in str(error.value)


def test_a_condition_is_read_in_the_units_and_by_the_name_of_its_column():
    schema = Schema((3,), ("a>b", "a", "when"), forms=(Form(1), Form(0, 0.0, 9.0), Form()))
    found = conditions(schema, ["a>b>=0.25", "a > 3", "when<2"])
    np.testing.assert_array_equal(found.low, [0.3, 4, -np.inf])
    np.testing.assert_array_equal(found.high, [np.inf, np.inf, np.nextafter(2, 0)])
    np.testing.assert_allclose(found.half, [0.05, 0.5, 0])
    with pytest.raises(ValueError, match="images"):
        conditions(Schema((1, 2, 2)), ["a=1"])


def test_missing_numbers_are_drawn_from_the_conditional_mixture(mixture):
    row = torch.tensor([[np.nan, 0.5, np.nan, -1.0]]).repeat(4_000, 1)
    made = draw_missing(mixture, row, torch.Generator().manual_seed(0)).double().numpy()
    mean, covariance = moments_of(*given_values([1, 3], np.array([0.5, -1.0])))
    np.testing.assert_array_equal(made[:, [1, 3]], row[:, [1, 3]])
    np.testing.assert_allclose(made[:, [0, 2]].mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(made[:, [0, 2]].T), covariance, atol=0.12)


def test_several_imputations_keep_what_is_there_and_differ_in_the_rest(mixed):
    model, frame, _ = mixed
    holes = frame[:80].astype({"active": "boolean"})
    gone = np.random.default_rng(0).random(holes.shape) < 0.2
    gone[:, 0] &= ~gone[:, 1:].all(1)
    holes = holes.mask(gone)
    first, second = model.impute(holes, draws=2, random_state=0)
    for made in (first, second):
        assert not made.isna().any().any()
        assert ((made == holes) | gone).all().all()
        assert made.age[gone[:, 1]].eq(made.age[gone[:, 1]].round()).all()
    assert not first.equals(second)
    assert model.impute(holes).equals(model.impute(holes))
    assert model.impute(holes, draws=1, random_state=0)[0].equals(first)


def test_sample_moves_on_unless_a_state_is_given(mixed):
    model, frame, _ = mixed
    first, second = (model.sample(20)[0] for _ in range(2))
    assert not first.equals(second)
    assert first.dtypes.equals(frame.dtypes)
    assert list(first.plan.cat.categories) == ["free", "pro", "team", "gone"]
    assert model.sample(20, random_state=3)[0].equals(model.sample(20, random_state=3)[0])


def test_the_command_line_generates_imputes_and_assigns(mixed, cpvae, tmp_path):
    model, frame, _ = mixed
    run, out, made = tmp_path / "run", tmp_path / "new.csv", tmp_path / "made.csv"
    model.save(run)
    where = ["--where", "plan=pro", "--where", "age>=40", "--overwrite"]
    code, printed, _ = cpvae("generate", run, "-n", 30, "--out", made, *where)
    assert code == 0
    assert re.search(
        r"% of all rows are like this; 10000 proposals are worth \d+ independent", printed
    )
    assert len(pd.read_csv(made).query("plan == 'pro' and age >= 40")) == 30
    code, _, err = cpvae("generate", run, "--out", made, "--where", "age>=400", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert len(pd.read_csv(made)) == 30  # as it was
    holes = frame[:60].assign(id=range(60), day="2024-03-01")
    holes.loc[::3, "age"] = np.nan
    holes.loc[1::3, "plan"] = None
    holes.to_csv(out, index=False)
    assert cpvae("impute", run, out, "--out", made, "--overwrite")[0] == 0
    filled = pd.read_csv(made)
    assert list(filled) == list(holes)
    assert not filled.isna().any().any()
    kept = [name for name in holes if name not in ("age", "plan")]
    pd.testing.assert_frame_equal(filled[kept], pd.read_csv(out)[kept])
    there = holes.age.notna().to_numpy()
    np.testing.assert_array_equal(filled.age[there], holes.age[there])
    assert "is there already" in cpvae("impute", run, out, "--out", made)[2]
    cpvae("impute", run, out, "--out", made, "--overwrite", "--draws", 3)
    drawn = pd.read_csv(made)
    assert drawn.draw.value_counts().to_dict() == {1: 60, 2: 60, 3: 60}
    assert drawn.groupby("id").age.nunique()[~there].max() > 1
    assert drawn.groupby("id").age.nunique()[there].max() == 1
    strange = frame[:40].astype({"spend": float})
    strange.loc[0, ["age", "spend"]] = 95, 9000.0
    strange.to_csv(out, index=False)
    code, printed, _ = cpvae("assign", run, out, "--out", made, "--overwrite")
    assert "1 example less probable than all that were fitted" in printed
    told = pd.read_csv(made)
    np.testing.assert_allclose(told.log_density, model.score_samples(strange), rtol=1e-4)
    assert told.outlier.tolist() == [True] + [False] * 39
    fitted = model.score_samples(frame)
    truth = [(fitted < value).mean() for value in told.log_density]  # held-out ones too
    np.testing.assert_allclose(told.place, truth, atol=0.06)
    np.testing.assert_allclose(model.rank_samples(strange), told.place, atol=0.01)
    np.testing.assert_allclose(CPVAE.load(run).rank_samples(strange), told.place, atol=0.01)

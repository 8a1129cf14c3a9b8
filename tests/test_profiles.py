"""What components are: figures against pandas and scipy, and their words."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from cpvae.data.objects import encode_frame
from cpvae.data.schema import Schema
from cpvae.evaluation.profiles import profiles
from cpvae.report.words import contrast_in_words, figure, percent, profile_in_words


@pytest.fixture(scope="module")
def profiled(segmented):
    frame, component = segmented(900)
    x, schema = encode_frame(frame)
    return frame, component, profiles(x, np.eye(3)[component], schema, ["low", "1", "top"])


def of(profile, column: str):
    (found,) = [contrast for contrast in profile.columns if contrast.column == column]
    return found


def test_figures_are_those_of_pandas(profiled):
    frame, component, found = profiled
    grouped = frame.groupby(component)
    for k, profile in enumerate(found):
        assert profile.n_rows == grouped.size()[k]
        assert profile.share == pytest.approx((component == k).mean())
        assert profile.sure == 1
        for name in ("spend", "noise", "age"):
            mine = of(profile, name)
            quantiles = grouped[name].quantile([0.1, 0.5, 0.9])[k]
            np.testing.assert_allclose([mine.low, mine.value, mine.high], quantiles, rtol=1e-5)
            whole = frame[name].quantile([0.1, 0.5, 0.9])
            of_all = [mine.low_of_all, mine.value_of_all, mine.high_of_all]
            np.testing.assert_allclose(of_all, whole, rtol=1e-5)
            assert mine.empty == pytest.approx(grouped[name].apply(lambda c: c.isna().mean())[k])
        shares = pd.crosstab(component, frame["plan"], normalize="index").loc[k]
        overall = frame["plan"].value_counts(normalize=True)
        assert {level.level for level in of(profile, "plan").levels} == set(shares.index)
        for level in of(profile, "plan").levels:
            assert level.share == pytest.approx(shares[level.level])
            assert level.share_of_all == pytest.approx(overall[level.level])
            assert level.lift == pytest.approx(shares[level.level] / overall[level.level])


def test_effects_are_those_of_scipy_and_of_total_variation(profiled):
    frame, component, found = profiled
    for k, profile in enumerate(found):
        mine, others = frame[component == k], frame[component != k]
        for name in ("spend", "noise"):
            expected = ks_2samp(mine[name], others[name]).statistic
            assert of(profile, name).effect == pytest.approx(expected, rel=1e-6)
        for name in ("plan", "vip", "code"):
            shares = pd.crosstab(component == k, frame[name], normalize="index")
            expected = shares.diff().iloc[1].abs().sum() / 2
            assert of(profile, name).effect == pytest.approx(expected)
        assert of(profile, "same").effect == 0
        gaps = abs(mine["age"].isna().mean() - others["age"].isna().mean())
        assert of(profile, "age").effect == pytest.approx(gaps)
        order = [contrast.beyond_chance for contrast in profile.columns]
        assert order == sorted(order, reverse=True)
        assert not {"noise", "code", "same"} & {contrast.column for contrast in profile.telling}
    assert [profile.columns[0].column for profile in found] == ["spend"] * 3


@pytest.mark.parametrize("n_levels", [0, 2, 40])
def test_chance_is_what_random_rows_show(n_levels):
    rng, effects, by_chance = np.random.default_rng(0), [], []
    levels = {"a": [f"level {i}" for i in range(n_levels)]} if n_levels else {}
    for _ in range(40):
        x = rng.integers(n_levels, size=(200, 1)) if n_levels else rng.normal(size=(200, 1))
        mine = np.arange(200) < 40
        probs = np.column_stack([mine, ~mine]).astype(float)
        (contrast,) = profiles(x.astype(float), probs, Schema((1,), ("a",), levels))[0].columns
        effects.append(contrast.effect)
        by_chance.append(contrast.by_chance)
    assert np.mean(by_chance) == pytest.approx(np.mean(effects), rel=0.15)
    assert np.mean(np.array(effects) > 2 * np.array(by_chance)) <= 0.15


def test_typical_rows_are_like_the_middle_of_their_component(profiled):
    frame, component, found = profiled
    for k, profile in enumerate(found):
        rows = frame.iloc[list(profile.typical)]
        assert (component[list(profile.typical)] == k).all()
        mine = frame[component == k]
        low, high = mine["spend"].quantile([0.1, 0.9])
        assert rows["spend"].between(low, high).all()
        if k != 1:  # which has three plans that are as frequent
            assert (rows["plan"] == mine["plan"].mode()[0]).all()


def test_words_tell_the_value_beside_that_of_all(profiled):
    frame, _, found = profiled
    top = profile_in_words(found[2])
    mine, whole = of(found[2], "spend").value, of(found[2], "spend").value_of_all
    assert top[0] == f"spend {mine:.3g} (median of all {whole:.3g})"
    assert any(line.startswith("plan team 6") and " times)" in line for line in top)
    assert any(line.startswith("vip true 89 %") for line in top)
    assert not any("vip false" in line for line in top)
    gaps = contrast_in_words(of(found[1], "age"))
    assert "empty 5" in gaps
    assert "(of all 1" in gaps
    assert found[0].name == "low"
    plain = json.loads(json.dumps([profile.as_json() for profile in found]))
    assert plain[2]["columns"][0]["value"] == mine


def test_few_or_many_columns_rare_levels_and_empty_components():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(60, 500))
    many[:30, 7] += 9
    probs = np.eye(3)[[0] * 30 + [1] * 30]  # nothing is in component 2
    found = profiles(many, probs, Schema((500,)))
    assert [len(profile.columns) for profile in found] == [500] * 3
    assert found[0].columns[0].column == "column 7"
    assert found[2].n_rows == 0
    assert found[2].sure is None
    assert profile_in_words(found[2]) == ["no row belongs to it"]
    (alone,) = profiles(many[:, :2], np.ones((60, 1)), Schema((2,)))
    assert profile_in_words(alone) == ["nothing sets it apart from the other rows"]
    text = np.array([[0.0], [1.0], [np.nan], [0.0]])
    levels = {"a": [f"level {i}" for i in range(50)]}
    first, second = profiles(text, np.eye(2)[[0, 1, 1, 0]], Schema((1,), ("a",), levels))
    assert first.columns[0].levels[0].level == "level 0"
    assert len(first.columns[0].levels) == 12
    assert second.columns[0].empty == 0.5
    empty = profiles(np.full((4, 1), np.nan), np.eye(2)[[0, 1, 1, 0]], Schema((1,), ("a",)))
    assert empty[0].columns[0].value is None
    assert "empty 100 %" in contrast_in_words(empty[0].columns[0])


def test_figures_are_for_people():
    numbers = [3, 12345, 0.123456, 8.835, 1234.5, 1e-7, np.float32(2.5), None, np.nan, True, "x"]
    shown = ["3", "12,345", "0.123", "8.84", "1,234", "1e-07", "2.5", "none", "none", "True", "x"]
    assert list(map(figure, numbers)) == shown
    assert figure(pd.Timestamp("2024-02-03")) == "2024-02-03"
    shares = [0.0, 0.001, 0.007, 0.5, 0.993, 0.9999, 1.0]
    assert [percent(share) for share in shares] == [
        *("0 %", "under 1 %", "1 %", "50 %", "99 %", "over 99 %", "100 %"),
    ]

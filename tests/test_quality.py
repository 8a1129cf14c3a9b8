"""Quality of drawn rows: what samplers whose faults are known get."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from cpvae.data.columns import Form
from cpvae.data.schema import Schema
from cpvae.evaluation.quality import compared, in_words, quality

SCHEMA = Schema(
    (4,),
    ("plan", "age", "spend", "score"),
    {"plan": ["free", "pro", "team"]},
    kinds=("categorical", "number", "number", "number"),
    limits=(None, (1.0, 17.5, None), (0.01, -0.005, None), (0.0, None, None)),
    forms=(Form(), Form(0, 18.0, 90.0), Form(2), Form()),
)


def rows(n, seed):
    """Rows of one distribution, in which plan, age and spend go together."""
    rng = np.random.default_rng(seed)
    group = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    spend = np.round(np.exp(rng.normal(2 + group, 0.5)), 2)
    age = np.maximum(18, np.round(rng.normal(25 + 8 * group, 4)))
    return np.stack([group, age, spend, rng.normal(size=n)], 1)


FITTED, HELD_OUT, GOOD = (rows(n, seed) for seed, n in enumerate((500, 300, 300)))


def found(made, held_out=HELD_OUT):
    return compared(SCHEMA, FITTED, held_out, made, trees=15)


def test_rows_of_the_same_distribution_are_as_good_as_chance_allows():
    result = found(GOOD)
    assert result["valid_share"] == 1
    assert abs(result["auc"] - 0.5) < 0.08
    assert abs(result["nearer_share"] - 0.5) < 0.06
    assert result["copies_share"] == result["copies_share_by_chance"] == 0
    for what in ("column", "pair"):
        by_chance = result[f"{what}_distance_mean_by_chance"]
        assert result[f"{what}_distance_mean"] == pytest.approx(by_chance, abs=0.04)
    ends = np.unique(np.quantile(FITTED[:, 1], [0.2, 0.4, 0.6, 0.8]))
    tables = [
        pd.crosstab(x[:, 0], np.searchsorted(ends, x[:, 1], side="right")) / len(x)
        for x in (HELD_OUT, GOOD)
    ]
    variation = 0.5 * tables[0].sub(tables[1], fill_value=0).abs().sum().sum()
    assert result["pair_distance"]["plan and age"] == pytest.approx(variation)
    assert len(result["pair_distance"]) == 6
    expected = ks_2samp(HELD_OUT[:, 2], GOOD[:, 2]).statistic
    assert result["column_distance"]["spend"] == pytest.approx(expected)
    gaps = HELD_OUT.copy()
    gaps[::3, 1:3] = np.nan
    assert abs(found(GOOD, gaps)["auc"] - 0.5) < 0.08  # draws have none, and are not told by that


def test_faults_show_in_their_figures():
    shuffled = np.stack([np.random.default_rng(i).permutation(c) for i, c in enumerate(GOOD.T)], 1)
    apart = found(shuffled)
    assert apart["column_distance_mean"] == pytest.approx(found(GOOD)["column_distance_mean"])
    assert apart["pair_distance_mean"] > 1.5 * apart["pair_distance_mean_by_chance"]
    assert apart["auc"] > 0.75
    copies = found(FITTED[:300])
    assert copies["nearer_share"] > 0.99
    assert copies["copies_share"] == 1
    shifted = GOOD + np.array([0, 3, -20, 0])
    far = found(shifted)
    assert far["column_distance_mean"] > 2.5 * far["column_distance_mean_by_chance"]
    assert far["valid_share"] == pytest.approx(1 - (shifted[:, 2] < 0).sum() / shifted.size)
    lines = {line.what: line for line in in_words(far)}
    assert lines["told from real (AUC)"].value == f"{far['auc']:.2f}"
    assert "spend" in lines["distance of columns"].reading
    assert all(line.reading.endswith(".") for line in lines.values())


def test_a_models_draws_are_compared(build_small):
    units = {"loc": (0.0, 3.0, 20.0, 0.0), "scale": (1.0, 1.0, 9.0, 1.0), "n_levels": (3, 0, 0, 0)}
    kinds = ("categorical", "count", "gaussian", "gaussian")
    model = build_small({"shape": (4,), "likelihood": "mixed", "kinds": kinds, **units})
    result = quality(model, SCHEMA, FITTED, HELD_OUT)
    assert result["n_held_out"] == 300
    assert result["auc"] > 0.8  # it was not trained
    with pytest.raises(ValueError, match="5 held-out rows are too few"):
        quality(model, SCHEMA, FITTED, HELD_OUT[:5])
    with pytest.raises(ValueError, match="images"):
        quality(model, Schema((1, 2, 2)), FITTED, HELD_OUT)

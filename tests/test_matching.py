"""Components of one fit and of another: which are the same."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cpvae.evaluation.matching import (
    agreement,
    calibration,
    matched,
    names_after,
    shared_rows,
)


def test_counts_and_matches_are_the_best_there_are():
    rng = np.random.default_rng(0)
    before = rng.integers(4, size=500)
    after = np.array([2, 0, 3, 1])[before]
    moved = rng.random(500) < 0.2
    after[moved] = rng.integers(4, size=moved.sum())
    counts = shared_rows(before, after, 4, 4)
    np.testing.assert_array_equal(counts, pd.crosstab(before, after))
    pairs = matched(counts)
    assert pairs == [1, 3, 0, 2]
    best = max(sum(counts[p[k], k] for k in range(4)) for p in itertools.permutations(range(4)))
    assert agreement(counts, pairs) == pytest.approx(best / 500)
    names = names_after(["a", "1", "c", "d"], pairs, list("0123"))
    assert names == ["0", "d", "a", "c"]  # what had no name gets none


def test_components_that_are_new_or_gone():
    counts = np.array([[90, 0, 10, 0], [0, 80, 0, 0], [5, 10, 5, 10]], dtype=float)
    assert matched(counts) == [0, 1, None, 2]
    assert matched(counts[:, :2]) == [0, 1]
    split = np.array([[60.0, 40.0]])
    assert matched(split) == [0, None]
    assert matched(np.array([[3.0, 0.0], [0.0, 0.0]])) == [0, None]


def test_of_certain_rows_those_are_counted_that_stay_together():
    certain, unsure = np.eye(3)[[0] * 50 + [1] * 30 + [2] * 20], np.full((40, 3), [0.5, 0.3, 0.2])
    mine = np.vstack([certain, unsure])
    other = mine[:, [2, 0, 1]].copy()
    assert calibration(mine, [other]) == (100, 1.0)
    other[:5] = [
        0.0,
        0.0,
        1.0,
    ]  # what is component 1 there: five rows of the first have moved to it
    other[100:] = [0.0, 1.0, 0.0]  # of rows that are not certain none counts
    assert calibration(mine, [other]) == (100, pytest.approx(0.95))
    assert calibration(mine, [other, mine]) == (100, pytest.approx(0.975))
    assert calibration(unsure, [unsure])[0] == 0

"""The number of components: made-up sets of which it is known."""

import json

import numpy as np
import pandas as pd
import pytest

from cpvae.data.schema import Schema
from cpvae.training.choose import FOLDS, Study, Tried, name_one, table


def blobs(k, n=200, seed=0):
    rng = np.random.default_rng(seed)
    centres = 6 * np.stack([np.cos(2 * np.pi * np.arange(k) / k), np.arange(k) % 3], 1)
    return (centres[rng.integers(k, size=n)] + rng.normal(size=(n, 2))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 3])
def test_gaussian_clusters_are_counted(k):
    study = Study(blobs(k), Schema((2,)))
    tried = [study.try_one(each) for each in range(1, 5 if k > 1 else 3)]
    assert name_one(tried).k == k
    rows = table(tried)
    assert [row["components"] for row in rows] == list(range(1, len(rows) + 1))
    assert min(row["behind_best_nats"] for row in rows) == 0
    # one component: the mean and covariance of four fifths, of the fifth that was left out
    read, part = study.rows.numbers, study.fold == 0
    mean, covariance = read[~part].mean(0), np.cov(read[~part].T, bias=True) + 1e-3 * np.eye(2)
    off = read[part] - mean
    square = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off)
    expected = -0.5 * (square + np.log(np.linalg.det(2 * np.pi * covariance)))
    found = np.array(tried[0].held_out)[part]
    assert found.mean() == pytest.approx(expected.mean(), abs=0.03)  # covariances are shrunk
    assert tried[0].agreement == [1.0] * (FOLDS * (FOLDS - 1) // 2)


def measured(**of_k):
    """Numbers of components with their mean held-out log-likelihood and agreement."""
    noise = np.random.default_rng(0).normal(size=100)
    return [
        Tried(int(name[1:]), (mean + noise + 0.01 * np.arange(100)).tolist(), [agree])
        for name, (mean, agree) in of_k.items()
    ]


def test_the_fewest_that_agree_and_are_not_beaten_are_named():
    assert name_one(measured(k1=(0, 1), k2=(1, 1), k3=(1.5, 0.9), k4=(1.4, 0.95))).k == 3
    cut = name_one(measured(k1=(0, 1), k2=(1, 1), k3=(2, 0.3), k4=(1.8, 0.5)))
    assert cut.k == 2
    assert "3 describe the rows better by 1.00 nats a row and do not agree (0.30)" in cut.why
    none = name_one(measured(k1=(0, 1), k2=(1, 0.4), k3=(2, 0.3)))
    assert none.k is None
    assert "no number of clusters that is found again" in none.why
    assert name_one(measured(k2=(1, 0.4), k3=(2, 0.3))).k is None
    one = name_one(measured(k1=(0.5, 1), k2=(0.2, 0.4)))
    assert one.k == 1


def test_the_command_goes_on_and_writes_a_figure(cpvae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(blobs(3), columns=["a", "b"]).assign(kind=np.arange(200) % 2)
    frame.to_csv("three.csv", index=False)
    command = ["choose", "three.csv", "--label", "kind"]
    code, out, err = cpvae(*command, "--components", "3:3")
    assert code == 0
    assert err.count("held out, agreement") == 1
    assert "numbers tried 1/1" in err
    assert "numbers tried" not in out
    code, out, err = cpvae(*command, "--components", "2:3", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["components"] == 3
    assert [row["components"] for row in told["tried"]] == [2, 3]
    code, out, err = cpvae(*command, "--components", "2:3")
    assert "cpvae fit three.csv --components 3" in out
    assert "held out, agreement" not in err  # all was measured before
    assert (tmp_path / "runs" / "three-choose" / "choose.png").stat().st_size > 5000
    # in processes of their own the same is measured
    given = ("--components", "1:3", "--jobs", 2, "--out", "apart", "--json")
    rows = json.loads(cpvae(*command, *given)[1])["tried"]
    assert [row["components"] for row in rows] == [1, 2, 3]
    for row, alone in zip(rows[1:], told["tried"], strict=True):
        assert row["held_out_nats"] == pytest.approx(alone["held_out_nats"], abs=1e-6)
        assert row["agreement"] == pytest.approx(alone["agreement"], abs=1e-6)
    assert "other data or other options" in cpvae(*command, "--seed", 1)[2]
    for wrong in ("3:2", "0:2", "few"):
        code, _, err = cpvae("choose", "three.csv", "-k", wrong)
        assert (code, "as in --components 2:20" in err) == (2, True)
    assert "choose is for tables" in cpvae("choose", "digits", "-k", 2)[2]

"""Where some examples have no label, scores are of those that have one."""

import json

import numpy as np
import pandas
import pytest

from cpvae import data
from cpvae.data.labels import known
from cpvae.evaluation import metrics
from cpvae.evaluation.metrics import cluster_scores

pytestmark = pytest.mark.usefixtures("without_shape_checks", "without_pictures")

GAPS = {
    "None": np.array(["a", None, "b"], dtype=object),
    "empty text": np.array(["a", " ", "b"]),
    "NaN": np.array([1.0, np.nan, 2.0]),
    "NaN among text": np.array(["a", np.nan, "b"], dtype=object),
    "NA": pandas.array([1, None, 2], dtype="Int64").to_numpy(dtype=object),
    "NaT": np.array(["2020-01-01", "NaT", "2020-01-02"], dtype="datetime64[D]"),
}


@pytest.mark.parametrize("labels", GAPS.values(), ids=GAPS)
def test_missing_labels_are_known_as_such_and_left_out_of_scores(labels):
    assert known(labels).tolist() == [True, False, True]
    scores = metrics._scores(np.tile(labels, 4), np.tile([0, 1, 1], 4))
    assert scores == {"n_labelled": 8, **cluster_scores(np.tile([0, 1], 4), np.tile([0, 1], 4))}


def test_labels_without_gaps_are_scored_as_ever():
    labels, assigned = np.array([3, 3, 1, 1]), np.array([0, 1, 1, 1])
    assert metrics._scores(labels, assigned) == cluster_scores(labels, assigned)
    assert metrics._scores(np.array([None, None]), np.array([0, 1])) == {"n_labelled": 0}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_text_that_means_missing_does_so_in_a_csv_file_alone(tmp_path, ending):
    frame = pandas.DataFrame({"x": np.arange(6.0), "y": ["NA", None, "DE", "FR", "NA", "DE"]})
    file = tmp_path / f"t.{ending}"
    frame.to_csv(file, index=False) if ending == "csv" else frame.to_parquet(file)
    labels = data.read(file, label="y").labels.tolist()
    assert labels == [None if ending == "csv" else "NA", None, "DE", "FR", labels[0], "DE"]
    whole = tmp_path / f"whole.{ending}"
    frame = frame.assign(y=range(6))
    frame.to_csv(whole, index=False) if ending == "csv" else frame.to_parquet(whole)
    assert data.read(whole, label="y").labels.dtype == np.int64


def test_evaluate_and_report_score_labelled_rows_and_say_how_many(cpvae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=200)
    frame = pandas.DataFrame({"a": 9 * kind + rng.normal(size=200), "b": rng.normal(size=200)})
    frame["y"] = np.where(np.arange(200) % 2, kind.astype(str), "")
    frame.to_csv("t.csv", index=False)
    fit = ("fit", "t.csv", "-k", 2, "--max-epochs", 1, "--label", "y", "--out", "run")
    assert cpvae(*fit)[0] == 0
    shown = cpvae("evaluate", "run", "--samples", 1)[1]
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["accuracy"] == 1
    assert 0 < result["n_labelled"] < result["n_examples"] == 20
    assert f"20 examples, {result['n_labelled']} of them labelled" in shown
    monkeypatch.setattr("cpvae.report.page._embedded", lambda figure: "")
    assert cpvae("report", "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{result['n_labelled']} of the test examples have a label" in page
    assert ">None<" not in page
    assert ">nan<" not in page

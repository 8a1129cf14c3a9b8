"""Tables larger than memory: rows on disk, windows of them, and fits that read these."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, dataset, parquet

from cpvae import CPVAE, data
from cpvae.checkpoint import RunFolder
from cpvae.data import store, survey
from cpvae.data.shards import is_large
from cpvae.data.store import load_large
from cpvae.training import state
from cpvae.training.fit import fit_plan, plan

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Windows of 128 rows, buckets of some kilobytes, and any table is large."""
    monkeypatch.setenv("CPVAE_LARGE", "1")
    monkeypatch.setattr(store, "BUCKET", 4000)
    monkeypatch.setattr(store, "MOST_ROWS", 128)
    monkeypatch.setattr(store, "CHUNKS", 8)


@pytest.fixture(scope="module")
def big(tmp_path_factory, uneven):
    """A table of 700 rows in three files; the last has a text and values that no other has."""
    folder, frame = tmp_path_factory.mktemp("store") / "big", uneven(700)
    frame.loc[699, ["a", "b", "n", "w"]] = [-77.5, 99.125, 400, "seldom"]
    folder.mkdir()
    for i in range(3):
        part = pa.Table.from_pandas(frame.iloc[300 * i : 300 * (i + 1)], preserve_index=False)
        parquet.write_table(part, folder / f"{i}.parquet")
    return folder


class Stopped(Exception):
    """What ends a fit in the middle."""


def ordered(x: np.ndarray) -> np.ndarray:
    return x[np.lexsort(np.nan_to_num(x, nan=1e9).T)]


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_a_store_has_the_rows_of_the_table_in_another_order(big, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "ROWS", 50)
    monkeypatch.setattr("cpvae.data.shards.ROWS", 64)
    source = big if not suffix else tmp_path / f"one{suffix}"
    whole = parquet.read_table(big)
    if suffix:
        (csv.write_csv if suffix == ".csv" else parquet.write_table)(whole, source)
    read = data.read(source, label="kind")
    splits = load_large(source, seed=3, label="kind")
    kept = splits.rows.store
    everything = kept.rows(0, 700)
    np.testing.assert_array_equal(ordered(everything), ordered(read.x))
    assert not np.array_equal(everything, read.x)
    # all that is learned of columns, though 50 rows were sampled; decimals are the sample's
    assert kept.schema.levels == read.levels
    assert "seldom" in kept.schema.levels["w"]
    assert kept.schema.columns == read.columns
    assert kept.schema.missing
    assert {-77.5, 99.125, 400} <= set(kept.extremes.ravel().tolist())
    units = splits.rows.units()
    np.testing.assert_allclose(units["loc"], np.nanmean(read.x.astype(float), 0), rtol=1e-9)
    np.testing.assert_allclose(units["scale"], np.nanstd(read.x.astype(float), 0), rtol=1e-9)
    # parts are disjoint and all rows are in one, with their own labels
    parts = [splits.test.x, splits.valid.x, *(part.numpy() for part in splits.rows.parts())]
    np.testing.assert_array_equal(ordered(np.concatenate(parts)), ordered(read.x))
    of = {row.tobytes(): label for row, label in zip(read.x, read.labels, strict=True)}
    assert [of[row.tobytes()] for row in splits.test.x] == splits.test.labels.tolist()
    # another seed holds out other rows, and the same store is found again
    again = load_large(source, seed=4, label="kind")
    assert again.rows.store.folder == kept.folder
    assert not np.array_equal(again.test.x, splits.test.x)


def test_a_pass_takes_every_row_once_in_random_windows(big):
    rows = load_large(big, label="kind").rows
    assert (rows.n, len(rows), rows.chunk) == (560, 128, 16)
    passes = [[rows.of_epoch(0, 4 * p + i).numpy() for i in range(4)] for p in range(2)]
    assert all(len(window) == 128 for windows in passes for window in windows)
    held = {row.tobytes() for row in rows.store.rows(rows.start - 140, 140)}
    for windows in passes:
        seen = [row.tobytes() for window in windows for row in window]
        assert len(set(seen)) == 512
        assert not held & set(seen)
    assert not np.array_equal(passes[0][0], passes[1][0])
    assert np.array_equal(rows.of_epoch(0, 5).numpy(), passes[1][1], equal_nan=True)
    assert not np.array_equal(rows.of_epoch(1, 0).numpy(), passes[0][0], equal_nan=True)


@pytest.mark.parametrize("model", ["cpvae", "residual"])
def test_rows_on_disk_are_fitted_as_the_same_rows_in_memory(big, model, monkeypatch):
    monkeypatch.setattr(store, "MOST_ROWS", 1000)  # so that an epoch takes all
    splits = load_large(big, label="kind")
    given = {"model": model, "n_components": 3, "max_epochs": 2, "hidden": [20]}
    given |= {"anneal_epochs": 2} if model == "cpvae" else {}
    planned = plan(splits.rows, splits.schema, given)
    assert planned.recipe.pretraining_epochs == (model == "cpvae")
    on_disk = fit_plan(planned, splits.rows, splits.valid.tensor())
    in_memory = fit_plan(planned, splits.rows.sample(), splits.valid.tensor())
    assert len(on_disk.history) == len(in_memory.history) >= 2
    for a, b in zip(on_disk.history, in_memory.history, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    mine, other = (fitted.model.state_dict() for fitted in (on_disk, in_memory))
    assert all(torch.allclose(mine[key], other[key], atol=1e-6) for key in other)


def test_windows_are_gone_on_with_as_if_nothing_had_happened(big, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "SAVE_EVERY", 0.0)
    splits = load_large(big, label="kind")
    given = {"model": "cpvae", "n_components": 3, "max_epochs": 6, "hidden": [20]}
    planned = plan(splits.rows, splits.schema, {**given, "anneal_epochs": 5, "patience": 8})
    how = planned, splits.rows, splits.valid.tensor(), 1

    @contextmanager
    def until(_):
        def stop(index, record):
            if record["epoch"] == 3:
                raise Stopped

        yield stop

    undisturbed = fit_plan(*how, RunFolder(tmp_path / "a"))
    with pytest.raises(Stopped):
        fit_plan(*how, RunFolder(tmp_path / "b"), until)
    resumed = fit_plan(*how, RunFolder(tmp_path / "b"))
    bounds = [[r["valid_elbo_nats"] for r in f.history] for f in (undisturbed, resumed)]
    assert bounds[0] == bounds[1]
    mine, other = undisturbed.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    shares = torch.cat([undisturbed.model.cluster_probs(part) for part in splits.rows.parts()])
    torch.testing.assert_close(undisturbed.model.aggregated, shares.mean(0))


def test_the_whole_job_on_a_large_table(cpvae, big, tmp_path, monkeypatch):
    run = tmp_path / "run"
    code, _, said = cpvae("fit", big, "--label", "kind", "-k", 3, "--max-epochs", 2, "--out", run)
    assert code == 0, said
    assert "560 training, 70 validation and 70 test examples" in said
    assert "its rows are kept in" in said
    info = json.loads((run / "run.json").read_text())
    assert info["data"]["in_chunks"] is True
    monkeypatch.setenv("CPVAE_LARGE", str(2**30))  # it is read as it was, whatever that says now
    assert not is_large(big)
    code, figures, _ = cpvae("evaluate", run, "--json", "--samples", 5)
    assert code == 0
    assert json.loads(figures)["n_examples"] == 70
    assert json.loads(figures)["accuracy"] > 0.8
    of_python = CPVAE(3, max_epochs=2).fit(dataset.dataset(big).filter(dataset.field("n") < 400))
    assert of_python.schema_.levels["w"] == ["NA", "x", "z"]
    whole = parquet.read_table(big / "0.parquet")
    parquet.write_table(whole.slice(1), big / "0.parquet")
    try:
        code, _, error = cpvae("evaluate", run)
        assert code == 2
        assert "is not what" in error
    finally:
        parquet.write_table(whole, big / "0.parquet")
    code, _, _ = cpvae("evaluate", run, "--json")
    assert code == 0  # a file with another time and the same rows


def test_what_cannot_be_kept_is_refused(cpvae, big, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr("cpvae.data.store.shutil.disk_usage", lambda _: usage)
    code, _, error = cpvae("fit", big, "--drop", "kind", "--out", tmp_path / "run")
    assert code == 2
    assert "XDG_CACHE_HOME" in error
    assert not list((store.cache_folder() / "tables").iterdir())

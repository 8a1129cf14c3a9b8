"""Many rows in, many rows out: what is written in shards is what one command writes at once."""

import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv, dataset, feather, parquet

from cpvae import CPVAE, bulk
from cpvae.checkpoint import RunFolder
from cpvae.data import shards
from cpvae.data.shards import large_table
from cpvae.evaluation.metrics import cluster_scores
from cpvae.evaluation.pooled import scores_of

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture(scope="module")
def place(tmp_path_factory, uneven):
    """A run, and a table of 1,000 rows as a folder of four files, and as one file of each kind."""
    folder, frame = tmp_path_factory.mktemp("bulk"), uneven(1000)
    CPVAE(3, max_epochs=1).fit(frame.drop(columns="kind")).save(folder / "run")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    (folder / "big" / "deep").mkdir(parents=True)
    for i, name in enumerate(["a", "b", "deep/c", "deep/d"]):
        part = table.slice(300 * i, 300)
        parquet.write_table(part, folder / "big" / f"{name}.parquet", row_group_size=70)
    parquet.write_table(table, folder / "one.parquet", row_group_size=70)
    feather.write_feather(table, folder / "one.feather", chunksize=90)
    csv.write_csv(table, folder / "one.csv")
    return folder


@pytest.mark.parametrize("source", ["big", "one.parquet", "one.feather", "one.csv"])
def test_shards_together_are_the_table(place, source, monkeypatch, uneven):
    monkeypatch.setattr(shards, "ROWS", 50)
    monkeypatch.setattr(shards, "ROWS_A_SHARD", 400)
    schema = RunFolder(place / "run").read_schema()
    table = large_table(place / source, levels=schema.levels)
    expected = {"big": [300, 300, 300, 100], "one.parquet": [420, 420, 160]}.get(source, [None])
    assert [shard.rows for shard in table.shards] == expected
    chunks = list(table.chunks([*schema.names]))
    assert max(chunk.num_rows for chunk in chunks) <= 50
    read = np.concatenate([schema.encode(chunk, "it") for chunk in chunks])
    whole = pa.Table.from_pandas(uneven(1000), preserve_index=False)
    np.testing.assert_array_equal(read, schema.encode(whole, "it"))


def test_assign_in_shards_is_assign_at_once(cpvae, place, tmp_path, monkeypatch):
    big, out = place / "big", tmp_path / "labels"
    assert cpvae("assign", place / "run", big, "--out", tmp_path / "all.parquet")[0] == 0
    at_once = parquet.read_table(tmp_path / "all.parquet").to_pandas()
    # what a killed job leaves: shards that are whole, and one aside that is not
    code, said, _ = cpvae("assign", place / "run", big, "--out", out, "--worker", "1/2")
    assert code == 0
    assert "400 rows assigned in 2 shards" in said
    left = out / ".cpvae-part-00000000-00000000-999999999-0.parquet"
    left.write_bytes(b"half")
    made = {f: f.stat().st_mtime_ns for f in out.rglob("*.parquet")}
    code, said, _ = cpvae("assign", place / "run", big, "--out", out)
    assert code == 0
    assert "600 rows assigned in 2 shards" in said
    assert "2 shards were there" in said
    assert all(f.stat().st_mtime_ns == made[f] for f in made if f.exists() and f != left)
    names = [os.path.relpath(f, out) for f in dataset.dataset(out).files]
    assert names == ["a.parquet", "b.parquet", "deep/c.parquet", "deep/d.parquet"]
    in_shards = dataset.dataset(out).to_table().to_pandas()
    pd.testing.assert_frame_equal(in_shards, at_once, rtol=1e-5)
    counts = np.bincount(at_once["component"], minlength=3)
    assert "  ".join(f"{k}: {n}" for k, n in enumerate(counts) if n) in said
    # nothing that is there is taken for this job's
    for data, where in ((place / "one.parquet", out), (big, place), (big, big / "labels")):
        code, _, error = cpvae("assign", place / "run", data, "--out", where)
        assert (code == 2 and "another" in error) or "not empty" in error, error
    code, said, _ = cpvae("assign", place / "run", place / "one.csv", "--out", out, "--overwrite")
    assert code == 0
    assert not (out / "a.parquet").exists()
    assert dataset.dataset(out).to_table().to_pandas().equals(at_once)
    assert cpvae("assign", place / "run", big, "--out", out, "--worker", "2/2")[0] == 2


def test_generate_in_shards(cpvae, place, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS_DRAWN", 40)
    assert cpvae("generate", place / "run", "-n", 100, "--out", tmp_path / "rows")[0] == 0
    rows = dataset.dataset(tmp_path / "rows").to_table().to_pandas()
    assert len(rows) == 100
    assert cpvae("generate", place / "run", "-n", 40, "--out", tmp_path / "few.parquet")[0] == 0
    assert rows.head(40).equals(parquet.read_table(tmp_path / "few.parquet").to_pandas())
    assert not rows["a"].duplicated().any()  # each shard has a stream of its own
    code, _, error = cpvae("generate", place / "run", "-n", 101, "--out", tmp_path / "rows")
    assert code == 2
    assert "another n" in error


def test_evaluate_in_chunks_is_evaluate_at_once(cpvae, place, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 230)
    run = place / "run"
    given = ("--label", "kind", "--samples", 20, "--json")
    whole = json.loads(cpvae("evaluate", run, place / "big", *given)[1])
    monkeypatch.setenv("CPVAE_LARGE", "1")
    chunks = json.loads(cpvae("evaluate", run, place / "one.csv", *given)[1])
    assert whole.keys() - chunks.keys() == {
        *("mutual_information_nats", "mutual_information_se_nats"),
        *("aggregated_kl_z_nats", "aggregated_kl_c_nats"),
    }
    for key in ("n_examples", "components_used", "accuracy", "purity", "nmi", "ari"):
        assert chunks[key] == pytest.approx(whole[key], abs=1e-9), key
    for name in ("elbo_exact", "elbo_relaxed", "log_likelihood", "kl_z", "reconstruction"):
        noise = chunks[f"{name}_noise_se_nats"] + whole[f"{name}_noise_se_nats"]
        difference = chunks[f"{name}_nats"] - whole[f"{name}_nats"]
        assert abs(difference) < 4 * noise + 1e-3, name
        of_rows = chunks[f"{name}_se_nats"], whole[f"{name}_se_nats"]
        assert of_rows[0] == pytest.approx(of_rows[1], rel=0.05), name


def test_scores_of_counts_are_those_of_rows():
    rng = np.random.default_rng(0)
    labels, assigned = rng.integers(0, 4, 500), rng.integers(0, 6, 500)
    assigned[labels == 2] = 5
    table = np.array(
        [[((labels == i) & (assigned == k)).sum() for k in range(6)] for i in range(4)]
    )
    assert scores_of(table) == pytest.approx(cluster_scores(labels, assigned))

import numpy as np
import pandas
import polars
import pytest
import torch
from PIL import Image
from scipy import sparse

from cpvae import CPVAE, data
from cpvae.data import shards

# These packages' ways with one another are theirs
pytestmark = pytest.mark.filterwarnings("default")
COLUMNS = {"a": [1.0, None, 3.0, 4.0], "b": [1, 2, 3, 4], "kind": ["u", "v", "u", "v"]}


def hugging_face():
    import datasets

    return datasets.Dataset.from_dict(COLUMNS)


@pytest.mark.parametrize(
    "make", [lambda: pandas.DataFrame(COLUMNS), lambda: polars.DataFrame(COLUMNS), hugging_face]
)
def test_frames_and_data_sets_of_columns(make):
    source = data.read(make(), label="kind")
    np.testing.assert_array_equal(source.x, [[1, 1], [np.nan, 2], [3, 3], [4, 4]])
    assert source.schema.columns == ("a", "b")
    assert list(source.labels) == COLUMNS["kind"]
    assert data.read(make(), label="kind", drop=["b"]).schema.columns == ("a",)
    assert data.read(make()).schema.levels == {"kind": sorted(set(COLUMNS["kind"]))}
    with pytest.raises(ValueError, match="no column 'z'"):
        data.read(make(), label="z")


def test_images_of_a_hugging_face_data_set():
    import datasets

    pixels = np.random.default_rng(0).integers(256, size=(5, 4, 6), dtype=np.uint8)
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [Image.fromarray(p) for p in pixels], "label": [0, 1, 1, 0, 2]}
    source = data.read(datasets.Dataset.from_dict(columns, features=kinds))
    np.testing.assert_allclose(source.x[:, 0], pixels / 255, rtol=1e-6)
    assert source.labels.tolist() == columns["label"]


def test_a_pytorch_data_set():
    x, y = torch.rand(6, 1, 3, 4), torch.arange(6)
    source = data.read(torch.utils.data.TensorDataset(x, y))
    np.testing.assert_array_equal(source.x, x.numpy())
    assert source.labels.tolist() == list(range(6))
    splits = data.load(torch.utils.data.TensorDataset(x.flatten(1), y))
    assert splits.shape == (12,)
    with pytest.raises(ValueError, match="2 different shapes"):
        data.read([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="A generator cannot be read"):
        data.read(item for item in x)
    with pytest.raises(ValueError, match="has no columns to name"):
        data.read(x.numpy(), label="y")


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix])
def test_anndata_there_and_back(blobs, store):
    import anndata

    x, labels = blobs
    obs = pandas.DataFrame({"kind": labels}, index=[f"cell{i}" for i in range(len(x))])
    var = pandas.DataFrame(index=["g0", "g1", "g2", "g3"])
    cells = anndata.AnnData(store(x), obs=obs, var=var)
    source = data.read(cells, label="kind", drop=["g1"])
    np.testing.assert_array_equal(source.x, x[:, [0, 2, 3]])
    assert source.schema.columns == ("g0", "g2", "g3")
    assert source.rows[3] == "cell3"
    np.testing.assert_array_equal(source.labels, labels)
    model = CPVAE(n_components=3, max_epochs=2, random_state=0).fit(data.read(cells).x)
    data.annotate(cells, model)
    np.testing.assert_array_equal(cells.obs["cpvae"], model.predict(x))
    np.testing.assert_allclose(cells.obsm["X_cpvae"], model.transform(x))
    assert cells.obs["cpvae_probability"].between(1 / 3, 1).all()
    with pytest.raises(ValueError, match="obs has no column 'type'"):
        data.read(cells, label="type")
    with pytest.raises(ValueError, match="no variable 'g9'"):
        data.read(cells, drop=["g9"])


@pytest.mark.usefixtures("without_shape_checks")
def test_cells_that_stay_in_their_file(blobs, tmp_path, monkeypatch):
    import anndata

    x, labels = blobs
    with pandas.option_context("future.infer_string", False):  # anndata cannot write Arrow's text
        obs = pandas.DataFrame({"kind": [f"k{label}" for label in labels]})
        obs.index = [f"cell{i}" for i in range(len(x))]
        var = pandas.DataFrame(index=["g0", "g1", "g2", "g3"])
        anndata.AnnData(x, obs=obs, var=var).write_h5ad(tmp_path / "cells.h5ad")
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    monkeypatch.setattr(shards, "BYTES", 16 * 70)  # 70 cells a chunk
    chunks = list(shards.large_table(cells).chunks(["g2", "g0"]))
    assert [chunk.num_rows for chunk in chunks[:2]] == [70, 70]
    read = np.concatenate([np.column_stack(chunk.columns) for chunk in chunks])
    np.testing.assert_array_equal(read, x[:, [2, 0]])
    splits = data.load(cells, label="kind", drop=["g1"])
    assert splits.schema.columns == ("g0", "g2", "g3")
    found = splits.rows.store
    order = np.lexsort(x[:, [0, 2, 3]].T)
    rows = found.rows(0, len(x))
    mine = np.lexsort(rows.T)
    np.testing.assert_array_equal(rows[mine], x[order][:, [0, 2, 3]])
    assert found.labels(0, len(x))[mine].tolist() == obs["kind"].to_numpy()[order].tolist()
    with pytest.raises(ValueError, match="A part of a backed AnnData"):
        data.load(cells[:100])
    model = CPVAE(n_components=3, max_epochs=1, random_state=0).fit(cells)
    data.annotate(cells, model)
    np.testing.assert_array_equal(cells.obs["cpvae"], model.predict(x))
    for wrong, message in (({"label": "type"}, "no column 'type'"), ({"drop": ["g9"]}, "'g9'")):
        with pytest.raises(ValueError, match=message):
            data.load(cells, **wrong)

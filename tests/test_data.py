import dataclasses
import os
import pickle

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv, parquet

from cpvae import choices, data
from cpvae.data import files, tables
from cpvae.data.arrays import as_examples
from cpvae.data.augment import AUGMENTS
from cpvae.data.checks import check
from cpvae.data.kinds import RULES
from cpvae.data.mnist import ArraysOnly, from_idx, to_idx
from cpvae.data.omniglot import average_down, split_by_drawer, unpack
from cpvae.data.schema import Schema
from cpvae.models.build import MODELS
from cpvae.models.heads import HEADS
from cpvae.models.networks import NETWORKS
from cpvae.models.numbers import NumberHead


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "a": rng.normal(size=50),
            "b": rng.integers(9, size=50),
            "flag": rng.integers(2, size=50).astype(bool),
            "kind": [f"kind {i % 3}" for i in range(50)],
        }
    )


def write(table, path):
    (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(table, path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_tables(table, tmp_path, ending):
    path = write(table, tmp_path / f"t{ending}")
    splits = data.load(path, label="kind")
    assert splits.schema.columns == ("a", "b", "flag")
    assert splits.shape == (3,)
    assert [len(part.x) for part in (splits.train, splits.valid, splits.test)] == [40, 5, 5]
    together = np.concatenate([splits.train.x, splits.valid.x, splits.test.x])
    np.testing.assert_allclose(sorted(together[:, 0]), sorted(table["a"].to_numpy()), rtol=1e-6)
    assert data.load(path, drop=("kind", "a")).schema.columns == ("b", "flag")
    known = Schema((2,), ("b", "a"))
    np.testing.assert_array_equal(data.read(path, schema=known).x, data.read(path).x[:, [1, 0]])


def test_labels_stay_with_their_rows(tmp_path):
    x = np.arange(60, dtype=np.float64).reshape(30, 2)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(30))
    splits = data.load(tmp_path / "d.npz")
    for part in (splits.train, splits.valid, splits.test):
        np.testing.assert_array_equal(part.x[:, 0] / 2, part.labels)


def test_the_split_is_seeded_and_disjoint(tmp_path):
    np.save(tmp_path / "d.npy", np.arange(100.0))
    one, same, other = (data.load(tmp_path / "d.npy", seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.train.x, same.train.x)
    assert not np.array_equal(one.train.x, other.train.x)
    together = np.concatenate([one.train.x, one.valid.x, one.test.x])
    assert sorted(together.ravel()) == list(range(100))


def test_arrays(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(20, 5, 4), dtype=np.uint8)
    np.savez(
        tmp_path / "own.npz",
        x_train=images,
        y_train=np.arange(20),
        x_test=images[:4],
        y_test=np.arange(4),
    )
    own = data.load(tmp_path / "own.npz")
    assert len(own.test.x) == 4
    assert own.shape == (1, 5, 4)
    assert own.train.x.max() <= 1
    np.testing.assert_allclose(own.test.x[:, 0] * 255, images[:4], rtol=1e-5)
    np.save(tmp_path / "colour.npy", rng.random((20, 6, 7, 3)))
    assert data.load(tmp_path / "colour.npy").shape == (3, 6, 7)
    assert as_examples(np.array([[0, 200]], dtype=np.uint8), "t").max() == 200  # a table of bytes


def test_folder_of_images(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(6):
            pixels = np.random.default_rng(i).integers(256, size=(5, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    source = data.read(tmp_path)
    assert source.x.shape == (12, 1, 5, 4)
    assert source.labels.tolist() == ["cat"] * 6 + ["dog"] * 6
    assert source.rows[0] == "cat/0.png"
    for images in (tmp_path, tmp_path / "cat" / "0.png"):
        with pytest.raises(ValueError, match="not a table with named columns: leave out --label"):
            data.read(images, label="kind")
    Image.fromarray(np.full((5, 4, 3), 100, dtype=np.uint8)).save(tmp_path / "dog" / "colour.png")
    assert data.read(tmp_path).x.shape == (13, 3, 5, 4)


def test_digits():
    splits = data.load("digits")
    assert splits.shape == (1, 8, 8)
    assert [len(p.x) for p in (splits.train, splits.valid, splits.test)] == [1437, 180, 180]
    assert (splits.train.x.min(), splits.train.x.max()) == (0, 1)


# --- refusals ------------------------------------------------------------------------------------


def test_refuses_values_that_cannot_be_learned_from():
    good = np.random.default_rng(0).random((9, 3)).astype(np.float32)
    schema = Schema((3,), ("width", "height", "depth"))
    check(good)
    bad = good.copy()
    bad[2, 1] = np.nan
    check(bad)  # a table may miss values
    with pytest.raises(ValueError, match="1 NaN or infinite values"):
        check(bad.reshape(9, 1, 3, 1))  # an image may not
    with pytest.raises(ValueError, match="NaN or infinite values in column height"):
        schema.check_values(bad)
    schema.check_values(bad, missing=True)
    bad[2, 1] = np.inf
    with pytest.raises(ValueError, match="1 infinite values in column height"):
        check(bad, ["width", "height", "depth"])
    bad = good.copy()
    bad[:, 1] = np.nan
    with pytest.raises(ValueError, match="Column height has no values: drop it"):
        check(bad, ["width", "height", "depth"])
    bad = good.copy()
    bad[4:6] = np.nan
    with pytest.raises(ValueError, match="2 rows have no values, row 4 first: drop them"):
        check(bad)
    with pytest.raises(ValueError, match="empty"):
        check(good[:0])
    with pytest.raises(ValueError, match="one row"):
        check(good[:1])
    with pytest.raises(ValueError, match="all rows are equal"):
        check(np.ones((5, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="neither a table"):
        check(np.ones((5, 3, 2), dtype=np.float32))
    bad = good.copy()
    bad[:, 2] = 7
    with pytest.raises(ValueError, match="Column depth is constant.*drop it"):
        schema.with_kinds_and_units(bad, "gaussian")
    with pytest.raises(ValueError, match=r"shape \(3,\), and the model was fitted to shape \(4,\)"):
        Schema((4,)).check_values(good)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_refuses_columns_that_are_not_there(table, tmp_path, ending):
    path = write(table, tmp_path / f"t{ending}")
    with pytest.raises(ValueError, match="no column 'size': it has a, b, flag, kind"):
        data.load(path, label="size")
    with pytest.raises(ValueError, match="no column 'z'"):
        data.read(path, schema=Schema((2,), ("a", "z")))


def with_levels(source, levels):
    return dataclasses.replace(source.schema, levels=levels)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_text_is_categories_and_text_again(tmp_path, ending):
    columns = {
        "a": [1.5, 2, 3, 4] * 5,
        "pet": ["dog", "cat", None, "cat"] * 5,
        "n": [7, 9, 8, 8] * 5,
    }
    path = write(pa.table(columns), tmp_path / f"t{ending}")
    source = data.read(path)
    assert source.schema.columns == ("a", "pet", "n")
    assert source.schema.levels == {"pet": ["cat", "dog"]}
    np.testing.assert_array_equal(source.x[:4, 1], [1, 0, np.nan, 0])
    again = source.schema.decode(source.x)
    assert again["pet"][:4].tolist() == ["dog", "cat", None, "cat"]
    np.testing.assert_array_equal(again["a"], source.x[:, 0])
    shown, names = source.schema.indicators(source.x)
    assert names == ["a", "pet", "pet", "n"]
    np.testing.assert_array_equal(shown[:3, 1:3], [[0, 1], [1, 0], [np.nan, np.nan]])
    numbers = data.read(path, kinds={"n": "categorical"})
    assert numbers.schema.levels == {"pet": ["cat", "dog"], "n": ["7", "8", "9"]}
    np.testing.assert_array_equal(numbers.x[:2, 2], [0, 2])
    known = data.read(path, schema=with_levels(source, {"pet": ["ant", "cat", "dog"]}))
    np.testing.assert_array_equal(known.x[:2, 1], [2, 1])
    alike = data.read(path, ["pet", "a"], {"pet": ["ant", "cat", "dog"]})
    np.testing.assert_array_equal(alike.x, known.x[:, [1, 0]])
    with pytest.raises(ValueError, match="digits is no table: leave out columns"):
        data.read("digits", columns=["pet"])
    with pytest.warns(UserWarning, match="such as 'dog' in column pet"):
        few = data.read(path, schema=with_levels(source, {"pet": ["cat"]}))
    np.testing.assert_array_equal(few.x[:3, 1], [np.nan, 0, np.nan])
    with pytest.raises(ValueError, match="pet holds 'dog' in row 1, and the model was fitted to n"):
        data.read(path, schema=with_levels(source, {}))
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("a,b\nNA,1\n2,2\nlow,3\n")
    with pytest.raises(ValueError, match="column a holds 'low' in row 3, and"):
        data.read(mixed, schema=Schema((2,), ("a", "b")))
    parts = data.load(path)
    assert parts.schema.levels == source.schema.levels


def test_text_that_is_no_category_is_refused(tmp_path):
    rows = "\n".join(f"{i},name {i}" for i in range(30))
    (tmp_path / "t.csv").write_text(f"a,who\n{rows}\n")
    with pytest.raises(ValueError, match="column who is text with 30 different.*--drop"):
        data.load(tmp_path / "t.csv", kinds={"who": "categorical"})
    bits = pa.array([b"0", b"1"] * 5, pa.binary())
    parquet.write_table(pa.table({"a": range(10), "bits": bits}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column bits holds binary, neither.*--drop"):
        data.load(tmp_path / "t.parquet")


def test_empty_cells_are_missing_values(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n3,\nNA,4\n" * 10)
    source = data.read(tmp_path / "t.csv")
    np.testing.assert_array_equal(np.isnan(source.x).sum(0), [10, 10])
    splits = data.load(tmp_path / "t.csv")
    assert splits.schema.missing
    assert not data.load("digits").schema.missing


def test_refuses_columns_of_the_same_name(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,a\n" + "1,2,3\n4,5,6\n" * 5)
    with pytest.raises(ValueError, match="several columns named a: rename them"):
        data.load(tmp_path / "t.csv")


def test_refuses_what_single_precision_cannot_hold(tmp_path):
    rng = np.random.default_rng(0)
    for scale, shift, message in [(1e300, 0.0, "too large for single"), (1, 1e9, "too little")]:
        lines = [f"{shift + scale * v!r},{v}" for v in rng.normal(size=20).tolist()]
        (tmp_path / "t.csv").write_text("far,b\n" + "\n".join(lines))
        with pytest.raises(ValueError, match=f"column far .*{message}"):
            data.load(tmp_path / "t.csv")


def test_semicolons_and_tabs_separate_columns_too(tmp_path):
    for mark in ";\t":
        (tmp_path / "t.csv").write_text(f"a{mark}b\n" + f"1.5{mark}2.5\n3{mark}4\n" * 5)
        source = data.read(tmp_path / "t.csv")
        assert source.schema.columns == ("a", "b")
        assert source.x[:2].tolist() == [[1.5, 2.5], [3, 4]]


def test_refuses_a_table_without_a_header(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n" * 10)
    with pytest.raises(ValueError, match="header"):
        data.load(tmp_path / "t.csv")


def test_refuses_files_that_are_not_what_they_say(tmp_path):
    with pytest.raises(ValueError, match="neither a file nor a folder here nor a data set"):
        data.load(tmp_path / "nothing.csv")
    for ending in (".csv", ".parquet", ".npz", ".npy"):
        (tmp_path / f"empty{ending}").touch()
        with pytest.raises(ValueError, match="empty file"):
            data.load(tmp_path / f"empty{ending}")
    (tmp_path / "data.doc").write_text("x")
    with pytest.raises(ValueError, match=r"'.doc': use .npz"):
        data.load(tmp_path / "data.doc")
    np.savez_compressed(tmp_path / "whole.npz", x=np.random.default_rng(0).random((50, 9)))
    np.save(tmp_path / "whole.npy", np.random.default_rng(0).random((50, 9)))
    write(pa.table({"a": np.random.default_rng(0).random(500)}), tmp_path / "whole.parquet")
    for ending in (".npz", ".npy", ".parquet"):
        content = (tmp_path / f"whole{ending}").read_bytes()
        (tmp_path / f"cut{ending}").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="truncated"):
            data.load(tmp_path / f"cut{ending}")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3,4\n5\n")
    with pytest.raises(ValueError, match=r"line 4 has not the 2 cells that the header has: 5$"):
        data.load(tmp_path / "ragged.csv")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match="numbers are needed"):
        data.load(tmp_path / "text.npy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(tmp_path / "objects.npy")
    np.savez(tmp_path / "odd.npz", first=np.ones((3, 2)), second=np.ones(3))
    with pytest.raises(ValueError, match="name the examples 'x'"):
        data.load(tmp_path / "odd.npz")


def test_images_are_brought_to_a_size_and_what_hangs_over_is_cut(tmp_path):
    tall = np.zeros((12, 4, 3), dtype=np.uint8)
    tall[4:8] = (255, 0, 255)  # the middle third
    Image.fromarray(tall).save(tmp_path / "a.png")
    Image.fromarray(tall[4:8]).save(tmp_path / "b.png")
    x = data.read(tmp_path, size=(2, 2)).x
    assert x.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(x[1], np.broadcast_to([[[1]], [[0]], [[1]]], (3, 2, 2)))
    np.testing.assert_allclose(x[0], x[1], atol=0.2)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match="not a folder of images: leave out --size"):
        data.read(tmp_path / "x.npy", size=(2, 2))


def test_refuses_images_of_different_sizes_and_broken_ones(tmp_path):
    with pytest.raises(ValueError, match="no images in it"):
        data.load(tmp_path)
    for i, size in enumerate([(5, 4), (5, 4), (6, 4)]):
        Image.fromarray(np.zeros(size, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"sizes: 5x4 \(2\), 6x4 \(1\)\. .*--size 5x4"):
        data.load(tmp_path)
    assert data.read(tmp_path, size=(3, 2)).x.shape == (3, 1, 3, 2)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"2.png cannot be read as an image"):
        data.load(tmp_path)


# --- named data sets -----------------------------------------------------------------------------


def test_the_unpickler_reads_arrays_and_refuses_all_else():
    import io

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    old = pickle.dumps(array, protocol=2).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(ArraysOnly(io.BytesIO(old), encoding="latin1").load(), array)

    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(ValueError, match="refused"):
        ArraysOnly(io.BytesIO(pickle.dumps(Evil()))).load()


def test_idx_round_trip():
    array = np.random.default_rng(0).integers(256, size=(3, 5, 4), dtype=np.uint8)
    np.testing.assert_array_equal(from_idx(to_idx(array)), array)


def test_area_average_keeps_the_ink_and_a_checkerboard_becomes_grey():
    ink = np.random.default_rng(0).integers(2, size=(4, 105, 105))
    small = average_down(ink)
    assert small.shape == (4, 28, 28)
    np.testing.assert_allclose(small.mean((1, 2)) / 255, ink.mean((1, 2)), atol=0.002)
    np.testing.assert_array_equal(average_down(np.ones((1, 105, 105))), np.full((1, 28, 28), 255))
    blocks = np.kron(np.eye(4), np.ones((2, 2)))[np.newaxis]
    np.testing.assert_array_equal(average_down(blocks, 4)[0], 255 * np.eye(4))


def test_named_sets_that_are_not_what_they_should_be_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CPVAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="CPVAE_DATA=.* is not a folder"):
        data.load("mnist")
    monkeypatch.setenv("CPVAE_DATA", str(tmp_path))
    fake = {"x_train": (3, 28, 28), "y_train": (3,), "x_test": (2, 28, 28), "y_test": (2,)}
    np.savez(tmp_path / "mnist.npz", **{k: np.zeros(s, np.uint8) for k, s in fake.items()})
    with pytest.raises(ValueError, match="does not hold the original MNIST"):
        data.load("mnist")
    (tmp_path / "omniglot_105.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="cannot be read as Omniglot"):
        data.load("omniglot")
    with pytest.raises(ValueError, match="is taken as it is: leave out --label"):
        data.load("digits", label="x")


def test_chardata_is_used_where_it_is(tmp_path, monkeypatch):
    from scipy.io import savemat

    monkeypatch.setenv("CPVAE_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    train, test = rng.integers(2, size=(784, 24_345)), rng.integers(2, size=(784, 8_070))
    savemat(
        tmp_path / "chardata.mat",
        {"data": train.astype(np.uint8), "testdata": test.astype(np.uint8)},
    )
    splits = data.load("omniglot")
    assert [len(p.x) for p in (splits.train, splits.valid, splits.test)] == [23_000, 1_345, 8_070]
    np.testing.assert_array_equal(splits.test.x[5, 0], test[:, 5].reshape(28, 28).T)


def test_real_mnist(real):
    splits = real("mnist", "mnist.npz")
    assert [len(p.x) for p in (splits.train, splits.valid, splits.test)] == [50_000, 10_000, 10_000]
    assert splits.shape == (1, 28, 28)
    assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert splits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_real_omniglot(real):
    splits = real("omniglot", "omniglot_105.npz")
    assert [len(p.x) for p in (splits.train, splits.valid, splits.test)] == [23_000, 1_345, 8_070]
    assert splits.shape == (1, 28, 28)
    assert 0.05 < splits.train.x.mean() < 0.15
    again = data.load("omniglot")  # from the cache now
    np.testing.assert_array_equal(splits.test.x, again.test.x)


def test_drawers_of_the_test_part_are_not_in_the_others():
    drawer = np.tile(np.arange(1, 21), 1623)
    train, valid, test = split_by_drawer(drawer)
    assert (len(train), len(valid), len(test)) == (23_000, 1_345, 8_070)
    assert not set(drawer[test]) & set(drawer[np.concatenate([train, valid])])
    assert len(np.unique(np.concatenate([train, valid, test]))) == 32_415


def test_mnist_from_mirrors_is_packed_files_one_by_one(monkeypatch):
    import gzip

    from cpvae.data import mnist

    rng = np.random.default_rng(0)
    arrays = {
        key: rng.integers(256, size=(4, 28, 28) if key.startswith("x") else 4, dtype=np.uint8)
        for key in mnist.FILES
    }
    asked = []

    def download(urls, algorithm, digest):
        asked.extend(urls)
        key = next(k for k, (name, packed, _) in mnist.FILES.items() if packed == digest)
        assert all(url.endswith(mnist.FILES[key][0] + ".gz") for url in urls)
        return gzip.compress(to_idx(arrays[key]))

    monkeypatch.setattr(mnist, "download", download)
    for key, array in mnist.from_mirrors().items():
        np.testing.assert_array_equal(array, arrays[key])
    assert len(asked) == len(mnist.MIRRORS) * 4
    assert not mnist.genuine(arrays)
    monkeypatch.setattr(mnist, "download", lambda *_: None)
    assert mnist.from_mirrors() is None


def test_omniglot_archives_are_read_by_alphabet_and_drawer():
    import io
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for alphabet, drawer in [("Greek", 3), ("Latin", 20)]:
            pixels = np.full((105, 105), 255, np.uint8)
            pixels[drawer] = 0  # black ink on white paper
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "png")
            name = f"images_background/{alphabet}/character01/0001_{drawer:02d}.png"
            archive.writestr(name, picture.getvalue())
    images, drawers, alphabets = [], [], []
    unpack(content.getvalue(), images, drawers, alphabets)
    assert (drawers, alphabets) == ([3, 20], ["Greek", "Latin"])
    for image, drawer in zip(images, drawers, strict=True):
        assert image[drawer].all()
        assert image.sum() == 105


def test_downloads_are_checked_and_the_next_mirror_is_tried(tmp_path):
    from cpvae.data.fetch import download

    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"content")
    bad.write_bytes(b"something else")
    urls = [(tmp_path / "nowhere").as_uri(), bad.as_uri(), good.as_uri()]
    digest = "9a0364b9e99bb480dd25e1f0284c8555"
    assert download(urls, "md5", digest) == b"content"
    assert download(urls[:2], "md5", digest) is None
    assert download(["", "nothing://x", "http://[bad", good.as_uri()], "md5", digest) == b"content"


def test_mirrors_that_trickle_break_off_or_never_end_are_left(tmp_path, monkeypatch):
    import http.server
    import threading
    import time

    from cpvae.data import fetch

    ended = threading.Event()

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.path == "/breaks-off":
                self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"half")
            while self.path != "/breaks-off" and not ended.wait(0.01):
                self.wfile.write(b"a" * (1 if self.path == "/trickles" else 10_000))

        def log_message(self, *_):
            pass

    monkeypatch.setattr(fetch, "MOST", 50_000)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "good").write_bytes(b"content")
    begun = time.monotonic()
    digest, good = "9a0364b9e99bb480dd25e1f0284c8555", (tmp_path / "good").as_uri()
    for path in ("breaks-off", "trickles", "never-ends"):
        url = f"http://127.0.0.1:{server.server_port}/{path}"
        assert fetch.download([url], "md5", digest, total=0.3) is None
        assert fetch.download([url, good], "md5", digest, total=0.3) == b"content"
    assert time.monotonic() - begun < 20
    ended.set()
    server.shutdown()
    server.server_close()


def test_choices_are_those_of_the_code():
    assert tuple(data.NAMED) == choices.DATASETS
    assert tuple(files.READERS) == choices.ARRAYS
    assert tuple(tables.READERS) == choices.TABLES
    assert tuple(AUGMENTS) == choices.INVARIANCES
    assert tuple(RULES) == (NumberHead.kind, *HEADS) == choices.KINDS
    assert tuple(NETWORKS) == choices.NETWORKS
    assert tuple(MODELS) == choices.SYSTEMS

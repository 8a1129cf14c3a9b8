"""Files with tables other than plain CSV, and the index that comes along into them."""

import bz2
import gzip
import lzma

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from cpvae import choices, data
from cpvae.data import tables

N = 24
CONTENT = b"a,b\n" + b"".join(b"%d,%d.5\n" % (i % 7, i) for i in range(N))


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pandas.DataFrame({"h": rng.normal(size=N), "w": rng.normal(size=N)})


def index_notes(source):
    return [note for note in source.notes if "index" in note]


def test_an_index_of_pandas_is_no_column(frame, tmp_path):
    file = tmp_path / "t.parquet"
    named = frame.set_index(pandas.Index(np.arange(N) ** 2, name="key"))
    for indexed in (
        frame[frame.h > 0],
        named,
        frame.set_index([np.arange(N) // 2, np.arange(N) % 2]),
    ):
        indexed.to_parquet(file)
        source = data.read(file)
        assert source.columns == tuple(pandas.read_parquet(file).columns) == ("h", "w")
        assert len(index_notes(source)) == 1
    named.to_parquet(file)
    assert "column 'key' is the index" in data.read(file).notes[0]
    assert data.read(file, label="key").labels.tolist() == [i**2 for i in range(N)]
    assert data.read(file, drop=["key"]).columns == ("h", "w")
    frame.to_parquet(file)
    assert not data.read(file).notes
    stripped = pa.table({"h": frame.h, "__index_level_0__": frame.index})
    parquet.write_table(stripped, file)
    assert data.read(file).columns == ("h",)
    assert data.read(pa.Table.from_pandas(frame[::2])).columns == ("h", "w")


@pytest.mark.parametrize(
    ("ending", "packed"),
    [
        (".csv", bytes),
        (".CSV", bytes),
        (".txt", bytes),
        (".csv.gz", gzip.compress),
        (".csv.bz2", bz2.compress),
        (".txt.xz", lzma.compress),
        (".csv.zst", lambda content: pa.compress(content, "zstd", asbytes=True)),
        (".tsv", lambda content: content.replace(b",", b"\t")),
        (".tab", lambda content: content.replace(b",", b"\t")),
    ],
)
def test_files_of_text(tmp_path, ending, packed):
    (tmp_path / f"name{ending}").write_bytes(packed(CONTENT))
    source = data.read(tmp_path / f"name{ending}")
    assert (source.name, source.columns, source.notes) == ("name", ("a", "b"), ())
    np.testing.assert_array_equal(source.x[3], [3, 3.5])


def test_files_of_columns(frame, tmp_path):
    table = pa.Table.from_pandas(frame)
    feather.write_feather(table, tmp_path / "t.feather")
    polars.DataFrame(frame).write_ipc(tmp_path / "t.arrow")
    with (
        pa.OSFile(str(tmp_path / "s.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    parquet.write_table(table, tmp_path / "t.pq")
    (tmp_path / "parts").mkdir()
    for i in range(2):
        parquet.write_table(table[12 * i : 12 * i + 12], tmp_path / "parts" / f"{i}.parquet")
    for name in ("t.feather", "t.arrow", "s.arrow", "t.pq", "parts"):
        source = data.read(tmp_path / name, label="h")
        assert source.columns == ("w",)
        np.testing.assert_allclose(source.x[:, 0], frame.w, rtol=1e-6)
    frame.assign(c=["u", "v"] * 12).to_parquet(tmp_path / "by", partition_cols=["c"])
    assert data.read(tmp_path / "by").levels == {"c": ["u", "v"]}


def test_excel_files(frame, tmp_path):
    file = tmp_path / "t.xlsx"
    told = frame.assign(
        zip=["00501", "02139"] * 12, price=["1,5 \u20ac", "2 \u20ac"] * 12, ok=[True, False] * 12
    )
    told.loc[3, "h"] = None
    with pandas.ExcelWriter(file) as book:
        told.to_excel(book, sheet_name="one", startrow=2)
        frame.to_excel(book, sheet_name="two")
        book.sheets["one"]["A1"] = "Figures of May"
    source = data.read(file)
    assert source.columns == ("h", "w", "zip", "price", "ok")
    assert source.levels == {"zip": ["00501", "02139"], "ok": ["false", "true"]}
    assert np.isnan(source.x[3, 0])
    np.testing.assert_array_equal(source.x[:2, 3:], [[1.5, 1], [2, 0]])
    notes = " ".join(source.notes)
    for said in ("'Figures of May', left out", "is read as 1.5", "the index", "2 sheets the first"):
        assert said in notes
    file.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"cannot be read as a .xlsx file .*: save it as .xlsx"):
        data.read(file)


def test_files_that_are_not_read(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CONTENT)[:40])
    with pytest.raises(ValueError, match=r"t.csv.gz cannot be read as a .csv file .*truncated"):
        data.read(tmp_path / "t.csv.gz")
    for name, said in (("t.xls", "'.xls'"), ("t.npy.gz", r"'.npy'.*packed")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match=f"ends in {said}"):
            data.read(tmp_path / name)
    (tmp_path / "t.feather").write_bytes(b"x" * 90)
    with pytest.raises(ValueError, match=r"cannot be read as a .feather file"):
        data.read(tmp_path / "t.feather")


def test_a_column_may_be_left_out_for_two_reasons(tmp_path):
    (tmp_path / "t.csv").write_bytes(CONTENT)
    for what in ({"drop": ["a", "a"]}, {"drop": ["a"], "label": "a"}):
        assert data.read(tmp_path / "t.csv", **what).columns == ("b",)


def test_text_that_means_something_stays_where_missing_is_null(tmp_path):
    words = ["NA", "nan", "", None, "null", " NA"]
    table = pa.table({"h": np.arange(24) / 7, "country": words * 4})
    parquet.write_table(table, tmp_path / "t.parquet")
    source = data.read(tmp_path / "t.parquet")
    assert source.levels == {"country": ["", " NA", "NA", "nan", "null"]}
    assert np.isnan(source.x[:, 1]).sum() == 4
    (tmp_path / "t.csv").write_text("h,country\n1,NA\n2,null\n3, NA\n4,\n")
    known = data.read(tmp_path / "t.csv", schema=source.schema)
    assert [source.levels["country"][int(i)] for i in known.x[:, 1]] == ["NA", "null", "NA", ""]


def test_numbers_for_people_in_a_column_of_text_are_refused(tmp_path):
    for cells, said in (
        (["12%", "7%"], "is text such as '12%': write numbers with a decimal point"),
        (["1,5", "2.5"], r"numbers written in two ways, both '2.5' and '1,5'"),
    ):
        table = pa.table({"h": np.arange(24) / 7, "x": cells * 12})
        with pytest.raises(ValueError, match=f"column x {said}|column x has {said}"):
            data.read(table)
        assert data.read(table, kinds={"x": "categorical"}).levels == {"x": cells}
    codes = pa.table({"h": np.arange(24) / 7, "zip": ["00501", "02139"] * 12})
    assert data.read(codes).levels == {"zip": ["00501", "02139"]}
    many = pa.table({"h": np.arange(24) / 7, "x": [f"{i}.5" for i in range(24)]})
    with pytest.raises(ValueError, match="if it is numbers, make its type a number"):
        data.read(many)


def test_endings_are_those_of_the_choices():
    assert {tables.ending_of(tables.Path(f"x{ending}")) for ending in tables.ALIKE} <= set(
        choices.TABLES
    )

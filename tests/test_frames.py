"""Frames and arrays go in and come back: names, dtypes, index, layout, whole numbers."""

from decimal import Decimal

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from cpvae import CPVAE, data
from cpvae.data.columns import Form, decimals_of
from cpvae.data.encoding import with_declared
from cpvae.data.objects import encode_frame
from cpvae.data.schema import Schema

pytestmark = pytest.mark.usefixtures("without_shape_checks")

N = 120
RNG = np.random.default_rng(0)
GROUP = RNG.integers(3, size=N)
AGE = 20 + 20 * GROUP + RNG.integers(9, size=N)
GONE = np.arange(N) % 7 == 0


def quick(x, **settings):
    return CPVAE(2, max_epochs=1, random_state=0, **settings).fit(x)


def with_holes(values, dtype):
    return pandas.Series(values).astype(dtype).mask(GONE)


def columns_of_numbers():
    """A column of every dtype of numbers, some with gaps."""
    return {
        "int16": pandas.Series(AGE, dtype="int16"),
        "uint8": pandas.Series(AGE, dtype="uint8"),
        "float32": with_holes(AGE, "float32"),
        "Int64": with_holes(AGE, "Int64"),
        "UInt8": with_holes(AGE, "UInt8"),
        "Float64": with_holes(AGE / 4, "Float64"),
        "arrow": with_holes(AGE, "int16[pyarrow]"),
        "double": with_holes(AGE / 4, "double[pyarrow]"),
        "Decimal": pandas.Series([None if i % 7 == 0 else Decimal(int(AGE[i])) for i in range(N)]),
        "decimal": pandas.Series(
            [Decimal(int(a)) / 4 for a in AGE], dtype=pandas.ArrowDtype(pa.decimal128(7, 2))
        ).mask(GONE),
        "Sparse": pandas.arrays.SparseArray(np.where(GROUP == 1, AGE, 0), fill_value=0),
        "price": np.round(AGE / 7, 2),
    }


def columns_of_categories():
    text = np.array(["low", "middle", "high"])[GROUP]
    return {
        "str": pandas.Series(text).mask(GONE),
        "object": pandas.Series(text, dtype=object).mask(GONE, None),
        "string": pandas.Series(text, dtype="string").mask(GONE),
        "arrow": pandas.Series(text, dtype=pandas.ArrowDtype(pa.string())).mask(GONE),
        "bool": GROUP == 1,
        "boolean": with_holes(GROUP == 1, "boolean"),
        "ordered": pandas.Categorical(text, ["low", "middle", "high", "unseen"], ordered=True),
        "numbers": pandas.Series(pandas.Categorical(10 * GROUP)).mask(GONE),
        "halves": pandas.Categorical(GROUP / 2),
        "truths": pandas.Categorical(GROUP == 1),
        "days": pandas.Categorical(pandas.to_datetime(["2020-01-01", "2020-02-01"])[GROUP % 2]),
        "bands": pandas.Series(pandas.cut(AGE, 3)).mask(GONE),
        "left": pandas.cut(AGE, [0, 30, 50, 99], right=False),
        "sparse": pandas.arrays.SparseArray(GROUP == 1),
        "NA": np.array(["NA", "ZA", "nan"])[GROUP],
    }


@pytest.fixture(
    scope="module",
    params=[columns_of_numbers, columns_of_categories],
    ids=["numbers", "categories"],
)
def fitted(request, tmp_path_factory):
    index = pandas.Index(RNG.permutation(N) + 1000, name="who")
    frame = pandas.DataFrame({"height": AGE / 3 + RNG.normal(size=N), **request.param()})
    model = quick(frame.set_index(index))
    run = tmp_path_factory.mktemp("runs") / "run"
    model.save(run)
    return frame.set_index(index), model, CPVAE.load(run)


def test_draws_have_the_names_and_dtypes_of_the_frame(fitted):
    frame, model, loaded = fitted
    drawn, _ = model.sample(40, random_state=0)
    pandas.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    pandas.testing.assert_frame_equal(loaded.sample(40, random_state=0)[0], drawn)
    assert not drawn.isna().any(axis=None)
    for name in frame.columns.drop("height"):
        seen = frame[name].dropna()
        if drawn[name].dtype.kind in "iuf" and name not in ("price", "double", "Float64"):
            assert (drawn[name] == np.round(drawn[name].astype(float))).all(), name
        elif name == "price":
            np.testing.assert_array_equal(drawn[name], drawn[name].round(2))
        elif name not in ("Decimal", "decimal", "double", "Float64"):
            assert drawn[name].isin(seen.unique()).all(), name


def test_what_is_missing_is_filled_in_its_dtype(fitted):
    frame, model, _ = fitted
    filled = model.impute(frame)
    pandas.testing.assert_series_equal(filled.dtypes, frame.dtypes)
    assert filled.index.equals(frame.index)
    assert not filled.isna().any(axis=None)
    for name in frame:
        there = frame[name].notna()
        assert (filled[name][there].astype(object) == frame[name][there].astype(object)).all()


def test_what_is_rebuilt_belongs_to_its_row(fitted):
    frame, model, _ = fitted
    again = model.reconstruct(frame)
    assert again.index.equals(frame.index)
    assert list(again) == list(frame)
    assert (frame["height"] - again["height"]).notna().all()
    assert (again["height"] - frame["height"]).abs().mean() < frame["height"].std() * 2


def test_a_boolean_without_gaps_and_means_of_numbers():
    frame = pandas.DataFrame({"h": AGE / 3, "n": AGE, "yes": GROUP == 1})
    model = quick(frame)
    mean, _ = model.sample(9, mean=True)
    assert not (mean["n"] == mean["n"].round()).all()
    assert mean["yes"].dtype == bool


@pytest.mark.parametrize(
    "names",
    [
        pandas.MultiIndex.from_tuples([("size", "h"), ("size", "w"), ("look", "c")]),
        pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", "")], names=["x", "y"]),
        pandas.Index([5, 9, 7]),
        pandas.RangeIndex(3),
        pandas.Index(["h", "w", "c"], name="feature"),
    ],
)
def test_names_of_columns_that_are_no_text(names, tmp_path):
    colour = np.array(["red", "green", "blue"])[GROUP]
    frame = pandas.DataFrame({"h": AGE / 3, "w": -AGE / 7, "c": colour})
    frame.columns = names
    model = quick(frame)
    assert model.config_["kinds"] == ["number", "number", "categorical"]
    drawn, _ = model.sample(20, random_state=0)
    pandas.testing.assert_index_equal(drawn.columns, names, exact=True)
    assert set(drawn.iloc[:, 2]) <= set(colour)
    model.save(tmp_path / "run")
    loaded = CPVAE.load(tmp_path / "run")
    pandas.testing.assert_frame_equal(loaded.sample(20, random_state=0)[0], drawn)
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    if not all(isinstance(name, str) for name in names):
        turned = frame.iloc[:, [2, 0, 1]]
        np.testing.assert_array_equal(model.predict(turned), model.predict(frame))
        holes = turned.mask(np.column_stack([GONE, GONE, ~GONE]))
        pandas.testing.assert_frame_equal(
            model.impute(holes), model.impute(holes[frame.columns])[turned.columns]
        )


def test_kinds_go_by_any_name():
    frame = pandas.DataFrame(np.column_stack([AGE / 3, GROUP]), columns=[4, ("a", "b")])
    model = quick(frame, kinds={("a", "b"): "categorical"})
    assert model.levels_ == {"('a', 'b')": ["0", "1", "2"]}
    assert set(model.sample(20)[0][("a", "b")]) <= {0.0, 1.0, 2.0}


def test_frames_of_other_classes():
    class Frame(pandas.DataFrame):
        pass

    frame = Frame({"h": AGE / 3, "c": np.array(["a", "b", "c"])[GROUP]})
    assert isinstance(quick(frame).sample(3)[0], pandas.DataFrame)
    table = pa.Table.from_pandas(frame[frame.h > 9])
    model = quick(table)
    assert model.n_features_in_ == 2
    assert list(model.impute(table)) == list(model.reconstruct(table)) == ["h", "c"]
    with pytest.raises(ValueError, match="several columns named h: rename them"):
        quick(pandas.concat([frame, frame.h], axis=1))
    with pytest.raises(ValueError, match="Column p cannot be read"):
        quick(frame.assign(p=[1j] * N))


def test_a_frame_that_is_read_first_comes_back_too():
    frame = pandas.DataFrame({"h": AGE / 3, "n": pandas.Series(AGE, dtype="Int16"), "y": GROUP})
    model = quick(data.load(frame, label="y"))
    pandas.testing.assert_series_equal(model.sample(3)[0].dtypes, frame.dtypes[:2])


def test_polars_dtypes():
    frame = polars.DataFrame(
        {
            "h": AGE / 3,
            "small": polars.Series(AGE, dtype=polars.UInt8),
            "single": polars.Series(AGE, dtype=polars.Float32),
            "money": polars.Series(AGE).cast(polars.Decimal(10, 2)),
            "level": polars.Series(np.array(["b", "c", "a"])[GROUP], dtype=polars.Enum("xabc")),
            "code": polars.Series(np.array(["b", "c", "a"])[GROUP], dtype=polars.Categorical),
            "yes": GROUP == 1,
        }
    )
    model = quick(frame)
    assert model.sample(9)[0].schema == frame.schema
    holes = frame.with_columns(
        polars.when(polars.Series(GONE)).then(None).otherwise(polars.col(name)).alias(name)
        for name in frame.columns[1:]
    )
    filled = quick(holes).impute(holes)
    assert filled.schema == frame.schema
    assert filled.null_count().sum_horizontal().item() == 0
    assert isinstance(model.reconstruct(frame), polars.DataFrame)


def test_numbers_alone_are_a_frame_too():
    frame = pandas.DataFrame({"height": AGE / 3, "sex": 1 + GROUP % 2})
    model = quick(frame)
    drawn, _ = model.sample(200)
    assert list(drawn) == ["height", "sex"]
    assert set(drawn["sex"]) <= {1, 2}
    assert drawn["sex"].dtype == np.int64
    assert isinstance(quick(polars.DataFrame(frame)).sample(3)[0], polars.DataFrame)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "float64", "bool"])
def test_arrays_come_back_as_arrays_of_their_dtype(dtype):
    x = np.column_stack([AGE, GROUP, GROUP % 2]).astype(dtype)
    model = quick(x)
    drawn, _ = model.sample(50)
    assert drawn.dtype == dtype
    assert (drawn == np.round(drawn)).all()
    assert x.min() <= drawn.min() <= drawn.max() <= x.max()


def test_categories_of_an_array_of_numbers():
    x = np.column_stack([AGE / 3, 10 * GROUP])
    model = quick(x, kinds={1: "categorical"})
    drawn, _ = model.sample(50)
    assert drawn.dtype == np.float64
    assert set(drawn[:, 1]) <= {0, 10, 20}
    holes = np.where(GONE[:, np.newaxis] & [False, True], np.nan, x)
    filled = model.impute(holes)
    assert set(filled[GONE, 1]) <= {0, 10, 20}
    np.testing.assert_array_equal(filled[~GONE], x[~GONE])


def test_tables_of_zeros_and_ones_are_drawn_and_not_averaged():
    rng = np.random.default_rng(0)
    often = np.where(GROUP[:, np.newaxis] > 0, [0.9, 0.1, 0.5], [0.1, 0.8, 0.5])
    table = (rng.random((N, 3)) < often).astype(int)
    frame = pandas.DataFrame(table, columns=["bread", "beer", "salt"])
    model = quick(frame)
    assert model.config_["likelihood"] == "bernoulli"
    drawn, _ = model.sample(400)
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn["salt"].std() == pytest.approx(0.5, abs=0.02)  # 0.02 of means
    assert not set(np.unique(model.sample(50, mean=True)[0])) <= {0, 1}
    holes = frame.astype("Int8").mask(rng.random((N, 3)) < 0.1)
    drawn, _ = quick(holes).sample(50)
    assert set(np.unique(drawn)) <= {0, 1}


def test_tables_of_shares_are_measurements_unless_they_look_like_pixels():
    rng = np.random.default_rng(0)
    shares = rng.random((N, 3))
    assert quick(shares, model="cpvae").config_["likelihood"] == "gaussian"
    pixels = np.column_stack([shares, np.zeros(N)])
    model = quick(pixels, model="cpvae")
    assert model.config_["likelihood"] == "bernoulli"
    assert len(np.unique(model.sample(9)[0])) > 2  # greys


def test_large_whole_numbers_are_no_counts():
    revenue = np.where(np.arange(N) % 30, np.exp(RNG.normal(17, 0.3, N)).astype(int), 0)
    frame = pandas.DataFrame({"revenue": revenue, "c": np.array(["a", "b", "c"])[GROUP]})
    paper = CPVAE(2, model="cpvae", max_epochs=2, random_state=0).fit(frame)
    assert paper.config_["kinds"][0] == "gaussian"
    model = CPVAE(2, max_epochs=6, random_state=0).fit(frame)
    drawn = model.sample(300)[0]["revenue"]
    assert drawn.dtype == np.int64
    assert 0.3 < drawn.median() / np.median(revenue) < 3
    assert drawn.min() >= 0
    with pytest.raises(ValueError, match=r"'revenue' cannot be count: it goes to .* mean of a co"):
        quick(frame, kinds={"revenue": "count"})


# --- layout of images ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "inside"),
    [
        ((6, 5), (1, 6, 5)),
        ((1, 6, 5), (1, 6, 5)),
        ((6, 5, 1), (1, 6, 5)),
        ((6, 5, 3), (3, 6, 5)),
        ((3, 6, 5), (3, 6, 5)),
        ((6, 5, 4), (4, 6, 5)),
        ((4, 6, 5), (4, 6, 5)),
        ((6, 5, 2), (2, 6, 5)),
        ((7, 6, 5), (5, 7, 6)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_images_come_back_in_their_layout(shape, inside):
    x = np.random.default_rng(0).random((40, *shape)).astype(np.float32)
    schema = Schema.of_array(x, data.read(x).x)
    assert schema.shape == inside
    np.testing.assert_array_equal(schema.as_given(data.read(x).x), x)
    np.testing.assert_array_equal(schema.as_given(data.read(x).x, like=x), x)


def test_a_red_image_is_red_again(tmp_path):
    x = np.random.default_rng(0).uniform(0, 0.1, (60, 4, 5, 3))
    x[..., 0] += 0.85
    x[::2, :2] *= 0.5
    model = CPVAE(2, max_epochs=6, random_state=0).fit(x)
    drawn, again = model.sample(20, random_state=0)[0], model.reconstruct(x)
    assert drawn.shape == (20, 4, 5, 3)
    for made in (drawn, again):
        assert made[..., 0].mean() > made[..., 1:].mean() + 0.05
    model.save(tmp_path / "run")
    np.testing.assert_array_equal(CPVAE.load(tmp_path / "run").sample(20, random_state=0)[0], drawn)


def test_the_numbers_of_pixels_mean_what_they_meant():
    x = np.random.default_rng(0).integers(256, size=(40, 4, 4), dtype=np.uint8)
    model = quick(x)
    for other in (x.astype(int), x * 1.0, x / 255 - 0.5):
        for asked in (model.predict, model.score, model.reconstruct):
            with pytest.raises(ValueError, match=r"fitted to data in \[0, 1\].*were bytes"):
                asked(other)
    assert model.score(x / 255) == pytest.approx(model.score(x), abs=1e-3)
    dark = np.minimum(x, 1)  # bytes too, and no white
    np.testing.assert_allclose(model.predict_proba(dark), model.predict_proba(dark / 255))


# --- the form of a column ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([1, 2, 30], 0),
        ([1.5, 2], 1),
        ([12.34, 0.07], 2),
        ([1e6 + 0.25], 2),
        ([1 / 3, 2 / 7], None),
        ([1e-5, 2e-5], 5),
        ([], None),
        ([1e15 + 0.5], None),
    ],
)
def test_decimals_of_a_column(values, decimals):
    values = np.array(values, dtype=float)
    assert decimals_of(values) == decimals
    if len(values) and decimals is not None and values.max() < 1e4:
        single = values.astype(np.float32).astype(float)
        assert decimals_of(single, digits=7) == decimals


def test_numbers_are_rounded_as_the_column_has_them():
    drawn = np.array([-3.2, 0.4, 1.6, 99.0], dtype=np.float32)
    assert Form(0, 0, 5).rounded(drawn).tolist() == [0, 0, 2, 5]
    assert Form(0, 0, 5).rounded(drawn, bounded=False).tolist() == [-3, 0, 2, 99]
    assert Form(1).rounded(drawn + 0.04).tolist() == [-3.2, 0.4, 1.6, 99.0]
    assert Form(None).rounded(drawn) is drawn
    assert np.isnan(Form(0, 0, 5).rounded(np.array([np.nan, 1.2]))[0])
    stored = Form(2, levels="int", dtype="category", categories=("1", "2"), ordered=True)
    assert Form.from_json(stored.as_json()) == stored
    assert Form().as_json() == {}


def test_declared_categories_are_levels_of_data_that_comes_in_parts():
    rng = np.random.default_rng(0)
    sizes = pandas.CategoricalDtype([3, 1, 2, 7])
    first = pandas.DataFrame(
        {
            "x": rng.normal(size=60),
            "plan": pandas.Categorical(np.resize(["b", "c"], 60), ["c", "b", "a", "d"]),
            "size": pandas.Series(np.resize([1, 7], 60), dtype=sizes),
            "city": np.resize(["Rome", "Oslo"], 60),
        }
    )
    x, schema = encode_frame(first)
    wide, declared = with_declared(x, schema)
    assert declared.levels["plan"] == ["a", "b", "c", "d"]
    assert declared.levels["size"] == ["1", "2", "3", "7"]
    assert declared.levels["city"] == ["Oslo", "Rome"]
    pandas.testing.assert_frame_equal(declared.to_frame(wide), first, rtol=1e-6)

    model = CPVAE(2, random_state=0, recipe={"batch_size": 60}).partial_fit(first)
    second = first.assign(plan=pandas.Categorical(["a"] * 60, first.plan.dtype.categories))
    second.loc[:1, "city"] = "Bonn"
    with pytest.warns(
        UserWarning, match="2 cells with a level that the model has not seen"
    ) as told:
        model.partial_fit(second)
    assert len(told) == 1
    assert model.schema_.levels["plan"] == ["a", "b", "c", "d"]

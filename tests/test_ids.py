"""Ids, rare levels, groups of rows: what a table has beside its features."""

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import torch

from cpvae import CPVAE, data
from cpvae.data import ids, levels
from cpvae.data.encoding import encode_table
from cpvae.data.schema import Schema
from cpvae.data.splits import Source, split

pytestmark = pytest.mark.usefixtures("without_shape_checks")

N = 90
RNG = np.random.default_rng(0)
GROUP = RNG.integers(2, size=N)
PLAIN = {"height": 160 + 20 * GROUP + RNG.normal(0, 3, N), "pet": np.where(GROUP, "dog", "cat")}
NAMES = [f"C{i}" for i in RNG.permutation(N)]


def read(tmp_path, columns, **what):
    pandas.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    return data.read(tmp_path / "t.csv", **what)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("who", NAMES),
        ("who", 1000 + np.arange(N)),
        ("who", 7 + RNG.permutation(N)),
        ("customer_id", 3 * np.arange(N)),
        ("orderId", 10**9 + 17 * RNG.permutation(N)),
    ],
)
def test_a_column_that_differs_in_every_row_is_left_out(tmp_path, name, values):
    source = read(tmp_path, {**PLAIN, name: values})
    assert source.columns == ("height", "pet")
    assert source.schema.ids == [name]
    assert source.rows == tuple(map(str, values))
    assert [f"column {name!r} differs in every row" in note for note in source.notes] == [True]
    assert Schema.from_json(source.schema.as_json()) == source.schema
    kind = "categorical" if values is NAMES else "number"
    if kind == "number":
        assert name in read(tmp_path, {**PLAIN, name: values}, kinds={name: kind}).columns
    without = read(tmp_path, PLAIN, schema=source.schema)
    assert without.rows is None
    np.testing.assert_array_equal(without.x, source.x)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("who", 3 * np.arange(N)),
        ("paid", 3 * np.arange(N)),
        ("id", np.arange(N) // 2),
        ("who", [*range(N - 1), 5]),
        ("id", np.arange(N) + 0.5),
    ],
)
def test_other_numbers_are_features(tmp_path, name, values):
    assert read(tmp_path, {**PLAIN, name: values}).columns == ("height", "pet", name)


def test_ids_that_are_named_and_text_that_hardly_repeats(tmp_path):
    twice = [f"C{2 * i // 3}" for i in range(N)]
    source = read(tmp_path, {"who": twice, **PLAIN}, ids=["who"])
    assert source.columns == ("height", "pet")
    assert source.schema.ids == ["who"]
    source = read(tmp_path, {"remark": twice, **PLAIN})
    assert source.columns == ("height", "pet")
    assert not source.schema.ids
    assert "column 'remark' is text that hardly repeats: it is not fitted" in source.notes[0]
    codes = pa.table({"a": np.arange(N) / 7, "code": [f"{i:06d}" for i in 7 * np.arange(N)]})
    assert data.read(codes).schema.ids == ["code"]
    texts = pa.table({"a": np.arange(N) / 7, "weight": [f"{7 * i + 60}" for i in range(N)]})
    with pytest.raises(ValueError, match="if it is numbers, make its type a number"):
        data.read(texts)  # a number that is text by mistake must not be lost
    with pytest.raises(ValueError, match="nothing to fit: column 'who' differs in every row"):
        read(tmp_path, {"who": NAMES})
    with pytest.raises(ValueError, match="has no column 'whom'"):
        read(tmp_path, PLAIN, ids=["whom"])


@pytest.mark.parametrize("package", [pandas, polars])
def test_frames_with_and_without_their_ids(package):
    frame = package.DataFrame({"who": NAMES, **PLAIN})
    bare = frame[["height", "pet"]]
    with pytest.warns(UserWarning, match="column 'who' differs in every row"):
        model = CPVAE(2, max_epochs=1, random_state=0).fit(frame)
    assert model.n_features_in_ == 2
    np.testing.assert_array_equal(model.predict_proba(frame), model.predict_proba(bare))
    assert list(model.sample(3)[0].columns) == ["height", "pet"]
    gone = np.arange(N) % 5 == 0
    if package is pandas:
        filled = model.impute(frame.assign(height=frame["height"].mask(gone)))
    else:
        there = polars.Series(~gone)
        filled = model.impute(
            frame.with_columns(polars.when(there).then(frame["height"]).alias("height"))
        )
    assert list(filled.columns) == ["who", "height", "pet"]
    assert list(filled["who"]) == NAMES
    height = filled["height"].to_numpy()
    np.testing.assert_array_equal(height[~gone], PLAIN["height"][~gone])
    assert np.isfinite(height).all()


def test_assign_writes_ids_and_keeps_columns(cpvae, tmp_path, monkeypatch):
    undrawn = {"components": tmp_path / "run" / "none.png"}
    monkeypatch.setattr("cpvae.cli.run.write_figures", lambda *_: undrawn)
    file, run = tmp_path / "t.csv", tmp_path / "run"
    table = pandas.DataFrame({"who": NAMES, **PLAIN, "component": GROUP})
    table.to_csv(file, index=False)
    code, _, err = cpvae("fit", file, "-k", 2, "--max-epochs", 1, "--out", run)
    assert code == 0, err
    assert "note: column 'who' differs in every row and is taken for an id" in err
    out = tmp_path / "a.csv"
    assert cpvae("assign", run, file, "--out", out)[0] == 0
    assigned = pandas.read_csv(out)
    of_component, of_density = ["component", "probability"], ["log_density", "place", "outlier"]
    assert list(assigned) == ["who", *of_component, *of_density, "p_0", "p_1"]
    assert list(assigned["who"]) == NAMES
    before = out.read_bytes()
    assert cpvae("assign", run, file, "--out", out, "--keep")[0] == 2
    assert out.read_bytes() == before
    assert cpvae("assign", run, file, "--out", out, "--keep", "--overwrite")[0] == 0
    kept = pandas.read_csv(out)
    pandas.testing.assert_frame_equal(kept[list(table)], table)
    assert list(kept["component_"]) == list(assigned["component"])
    np.save(tmp_path / "x.npy", np.zeros((3, 3)))
    table.drop(columns="who").to_csv(file, index=False)
    out.unlink()
    assert cpvae("assign", run, file, "--out", out)[0] == 0
    assert list(pandas.read_csv(out)) == [*of_component, *of_density, "p_0", "p_1"]


def test_many_levels_are_kept_or_pooled():
    n = 6000
    rows = np.array([200] * 10 + [7] * 120 + [6, 5] + [2] * 1000)  # of 1,132 levels
    texts = np.repeat([f"L{i:04d}" for i in range(len(rows))], rows)
    n = len(texts)
    order = np.random.default_rng(1).permutation(n)
    table = pa.table({"a": np.arange(n) / 7, "city": texts[order]})
    x, schema = encode_table(table, "t")
    few = max(5, n / 1000)
    assert schema.levels["city"][-1] == "1000 rare levels"
    assert len(schema.levels["city"]) == (rows >= few).sum() + 1
    form = schema.forms[1]
    assert dict(form.pool) == {f"L{i:04d}": rows[i] for i in np.flatnonzero(rows < few)}
    assert Schema.from_json(schema.as_json()) == schema
    back = schema.decode(x)["city"]
    kept = np.isin(back, schema.levels["city"])
    np.testing.assert_array_equal(back[kept], texts[order][kept])
    assert set(back[~kept]) <= {text for text, _ in form.pool}
    assert len(set(back[~kept])) > 800  # drawn in their proportions
    np.testing.assert_array_equal(schema.decode(x)["city"], back)
    np.testing.assert_array_equal(schema.encode(table, "t"), x)
    assert ids.notes_of({}, schema.names, schema.forms) == [
        "column city: 1000 levels of few rows are taken as one, and drawn in their proportions"
    ]
    with pytest.warns(UserWarning, match="1 cell with a level .*'Rome' in column city, is"):
        new = schema.encode(pa.table({"a": [0.0, 1.0], "city": ["Rome", "L1131"]}), "t")
    np.testing.assert_array_equal(new[:, 1], [np.nan, len(schema.levels["city"]) - 1])


def test_pooled_levels_are_drawn_in_their_proportions():
    pool, n = (("a", 1), ("b", 3), ("c", 4)), 40_000
    drawn = levels.drawn(pool, np.zeros(n), np.ones(n, dtype=bool))
    shares = [drawn.count(text) / n for text, _ in pool]
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 4 / 8], atol=0.01)
    few = levels.pooled(list("abc"), [1, 1, 90])
    assert few == (["a", "b", "c"], ())  # up to a hundred levels are kept


def test_two_codes_are_categories_and_one_kind_is_for_all(tmp_path):
    columns = {
        "height": PLAIN["height"],
        "sex": 1 + GROUP,
        "on": GROUP,
        "grade": RNG.integers(1, 6, N),
    }
    schema = read(tmp_path, columns).schema
    assert schema.levels == {"sex": ["1", "2"]}
    assert schema.decode(read(tmp_path, columns).x)["sex"].dtype == np.int64
    new = {"height": [1.0, 2.0], "on": [0, 1], "grade": [1, 2]}
    for sex, expected in ((["2", "01"], [1, 0]), ([2.0, 1.0], [1, 0]), ([True, None], [0, np.nan])):
        x = schema.encode(pa.table({**new, "sex": sex}), "t")
        np.testing.assert_array_equal(x[:, 1], expected)
    with pytest.raises(
        ValueError, match="sex holds 'male' in row 1, and the model was fitted to n"
    ):
        schema.encode(pa.table({**new, "sex": ["male", "female"]}), "t")
    del columns["height"]
    every = read(tmp_path, columns, kinds="categorical").schema
    assert {name: len(of) for name, of in every.levels.items()} == {"sex": 2, "on": 2, "grade": 5}
    frame = pandas.DataFrame(columns)
    model = CPVAE(2, max_epochs=1, kinds="categorical", random_state=0).fit(frame)
    assert model.schema_.kinds == ("categorical",) * 3
    drawn = model.sample(20)[0]
    assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()
    array = CPVAE(2, max_epochs=1, kinds="categorical", random_state=0).fit(frame.to_numpy())
    assert array.schema_.kinds == model.schema_.kinds


def test_rows_of_a_group_stay_together(tmp_path):
    who = RNG.integers(20, size=N)
    source = read(tmp_path, {"who": [f"C{i}" for i in who], **PLAIN}, group="who")
    assert source.columns == ("height", "pet")
    for seed in range(5):
        parts = split(source, seed)
        each = (parts.train, parts.valid, parts.test)
        sets = [{tuple(row) for row in part.x.tolist()} for part in each]
        of = [{who[i] for i in range(N) if tuple(source.x[i].tolist()) in rows} for rows in sets]
        assert sum(map(len, of)) == len(set(who))  # none in two of them
        assert sum(map(len, sets)) == N
        assert 0.02 * N <= len(parts.valid.x) <= 0.25 * N
    same = Source("t", source.x, schema=source.schema, groups=np.zeros(N, int))
    with pytest.raises(ValueError, match="1 groups in 90 rows, too few"):
        split(same)


GAPS = pandas.DataFrame(
    {
        "height": np.where(GROUP, 160.0, 190.0) + RNG.normal(0, 3, N),
        "pet": np.where(GROUP, "dog", "cat"),
        "visits": pandas.Series(RNG.poisson(4, N)).astype("Int64"),
    }
)
GAPS["visits"] = GAPS["visits"].mask(GROUP == 1)  # missing in one cluster alone
GAPS["pet"] = GAPS["pet"].mask(RNG.random(N) < 0.3)


@pytest.fixture(scope="module")
def with_gaps():
    settings = {"max_epochs": 1, "random_state": 0, "missing": "model"}
    return CPVAE(2, model="residual", **settings).fit(GAPS)


def test_drawn_rows_have_gaps_like_the_data(with_gaps):
    schema = with_gaps.schema_
    assert schema.gaps == ("pet", "visits")
    assert schema.names[3:] == ["pet is missing", "visits is missing"]
    assert schema.kinds[3:] == ("binary", "binary")
    assert with_gaps.n_features_in_ == 3
    drawn, component = with_gaps.sample(2000, random_state=1)
    assert list(drawn) == list(GAPS)
    assert drawn.dtypes.to_dict() == GAPS.dtypes.to_dict()
    share = {name: drawn[name].isna().mean() for name in GAPS}
    assert share["height"] == 0
    for name in ("pet", "visits"):
        assert abs(share[name] - GAPS[name].isna().mean()) < 0.08, name
    tall = drawn["height"] > 175
    assert drawn["visits"].isna()[tall].mean() < 0.1
    assert drawn["visits"].isna()[~tall].mean() > 0.9
    for made in (with_gaps.impute(GAPS), with_gaps.reconstruct(GAPS)):
        assert list(made) == list(GAPS)
        assert not made.isna().any(axis=None)
    there = GAPS["visits"].notna()
    filled = with_gaps.impute(GAPS)["visits"]
    pandas.testing.assert_series_equal(filled[there], GAPS["visits"][there])


def test_the_bound_counts_which_cells_are_missing(with_gaps, tmp_path):
    model, x = with_gaps.model_, with_gaps._examples(GAPS)
    np.testing.assert_array_equal(x[:, 3:].numpy(), GAPS[["pet", "visits"]].isna())
    unknown = x.clone()
    unknown[:, 3:] = np.nan  # says nothing of what is missing: then that is not counted
    with torch.no_grad():
        params = model.decode(*model.code(model.likelihood.observe(x))[0])
        whole, without = (
            model.likelihood.log_prob(model.likelihood.observe(rows), params).numpy()
            for rows in (x, unknown)
        )
        chance = model.likelihood.mean(params)[:, 3:].double().numpy()
    gone = x[:, 3:].numpy()
    given = np.where(gone, np.log(chance), np.log1p(-chance)).sum(1)
    np.testing.assert_allclose(whole - without, given, atol=1e-3)
    with_gaps.save(tmp_path / "run")
    again = CPVAE.load(tmp_path / "run")
    assert again.missing == "model"
    np.testing.assert_array_equal(again.predict_proba(GAPS), with_gaps.predict_proba(GAPS))


def test_gaps_of_arrays_and_files(cpvae, tmp_path, monkeypatch):
    x = np.where(RNG.random((N, 3)) < 0.2, np.nan, RNG.normal(size=(N, 3)))
    model = CPVAE(2, max_epochs=1, missing="model", random_state=0).fit(x)
    drawn = model.sample(200)[0]
    assert drawn.shape == (200, 3)
    assert 0.1 < np.isnan(drawn).mean() < 0.3
    assert np.isfinite(model.impute(x)).all()
    assert model.transform(x).shape[0] == N
    with pytest.raises(ValueError, match="missing='maybe' is unknown: choose from ignore, model"):
        CPVAE(2, missing="maybe").fit(x)
    undrawn = {"components": tmp_path / "run" / "none.png"}
    monkeypatch.setattr("cpvae.cli.run.write_figures", lambda *_: undrawn)
    file, run, out = tmp_path / "t.csv", tmp_path / "run", tmp_path / "new.csv"
    GAPS.to_csv(file, index=False)
    fit = ("fit", file, "-k", 2, "--max-epochs", 1, "--missing", "model", "--out", run)
    code, _, err = cpvae(*fit)
    assert code == 0, err
    assert "Which cells are missing is learned too, for 2 columns" in err
    assert cpvae("generate", run, "-n", 300, "--out", out)[0] == 0
    assert "nan" not in out.read_text()
    new = pandas.read_csv(out)
    assert list(new) == [*GAPS, "component"]
    assert 0.3 < new["visits"].isna().mean() < 0.7
    assert cpvae("assign", run, out, "--out", tmp_path / "a.csv")[0] == 0
    assert "Bounds count which cells are missing" in cpvae("evaluate", run, "--samples", 2)[1]

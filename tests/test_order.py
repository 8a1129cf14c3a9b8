"""Columns that are never less than another one: fitted as a difference, written as themselves."""

import sys

import jaxtyping
import numpy as np
import pandas as pd
import pytest

import cpvae
from cpvae import CPVAE, data
from cpvae.cli import main as cli
from cpvae.data.order import as_read, pairs_of

N = 200
LESS = {"arrival": "departure", "low": "high", "opened": "closed", "high": "list"}
DATES = ["arrival", "departure", "opened", "closed"]


@pytest.fixture(scope="module")
def stays():
    """Dates, moments before dates, and prices, of which most ends are equal to their starts."""
    rng = np.random.default_rng(0)
    arrival = pd.Timestamp("2021-01-01") + pd.to_timedelta(rng.integers(0, 99, N), unit="D")
    days = pd.to_timedelta(rng.poisson(1, N), unit="D")
    low = rng.gamma(2, 20, N).round(2)
    high = (low + rng.exponential(5, N) * rng.integers(0, 2, N)).round(2)
    opened = arrival + pd.to_timedelta(rng.integers(0, 86400, N), unit="s")
    frame = pd.DataFrame(
        {
            "arrival": arrival,
            "departure": arrival + days,
            "low": low,
            "high": high,
            "list": np.ceil(high).astype(int),
            "opened": opened,
            "closed": arrival + days + pd.Timedelta("1D"),
        }
    )
    frame.loc[::7, "departure"] = pd.NaT
    frame.loc[::11, "arrival"] = pd.NaT
    return frame


@pytest.fixture(scope="module")
def folder(stays, tmp_path_factory):
    """A folder with the table as a CSV file, and a run that the command line fitted to it."""
    path = tmp_path_factory.mktemp("order")
    stays.to_csv(path / "stays.csv", index=False)
    less = [part for start, end in LESS.items() for part in ("--less", f"{start}={end}")]
    given = ["fit", path / "stays.csv", "-k", 2, "--max-epochs", 1, "--out", path / "run", *less]
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpvae.cli.run.write_figures", lambda *_: {"components": path})
        patch.setattr(sys, "argv", ["cpvae", *map(str, given)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    jaxtyping.config.update("jaxtyping_disable", False)
    assert ended.value.code == 0
    return path


@pytest.fixture(scope="module")
def fitted(folder):
    return CPVAE.load(folder / "run")


def in_order(frame):
    return all(
        (frame[end].isna() | frame[start].isna() | (frame[end] >= frame[start])).all()
        for start, end in LESS.items()
    )


def test_drawn_rows_keep_the_order(fitted, stays):
    drawn, _ = fitted.sample(2000)
    assert not drawn.isna().any(axis=None)
    assert (drawn.list % 1 == 0).all()
    assert 0.05 < (drawn.high == drawn.low).mean() < 0.9  # limits are kept by values, too
    dates = drawn.assign(**{name: pd.to_datetime(drawn[name]) for name in DATES})
    assert in_order(dates)
    assert dates.dtypes.to_dict() == stays.dtypes.to_dict()
    assert dates.departure.max() <= max(stays.departure.max(), stays.arrival.max())


def test_rows_are_differences_inside_and_come_back_as_they_were(fitted, stays):
    source = data.read(stays, less=LESS)
    x, schema = source.x, source.schema
    np.testing.assert_array_equal(data.read(stays, schema=fitted.schema_).x, x)
    days = (stays.departure - stays.arrival).dt.days
    np.testing.assert_array_equal(x[:, 1], days.to_numpy(np.float32))
    seconds = (stays.closed - stays.opened).dt.total_seconds()
    np.testing.assert_array_equal(x[:, 6], seconds.to_numpy(np.float32))
    back = schema.to_frame(x)
    known = stays.arrival.notna()
    pd.testing.assert_frame_equal(back[known], stays[known], rtol=1e-6)
    told, (shown,) = as_read(schema, x)
    plain = data.read(stays).x
    np.testing.assert_allclose(shown[known], plain[known], rtol=1e-5, atol=1e-4)
    assert not told.less
    spread = fitted.describe(stays)[0].columns
    (closed,) = [column.value for column in spread if column.column == "closed"]
    assert str(stays.closed.min()) <= closed <= str(stays.closed.max())


def test_imputed_cells_keep_the_order_and_cells_that_are_there_stay(fitted, stays):
    for filled in (fitted.impute(stays), *fitted.impute(stays, draws=2)):
        assert in_order(filled)
        assert not filled.isna().any(axis=None)
        there = stays.notna()
        pd.testing.assert_frame_equal(filled[there].dropna(how="all"), stays[there])


def test_what_cannot_keep_an_order_is_refused(fitted, stays, tmp_path):
    late = stays.copy()
    late.loc[[5, 9], "departure"] = pd.Timestamp("2020-01-01")
    with pytest.raises(ValueError, match="2 rows whose departure is less than arrival, row 6 fir"):
        cpvae.load(late, less=LESS)
    with pytest.raises(ValueError, match="2 rows whose departure"):
        fitted.predict(late)
    with pytest.raises(ValueError, match="arrival and low are not two columns of numbers, or two"):
        cpvae.load(stays, less={"arrival": "low"})
    with pytest.raises(ValueError, match="no column of numbers or dates 'end' that is fitted"):
        cpvae.load(stays, less=[("low", "end")])
    with pytest.raises(ValueError, match="a cannot be less than itself"):
        pairs_of({"a": "b", "b": "a"})
    assert pairs_of([("b", "c"), ("a", "b")]) == (("a", "b"), ("b", "c"))
    with pytest.raises(ValueError, match="high is drawn as what it is beyond low"):
        fitted.sample(5, given={"high": (3, None)})
    with pytest.raises(ValueError, match="leave out label, drop, ids, group and less"):
        cpvae.load(np.zeros((9, 2)), less={"0": "1"})
    np.save(tmp_path / "x.npy", np.zeros((9, 7)))
    with pytest.raises(ValueError, match="has no names, and the model keeps an order"):
        data.read(tmp_path / "x.npy", schema=fitted.schema_)


def test_the_command_line_keeps_an_order(cpvae, folder, stays, monkeypatch):
    monkeypatch.chdir(folder)
    assert cpvae("generate", "run", "-n", 300)[0] == 0
    assert cpvae("impute", "run", "stays.csv", "--draw")[0] == 0
    assert cpvae("assign", "run", "stays.csv", "--keep")[0] == 0
    read = {
        word: pd.read_csv(f"{word}.csv", parse_dates=DATES)
        for word in ("run-generated", "stays-imputed", "stays-assigned")
    }
    assert all(map(in_order, read.values()))
    filled, there = read["stays-imputed"], stays.notna()
    pd.testing.assert_frame_equal(filled[there], stays[there], check_dtype=False)
    pd.testing.assert_frame_equal(read["stays-assigned"][list(stays)], stays, check_dtype=False)
    assert "departure=2021-" in cpvae("describe", "run")[1]

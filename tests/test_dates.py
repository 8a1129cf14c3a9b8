"""Dates and times: read as whole units since the first, and written back as they came."""

import datetime

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from cpvae import CPVAE, data
from cpvae.data import dates
from cpvae.data.columns import Form
from cpvae.data.encoding import encode_table
from cpvae.data.objects import encode_frame
from cpvae.data.schema import Schema

pytestmark = pytest.mark.usefixtures("without_shape_checks")

N = 60
RNG = np.random.default_rng(0)
DAYS = RNG.integers(0, 900, N)
DAYS[:2] = 0, 899
MOMENTS = np.datetime64("2020-02-28") + DAYS
GONE = np.arange(N) % 9 == 4
SECONDS = MOMENTS.astype("M8[s]") + RNG.integers(0, 86400, N)


def with_gaps(values):
    return pandas.Series(values).mask(GONE)


def columns():
    """A column of every dtype, with gaps in most."""
    zoned = pandas.Series(MOMENTS).dt.tz_localize("Europe/Berlin")
    return {
        "days": with_gaps(MOMENTS.astype("M8[s]")),
        "nanoseconds": with_gaps(SECONDS.astype("M8[ns]")),
        "microseconds": pandas.Series(SECONDS.astype("M8[us]")),
        "midnights in Berlin": zoned.mask(GONE),
        "UTC": pandas.Series(SECONDS.astype("M8[ms]")).dt.tz_localize("UTC").mask(GONE),
        "dates": pandas.Series(list(MOMENTS.astype(object)), dtype=object).mask(GONE, None),
        "clocks": pandas.Series([d.time() for d in SECONDS.astype(object)], dtype=object),
        "durations": with_gaps(pandas.Series(DAYS * np.timedelta64(1, "h"))),
        "months": pandas.Series(pandas.PeriodIndex(MOMENTS, freq="M")).mask(GONE),
        "arrow": with_gaps(pandas.Series(MOMENTS).astype("date32[day][pyarrow]")),
        "arrow zone": pandas.Series(SECONDS).astype(
            pandas.ArrowDtype(pa.timestamp("us", "Asia/Tokyo"))
        ),
        "text": pandas.Series(MOMENTS.astype(str)).mask(GONE),
    }


@pytest.fixture(scope="module")
def fitted():
    frame = pandas.DataFrame({"height": RNG.normal(size=N), **columns()})
    model = CPVAE(2, model="residual", recipe={"max_epochs": 1}, random_state=0).fit(frame)
    return frame, model, model.sample(50, random_state=1)[0]


def test_frames_have_their_dates_back(fitted):
    frame, model, drawn = fitted
    assert set(model.schema_.kinds) == {"number"}
    for made in (drawn, model.impute(frame), model.reconstruct(frame)):
        assert made.dtypes.to_dict() == frame.dtypes.to_dict()
        for name in frame:
            values = made[name]
            assert not values.isna().any(), name
            assert type(values.iloc[0]) is type(frame[name].dropna().iloc[0]), name
            if name not in ("height", "durations"):
                assert frame[name].dropna().min() <= values.min(), name
                assert values.max() <= frame[name].dropna().max(), name
    filled = model.impute(frame)
    for name in frame:
        there = frame[name].notna()
        pandas.testing.assert_series_equal(filled[name][there], frame[name][there])
    midnight = drawn["midnights in Berlin"]
    assert (midnight.dt.normalize() == midnight).all()
    assert drawn["text"].str.fullmatch(r"20\d\d-\d\d-\d\d").all()


def test_numbers_are_whole_units_since_the_first(fitted):
    frame, model, _ = fitted
    x, schema = encode_table(pa.Table.from_pandas(frame[["days", "text", "durations"]]), "t")
    there = ~GONE
    np.testing.assert_array_equal(x[there, 0], DAYS[there] - DAYS[there].min())
    np.testing.assert_array_equal(x[:, 1], x[:, 0])
    np.testing.assert_array_equal(x[there, 2], DAYS[there])
    assert [form.times.in_words() for form in schema.forms] == [
        *["days since 2020-02-28"] * 2,
        "hours",
    ]
    again = Schema.from_json(model.schema_.as_json())
    assert again == model.schema_
    low, high = again.limits[again.names.index("days")][1:]
    assert (low, high) == (-0.5, DAYS[~GONE].max() + 0.5)


def test_polars_and_other_resolutions(fitted):
    frame = polars.DataFrame(
        {"height": RNG.normal(size=N), "d": MOMENTS, "s": SECONDS.astype("M8[us]")}
    )
    frame = frame.with_columns(
        polars.col("s").cast(polars.Datetime("us", "Europe/Paris")).alias("zoned"),
        polars.col("s").dt.time().alias("clock"),
    )
    model = CPVAE(2, max_epochs=1, random_state=0).fit(frame)
    drawn = model.sample(20)[0]
    assert drawn.schema == frame.schema
    assert model.reconstruct(frame).schema == frame.schema
    other = frame.with_columns(
        polars.col("d").cast(polars.Datetime("ns")), polars.col("s").cast(polars.String)
    )
    np.testing.assert_allclose(model.predict_proba(other), model.predict_proba(frame), atol=1e-5)


@pytest.mark.parametrize(
    "texts",
    [
        ["2021-03-31", "2022-12-01"],
        ["2021-03", "2022-12"],
        ["2021-03-31 04:05", "2022-12-01 16:00"],
        ["2021-03-31T04:05:06", "2022-12-01T16:00:00"],
        ["2021-03-31T04:05:06.120", "2022-12-01T16:00:00.007"],
        ["2021-03-31T04:05:06Z", "2022-12-01T16:00:00Z"],
        ["2021-03-31 04:05:06+02:00", "2022-12-01 16:00:00+02:00"],
        ["31.03.2021", "01.12.2022"],
        ["31/3/2021", "1/12/2022"],
        ["03/31/2021", "12/01/2022"],
        ["3/31/21", "12/1/22"],
        ["2021/03/31", "2022/12/01"],
        ["31 Mar 2021", "1 Dec 2022"],
        ["March 31, 2021", "December 1, 2022"],
        ["31.03.21", "01.12.22"],
        ["2021-03-31 04:05:06,120", "2022-12-01 16:00:00,007"],
        ["31/03/2021 4:05 am", "01/12/2022 11:00 pm"],
        ["3/31/2021 4:05 AM", "12/1/2022 11:00 PM"],
    ],
)
def test_text_is_written_as_it_was(texts):
    numbers, times = dates.learned(pa.array([*texts, None]))
    assert numbers[0] == 0
    assert np.isnan(numbers[2])
    assert times.values(numbers).tolist() == [*texts, None]
    first, last = (str(moment) for moment in times.moments(numbers)[:2])
    assert (first[:7], last[:7]) == ("2021-03", "2022-12")
    assert len(first) == 7 or (first[8:10], last[8:10]) == ("31", "01")


def test_what_is_no_date():
    for texts in (["2021-13-01"], ["2021-02-30"], ["25:00"], ["1.2.3"], ["31/04/2021"], ["12"]):
        assert dates.learned(pa.array(texts)) is None
    several = "2021-03-31T04:05:06+02:00", "2022-12-01T16:00:00+01:00"  # hours are moved
    numbers, times = dates.learned(pa.array(several))
    assert times.values(numbers).tolist() == [
        "2021-03-31T02:05:06+00:00",
        "2022-12-01T15:00:00+00:00",
    ]
    hours, _ = dates.learned(pa.array(["07:30", "19:00"]))
    np.testing.assert_array_equal(hours, [0, 11.5 * 60])


def test_days_as_numbers_of_eight_digits():
    digits = [int(str(day).replace("-", "")) for day in MOMENTS]
    frame = pandas.DataFrame({"a": np.arange(N) / 7, "day": digits})
    x, schema = encode_frame(frame)
    np.testing.assert_array_equal(x[:, 1], DAYS)
    back = schema.to_frame(x)
    pandas.testing.assert_series_equal(back["day"], frame["day"])
    np.testing.assert_array_equal(encode_frame(frame, schema)[0], x)
    text = frame.assign(day=frame["day"].astype(str))
    with pytest.raises(ValueError, match="such as '20200228'"):
        encode_frame(text, schema)
    for other in (20210431, 20211301, 3):
        wrong = frame.assign(day=[*digits[:-1], other])
        assert encode_frame(wrong)[1].forms[1].times is None
        with pytest.raises(ValueError, match="fitted to dates or times there"):
            encode_frame(wrong, schema)


def test_steps_and_clocks_that_are_moved():
    weekly = np.datetime64("2021-01-04") + 7 * np.arange(40)
    numbers, times = dates.learned(pa.array(weekly))
    np.testing.assert_array_equal(numbers, np.arange(40))
    assert times.in_words() == "steps of 7 days since 2021-01-04"
    np.testing.assert_array_equal(times.numbers(weekly[:3] + 1), np.arange(3) + 1 / 7)
    shown = dates.in_zone(np.array(["2021-03-28T02:30", "NaT"], "M8[m]"), "Europe/Berlin")
    assert shown[0].utcoffset() == datetime.timedelta(hours=2)
    assert shown[1] is None


def test_a_file_of_dates(tmp_path):
    file = tmp_path / "t.csv"
    table = pandas.DataFrame({"h": np.arange(N) / 7, "day": MOMENTS.astype(str), "at": SECONDS})
    table["when"] = pandas.Series(MOMENTS).dt.strftime("%d/%m/%Y")
    table.loc[3, ["day", "when"]] = "NULL", "n/a"
    table.to_csv(file, index=False)
    source = data.read(file)
    assert source.columns == ("h", "day", "at", "when")
    assert np.isnan(source.x[3, [1, 3]]).all()
    back = source.schema.decode(source.x)
    assert (back["day"][5], back["when"][5]) == (str(MOMENTS[5]), table["when"][5])
    new = data.read(file, schema=source.schema)
    np.testing.assert_array_equal(new.x, source.x)
    table["day"] = "soon"
    table.to_csv(file, index=False)
    with pytest.raises(
        ValueError, match=r"'soon', and the model was fitted to dates .*'2020-02-28'"
    ):
        data.read(file, schema=source.schema)
    table["day"] = [*MOMENTS[:-1].astype(str), "2021-02-30"]
    table.to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"has dates and '2021-02-30'"):
        data.read(file)
    table["day"] = np.resize(["1/2/2021", "3/4/2021"], N)
    table.to_csv(file, index=False)
    assert any("read as 2021-01-02" in note for note in data.read(file).notes)


def test_times_are_never_counts_or_zeros_and_ones():
    x = np.stack([np.arange(40) % 2, np.arange(40.0)], 1).astype(np.float32)
    _, times = dates.learned(pa.array(MOMENTS))
    schema = Schema(
        (2,), ("a", "b"), forms=(Form(0, 0, 1, times=times), Form(0, 0, 39, times=times))
    )
    assert schema.column_kinds(x) == ["gaussian", "gaussian"]
    assert schema.column_kinds(x, as_numbers=True) == ["number", "number"]

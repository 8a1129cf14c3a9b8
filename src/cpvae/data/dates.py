"""Dates and times as whole units since the first value of their column, and back.

A column may hold dates, moments, times of day or durations, or text that says such. `Times` is what
is needed to write values as the column has them. Moments with a zone are read as a clock there
shows them, so that midnights of a year are whole days although hours are moved in it.
"""

import datetime
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

UNITS = ("Y", "M", "D", "h", "m", "s", "ms", "us", "ns")
IN_WORDS = {
    **{"Y": "years", "M": "months", "D": "days", "h": "hours", "m": "minutes", "s": "seconds"},
    **{"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"},
}
ENOUGH_FOR_A_STEP = 20  # different values, from which on what all their distances share is a step
CLOCK = (
    r"(?P<hour>\d{1,2}):\d\d(?P<second>:\d\d(?:[.,](?P<digits>\d{1,9}))?)?(?P<half> ?[AaPp][Mm])?"
)
ZONE = r"(?P<zone> ?(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?"
ISO = re.compile(rf"[12]\d{{3}}-\d\d(?P<day>-\d\d)?(?:(?P<between>[T ]){CLOCK}{ZONE})?")
OTHER = re.compile(
    r"(?P<date>\d{1,2}([/.-])\d{1,2}\2[12]\d{3}|\d{1,2}/\d{1,2}/\d\d|\d\d\.\d\d\.\d\d|[12]\d{3}([/.])\d{1,2}\3\d{1,2}"
    r"|\d{1,2}[ -][A-Za-z]{3,9}[ -][12]\d{3}|[A-Za-z]{3,9} \d{1,2},? [12]\d{3})"
    rf"(?:(?P<between> |, ){CLOCK})?"
)
TIME = re.compile(CLOCK)


class Times(NamedTuple):
    """How a column of dates or times is read and written.

    Arguments:
        type: of pyarrow, without a zone; ``string`` for text, ``digits`` for numbers as 20210331
        unit: of numpy, the coarsest in which all values are whole
        step: units from one value to the next
        first: the first value, in units since 1970, of a day since midnight; 0 for a duration
        zone: where the clock stands that shows the moments; "" where they have none
        written: of text, as for `strftime`, where ``%3f`` are three digits of a second
    """

    type: str
    unit: str
    step: int
    first: int
    zone: str = ""
    written: str = ""

    @property
    def is_span(self) -> bool:
        """Whether values are times of day or durations, not days."""
        return self.type.startswith(("time3", "time6", "duration")) or (
            self.type == "string" and not re.search("%[Yy]", self.written)
        )

    def moments(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (n) as datetime64 or timedelta64 of the unit, NaT for NaN."""
        there = np.isfinite(numbers)
        ticks = np.rint(np.where(there, numbers, 0)).astype(np.int64) * self.step + self.first
        found = ticks.astype(f"{'m8' if self.is_span else 'M8'}[{self.unit}]")
        found[~there] = "NaT"
        return found

    def values(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (n) as the column writes them: text, numpy's or Python's dates and times."""
        found = self.moments(numbers)
        if self.type in ("string", "digits"):
            texts = np.array([written(each, self.written) for each in found], dtype=object)
            if self.type == "string":
                return texts
            whole = np.isfinite(numbers).all()
            return np.array([float(t or "nan") for t in texts]).astype(np.int64 if whole else float)
        resolution = re.sub(r".*\[(.*)\]", r"\1", self.type)
        if self.type.startswith("date"):
            return found.astype("M8[D]")
        if self.type.startswith("duration"):
            return found.astype(f"m8[{resolution}]")
        if self.type.startswith("time3") or self.type.startswith("time6"):
            of_day = (np.datetime64(0, "us") + found).astype(object)
            return np.array([each and each.time() for each in of_day], dtype=object)
        moments = found.astype(f"M8[{resolution}]")
        return in_zone(moments, self.zone) if self.zone else moments

    def arrow_type(self) -> Any:
        """The type of pyarrow that the column had."""
        import pyarrow as pa

        of = pa.type_for_alias(self.type)
        return pa.timestamp(of.unit, self.zone) if self.zone else of

    def in_words(self) -> str:
        """What numbers of the column are, for a person."""
        unit = IN_WORDS[self.unit]
        unit = unit if self.step == 1 else f"steps of {self.step} {unit}"
        first = np.array(self.first).astype(f"{'m8' if self.is_span else 'M8'}[{self.unit}]")
        if self.is_span:
            return unit
        return f"{unit} since {str(first).replace('T', ' ')}"

    def numbers(self, moments: np.ndarray) -> np.ndarray:
        """Moments (n) as numbers, NaN for NaT; also fractions, of new and finer values."""
        like = "m8" if self.is_span else "M8"
        finest = np.promote_types(moments.dtype, f"{like}[{self.unit}]")
        if self.unit in ("Y", "M"):
            whole = moments.astype(f"{like}[{self.unit}]")
            start, end = (w.astype(finest).astype(np.int64) for w in (whole, whole + 1))
            share = (moments.astype(finest).astype(np.int64) - start) / np.maximum(end - start, 1)
            ticks = whole.astype(np.int64) - self.first + share
        else:
            first = np.array(self.first).astype(f"{like}[{self.unit}]").astype(finest)
            unit = np.array(1).astype(f"m8[{self.unit}]")
            ticks = (moments.astype(finest) - first) / unit
        return np.where(np.isnat(moments), np.nan, ticks / self.step)


def learned(column: Any) -> tuple[np.ndarray, Times] | None:
    """A column of pyarrow as numbers (n), and how it is read; None where it has no dates or times.

    Text must say a date or a time in each cell.
    """
    found = _moments_of(column)
    if found is None:
        return None
    moments, of_type, zone, pattern = found
    there = moments[~np.isnat(moments)]
    if not len(there):
        return None
    span = moments.dtype.kind == "m"
    unit = next(u for u in UNITS[2 * span :] if _whole(there, u))
    ticks = there.astype(f"{moments.dtype.kind}8[{unit}]").astype(np.int64)
    duration = of_type.startswith("duration")
    different = np.unique(ticks)
    distance = int(np.gcd.reduce(np.diff(different))) if len(different) > 1 else 1
    step = distance if len(different) >= ENOUGH_FOR_A_STEP and not duration else 1
    times = Times(of_type, unit, step, 0 if duration else int(ticks.min()), zone, pattern)
    return times.numbers(moments), times


def known(column: Any, times: Times) -> np.ndarray | None:
    """New cells of a column of dates or times as numbers (n); None where they are none."""
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    found = _moments_of(column, times)
    if found is None or (found[0].dtype.kind == "m") != times.is_span:
        return None
    return times.numbers(found[0])


def learned_digits(values: np.ndarray) -> tuple[np.ndarray, Times] | None:
    """Whole numbers (n) such as 20210331 as `learned` gives them; None where one is no such day."""
    there = values[~np.isnan(values)]
    if len(np.unique(there)) < ENOUGH_FOR_A_STEP or not _are_days(there):
        return None
    moments = _of_digits(values)
    if np.isnat(moments[~np.isnan(values)]).any():
        return None
    ticks = moments[~np.isnat(moments)].astype(np.int64)
    times = Times("digits", "D", 1, int(ticks.min()), written="%Y%m%d")
    return times.numbers(moments), times


def known_digits(values: np.ndarray, times: Times) -> np.ndarray | None:
    """New whole numbers (n) of such a column; None where one is no day."""
    moments = _of_digits(values)
    return times.numbers(moments) if (np.isnat(moments) == np.isnan(values)).all() else None


def _are_days(values: np.ndarray) -> bool:
    years, months, days = values // 10_000, values // 100 % 100, values % 100
    return bool(
        ((years >= 1900) & (years <= 2100)).all()
        and ((months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)).all()
    )


def _of_digits(values: np.ndarray) -> np.ndarray:
    """Whole numbers (n) as days, NaT for those that are none."""
    whole = np.where(np.isnan(values), 0, values).astype(np.int64)
    month = ((whole // 10_000 - 1970) * 12 + whole // 100 % 100 - 1).astype("M8[M]")
    found = month.astype("M8[D]") + (whole % 100 - 1)
    right = (found.astype("M8[M]") == month) & (whole > 0)
    right &= (whole // 100 % 100 >= 1) & (whole // 100 % 100 <= 12)
    return np.where(right, found, np.datetime64("NaT"))


def _whole(moments: np.ndarray, unit: str) -> bool:
    coarse = moments.astype(f"{moments.dtype.kind}8[{unit}]")
    return bool((coarse.astype(moments.dtype) == moments).all())


# --- columns of pyarrow --------------------------------------------------------------------------


def _moments_of(column: Any, known: Times | None = None) -> tuple[np.ndarray, str, str, str] | None:
    """A column as datetime64 or timedelta64 (n), its type, zone, and how it is written as text.

    Moments with a zone are those that a clock shows: there, or where the known ones were shown.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    of, zone = column.type, ""
    if types.is_string(of):
        return _of_text(column, known.written if known else "")
    if types.is_timestamp(of):
        if of.tz:
            zone = of.tz
            shown = known.zone if known and known.zone else zone
            column = pc.local_timestamp(column.cast(pa.timestamp(of.unit, shown)))
            of = column.type
        dtype = f"M8[{of.unit}]"
    elif types.is_date(of):
        column, dtype = column.cast(pa.timestamp("ms")), "M8[ms]"
    elif types.is_duration(of) or types.is_time(of):
        dtype = f"m8[{of.unit}]"
    else:
        return None
    wide = column.cast(pa.int32()) if types.is_time32(of) else column
    ticks = wide.cast(pa.int64())
    missing = np.asarray(ticks.is_null())
    moments = ticks.fill_null(0).to_numpy(zero_copy_only=False).astype(dtype)
    moments[missing] = "NaT"
    return moments, str(of), zone, ""


def in_zone(moments: np.ndarray, zone: str) -> np.ndarray:
    """What a clock shows (n) as moments of Python with their zone, None for NaT.

    An hour that a clock leaves out is the one after it, one that it shows twice the first of them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    shown = pa.array(moments.astype("M8[us]"))
    found = pc.assume_timezone(shown, zone, ambiguous="earliest", nonexistent="latest")
    return np.array([*found.to_pylist(), None], dtype=object)[:-1]


# --- text ----------------------------------------------------------------------------------------


def looks_like_date(text: str) -> bool:
    """Whether a text has the shape of a date, be it one or not."""
    return bool(ISO.fullmatch(text) or OTHER.fullmatch(text)) or text.startswith("0000-00-00")


def _of_text(column: Any, asked: str = "") -> tuple[np.ndarray, str, str, str] | None:
    """Text as moments, see `_moments_of`; None if a cell is neither a date nor missing.

    Arguments:
        column: of text
        asked: how text of the column was written before, where that is known
    """
    encoded = column.dictionary_encode()
    texts = [text.strip() for text in encoded.dictionary.to_pylist()]
    found = read_texts([text for text in texts if text], asked)
    if found is None:
        return None
    read, pattern = found
    none = np.array(["NaT"], dtype=read.dtype)
    each = iter(read)
    of_texts = np.concatenate([np.array([next(each) if t else none[0] for t in texts]), none])
    index = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return of_texts.astype(read.dtype)[index], "string", "", pattern


def read_texts(texts: Sequence[str], asked: str = "") -> tuple[np.ndarray, str] | None:
    """Texts (n) as datetime64, or as timedelta64 of times of day, and how they are written.

    None where one is no date or time, or where they are written in several ways.
    """
    for shape, read in ((ISO, _iso), (TIME, _times), (OTHER, _others)):
        matches = [shape.fullmatch(text) for text in texts]
        if texts and all(matches):
            with suppress(ValueError):
                return read(texts, [m for m in matches if m], asked)
    return None


def _iso(texts: Sequence[str], matches: list[re.Match[str]], asked: str) -> tuple[np.ndarray, str]:
    import pyarrow as pa

    zones = {match["zone"] or "" for match in matches}
    days = {bool(match["day"]) for match in matches}
    clocks = [match for match in matches if match["between"]]
    if len(days) > 1 or ("" in zones and len(zones) > 1) or any(m["half"] for m in clocks):
        raise ValueError("written in several ways")
    if days == {False}:
        if clocks:
            raise ValueError("a time without a day")
        return np.array(texts, dtype="M8[M]"), "%Y-%m"
    zoned = zones != {""}
    finest = "ns" if max((len(m["digits"] or "") for m in clocks), default=0) > 6 else "us"
    plain = [re.sub(r" ?(?:Z|UTC|GMT)$", "Z", text.replace(",", ".")) for text in texts]
    if zoned and len(zones) == 1:  # then the clock is that of the text
        zone = next(iter(zones))
        plain = [text.replace(",", ".").removesuffix(zone) for text in texts]
    padded = [re.sub(r"([T ])(\d:)", r"\g<1>0\2", text) for text in plain]
    of = pa.timestamp(finest, "UTC") if zoned and len(zones) > 1 else pa.timestamp(finest)
    try:
        moments = pa.array(padded).cast(of).cast(pa.timestamp(finest))
    except pa.ArrowInvalid as error:
        raise ValueError(str(error)) from error
    pattern = "%Y-%m-%d"
    if clocks:
        between = "T" if any(m["between"] == "T" for m in clocks) else " "
        suffix = next(iter(zones)) if len(zones) == 1 else _utc(max(zones, key=len))
        pattern += between + _clock(clocks) + suffix
    return moments.to_numpy(zero_copy_only=False), pattern


def _utc(zone: str) -> str:
    """UTC, written as another zone is."""
    return "Z" if "Z" in zone else re.sub(r"[+-]|\d", lambda m: "+" if m[0] in "+-" else "0", zone)


def _clock(matches: Sequence[re.Match[str]]) -> str:
    """How times of a day are written, those with most digits."""
    half = next((m["half"] for m in matches if m["half"]), "")
    short = any(len(m["hour"]) == 1 for m in matches) and not any(
        m["hour"].startswith("0") for m in matches
    )
    digits = max(len(m["digits"] or "") for m in matches)
    hour = f"%{'-' * short}{'I' if half else 'H'}"
    mark = "," if any("," in (m["second"] or "") for m in matches) else "."
    second = ":%S" * any(m["second"] for m in matches) + f"{mark}%{digits}f" * bool(digits)
    name = "%P" if half.islower() else "%p"
    return f"{hour}:%M{second}" + re.sub("[AaPp][Mm]", name, half)


def _times(
    texts: Sequence[str], matches: list[re.Match[str]], asked: str
) -> tuple[np.ndarray, str]:
    found = np.array([_of_day(match) for match in matches], dtype="m8[ns]")
    return found, _clock(matches)


def _of_day(match: re.Match[str]) -> np.timedelta64:
    """The time of a day that a text says, since midnight.

    Raises:
        ValueError: there is no such time.
    """
    half = (match["half"] or "").strip().lower()
    text = match[0][: len(match[0]) - len(match["half"] or "")].replace(",", ".")
    parts = text.split(":")
    hour, minute, second = int(parts[0]), int(parts[1]), parts[2] if len(parts) > 2 else "0"
    whole, _, rest = second.partition(".")
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"no hour {hour}")
        hour = hour % 12 + 12 * (half == "pm")
    if hour > 23 or minute > 59 or int(whole) > 59:
        raise ValueError(f"no time {text}")
    nanoseconds = ((hour * 60 + minute) * 60 + int(whole)) * 10**9 + int(rest.ljust(9, "0") or 0)
    return np.timedelta64(nanoseconds, "ns")


def _others(
    texts: Sequence[str], matches: list[re.Match[str]], asked: str
) -> tuple[np.ndarray, str]:
    """Dates that are not ISO's. Where the day may be the month, the month is first, as in pandas,
    unless they were written in another way before.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    dates = pa.array([match["date"] for match in matches])
    clocks = [match for match in matches if match["between"]]
    of_day = np.array([_of_clock(match) for match in matches], dtype="m8[ns]")
    first = matches[0]["date"]
    found = []
    for pattern in _patterns(first, asked):
        moments = pc.strptime(dates, format=pattern, unit="s", error_is_null=True)
        place = re.findall("%([dmYy])", pattern).index("d")
        days = [int(re.findall(r"\d+", date)[place]) for date in dates.to_pylist()]
        if pc.day(moments).to_pylist() == days:  # 31 April would be the first of May
            found.append((moments.to_numpy(zero_copy_only=False).astype("M8[s]"), pattern))
    if not found:
        raise ValueError("no date")
    moments, pattern = found[0]
    if any(len(name) > 3 for date in dates.to_pylist() for name in re.findall("[A-Za-z]+", date)):
        pattern = pattern.replace("%b", "%B")
    padded, short = (
        any(re.search(shape, date) for date in dates.to_pylist())
        for shape in (r"(?<!\d)0\d", r"(?<!\d)\d(?!\d)")
    )
    if short and not padded:
        pattern = pattern.replace("%d", "%-d").replace("%m", "%-m")
    if clocks:
        return moments + of_day, pattern + clocks[0]["between"] + _clock(clocks)
    return moments, pattern


def _of_clock(match: re.Match[str]) -> np.timedelta64:
    clock = TIME.search(match[0], match.end("between")) if match["between"] else None
    return _of_day(clock) if clock else np.timedelta64(0, "ns")


def _patterns(first: str, asked: str) -> list[str]:
    """The ways in which a date may be written, the likelier first."""
    between = re.sub(r"[\dA-Za-z]", "", first)
    if re.search("[A-Za-z]", first[:2]):
        return ["%b %d, %Y" if "," in first else "%b %d %Y"]
    if re.search("[A-Za-z]", first):
        return [f"%d{between[0]}%b{between[0]}%Y"]
    mark = between[0]
    if re.match(r"\d{4}", first):
        return [f"%Y{mark}%m{mark}%d"]
    year = "%Y" if re.search(r"\d{4}$", first) else "%y"
    orders = [f"%m{mark}%d{mark}{year}", f"%d{mark}%m{mark}{year}"]
    day_first = mark == "." or asked.replace("-d", "d").startswith("%d")
    return orders[::-1] if day_first else orders


def is_ambiguous(texts: Sequence[str], pattern: str) -> bool:
    """Whether dates that are read in a way could be read with day and month exchanged."""
    if not re.match(r"%-?[md][/-]%-?[md][/-]", pattern):
        return False
    return all(max(map(int, re.findall(r"\d+", text)[:2])) <= 12 for text in texts)


def written(moment: np.datetime64 | np.timedelta64, pattern: str) -> str | None:
    """A moment or a time of day as text, None for NaT."""
    if np.isnat(moment):
        return None
    if isinstance(moment, np.timedelta64):
        moment = np.datetime64(0, "ns") + moment
    day: datetime.datetime = moment.astype("M8[s]").item()
    nanoseconds = int((moment - moment.astype("M8[s]")) / np.timedelta64(1, "ns"))
    text = re.sub(r"%(\d)f", lambda m: f"{nanoseconds:09d}"[: int(m[1])], pattern)
    short = {"d": day.day, "m": day.month, "H": day.hour, "I": (day.hour - 1) % 12 + 1}
    text = text.replace("%P", "pm" if day.hour > 11 else "am")
    text = re.sub(r"%-([dmHI])", lambda m: str(short[m[1]]), text)
    return day.strftime(text.replace("%Y", f"{day.year:04d}"))

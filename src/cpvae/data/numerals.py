"""Numbers as people write them: percent signs, currencies, thousands, commas, a printed minus.

The texts of a column are looked at together, because one cell alone does not say what its comma is:
in ``2,500`` it may part thousands or decimals, in ``20,5`` beside it only decimals.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u02bc"), "'")
CODES = (
    "AED ARS AUD BRL CAD CHF CLP CNY COP CZK DKK EUR GBP HKD HUF IDR ILS INR JPY KRW MXN MYR NOK "
    "NZD PHP PLN RON RUB SAR SEK SGD THB TRY TWD UAH USD VND ZAR Fr. Fr kr kr. z\u0142 K\u010d Ft "
    "R$ US$ A$ C$ Rs Rs."
)
CURRENCIES = frozenset(CODES.split())
BODY = r"(?:\d[\d.,' \u00a0\u2007\u2009\u202f]*\d|\d|[.,]\d+|\d+[.,])(?:[eE][-+]?\d+)?(?![\d.,])"
SHAPE = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<before>(?:[^\d\s.,+'-]{{1,4}}\.?)?)\s*(?P<sign2>[-+]?)(?P<body>{BODY})"
    r"\s*(?P<after>(?:[^\d.,+'-]{1,8}\.?)?)\s*(?P<sign3>-?)"
)
SPACES = re.compile(r"[\s']")  # between thousands
PLAIN = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
ENOUGH_FOR_A_UNIT = 10  # different numbers, so that 4A, 5A, 6A stay codes


class Written(NamedTuple):
    """A number as it was written: sign, digits with their marks, and what stands beside them."""

    negative: bool
    body: str
    beside: str


class Marks(NamedTuple):
    """What the marks in the numbers of a column show: ``.`` or ``,`` that part decimals for
    certain, those that part thousands for certain, and those that may do either.
    """

    decimals: frozenset[str]
    thousands: frozenset[str]
    either: frozenset[str]


def is_plain(text: str) -> bool:
    """Whether a text is a number as programs write it."""
    return PLAIN.fullmatch(text.strip()) is not None


def written(texts: Sequence[str]) -> list[Written] | None:
    """All texts of a column as written numbers; None where one is none, or what stands beside them
    differs, so that they are not of one unit.
    """
    found = []
    for text in texts:
        one = _written(text)
        if one is None:
            return None
        found.append(one)
    beside = {one.beside for one in found}
    signs = {b for b in beside if b}
    if len(signs) > 1:
        return None
    if signs and not _is_sign(next(iter(signs))):  # a unit: in all cells, of many numbers
        if "" in beside or len({one.body for one in found}) <= ENOUGH_FOR_A_UNIT:
            return None
    elif signs == {"%"} and "" in beside:
        return None  # 12% and 0.12 do not go together
    return found


def _written(text: str) -> Written | None:
    text = text.strip().translate(MINUS).translate(APOSTROPHES)
    bracketed = len(text) > 2 and text[0] == "(" and text[-1] == ")"  # as accountants write it
    match = SHAPE.fullmatch(text[1:-1].strip() if bracketed else text)
    if not match:
        return None
    before, after = match["before"].strip(), match["after"].strip()
    if before and (after or not _is_money(before)):
        return None
    body = SPACES.sub("", match["body"])
    if body != match["body"] and not _parts_thousands(match["body"]):
        return None
    minus = [match[sign] for sign in ("sign", "sign2", "sign3")].count("-") + bracketed
    return Written(minus % 2 == 1, body, before or after) if minus < 2 else None


def _parts_thousands(body: str) -> bool:
    """Whether the spaces or apostrophes of a number stand before three digits each."""
    whole = re.split(r"[.,]", body)[0] if len(re.findall(r"[.,]", body)) == 1 else body
    return re.fullmatch(r"\d{1,3}(?:[\s']\d{3})+(?:[eE].*)?", whole) is not None


def _is_sign(beside: str) -> bool:
    return beside in ("%", "\u2030", "\u00b0") or _is_money(beside)


def _is_money(beside: str) -> bool:
    symbols = {unicodedata.category(letter) for letter in beside}
    return beside in CURRENCIES or (symbols == {"Sc"} and len(beside) == 1)


def marks(bodies: Iterable[str]) -> Marks:
    """What points and commas mean in the numbers of a column."""
    decimals, thousands, either = set(), set(), set()
    for body in bodies:
        digits = re.split("[eE]", body)[0]
        found = re.findall(r"[.,]", digits)
        if not found:
            continue
        last = found[-1]
        if len(set(found)) == 2:
            decimals.add(last)
            thousands.update(set(found) - {last})
        elif len(found) > 1:
            thousands.add(last)
        elif re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", digits):
            either.add(last)
        else:
            decimals.add(last)
    return Marks(frozenset(decimals), frozenset(thousands), frozenset(either))


def decimal_mark(found: Marks, comma: bool) -> str | None:
    """What parts decimals in a column: a point or a comma; None where its cells contradict.

    Arguments:
        found: what the column shows
        comma: whether a comma parts decimals elsewhere in the table
    """
    if len(found.decimals) > 1 or len(found.thousands) > 1 or found.decimals & found.thousands:
        return None
    if found.decimals:
        return next(iter(found.decimals))
    if found.thousands:
        return "." if "," in found.thousands else ","
    if len(found.either) > 1:
        return None
    if "," in found.either:
        return "," if comma else "."
    return "," if comma else "."


def value(number: Written, mark: str) -> float | None:
    """A written number whose decimals are parted by ``mark``; None where its groups are none."""
    other = "," if mark == "." else "."
    groups = re.split("[eE.]" if mark == "." else "[eE,]", number.body)[0].split(other)
    sizes = {len(group) for group in groups[1:-1]}  # of three digits, or two as in India
    grouped = len(groups[0]) in (1, 2, 3) and len(groups[-1]) == 3 and len(sizes) <= 1
    if len(groups) > 1 and not (grouped and sizes <= {2, 3}):
        return None
    found = float(number.body.replace(other, "").replace(mark, "."))
    return -found if number.negative else found


def numbers_of(texts: Sequence[str], comma: bool = False) -> list[float] | None:
    """All texts of a column as numbers; None where one is none.

    Arguments:
        texts: the different ones that occur
        comma: whether a comma parts decimals elsewhere in the table

    Raises:
        ValueError: two ways of writing decimals in one column; names a text of each.
    """
    found = written(texts)
    if found is None:
        return None
    shown = marks(one.body for one in found)
    mark = decimal_mark(shown, comma)
    if mark is None:
        pair = [
            next((t for t, n in zip(texts, found, strict=True) if m in n.body), "")
            for m in (".", ",")
        ]
        raise ValueError(f"both {pair[0]!r} and {pair[1]!r}")
    values = [value(one, mark) for one in found]
    return None if None in values else [v for v in values if v is not None]

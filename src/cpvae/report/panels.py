"""Small panels, one a column, each in the column's own units: real rows beside generated ones.

A panel is a picture of its own (SVG) that stays legible when a page is narrow. An `Axis` says how
the values of a column are put into bins, the same ones for all components.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cpvae.data.schema import Schema
from cpvae.evaluation.profiles import level_shares, levels_of
from cpvae.report.words import figure, percent
from cpvae.text import printable

BINS = 24
MOST_WHOLE = 30  # different whole numbers that get a bin each
ENDS = (0.005, 0.995)  # quantiles where an axis ends; the last bins hold what lies beyond
SKEWED = 8.0  # times the median, from which on an axis has no even steps
MOST_LEVELS = 7
OTHERS = "others"
REAL, DRAWN, ALL = "#93c5fd", "#ea580c", "#9ca3af"
WIDTH, HEIGHT, FOOT, ROW = 160, 64, 14, 17  # of a panel, its axis, and a level
LABEL, LETTERS, LETTER = 66, 11, 6  # what a level's name takes, its letters, and the width of one


class Axis(NamedTuple):
    """How the values of a column are put into bins.

    Of numbers ``edges`` (b + 1) are the limits of the bins and ``ticks`` texts for the left end,
    the middle and the right end. Of levels ``place`` (l) says into which bin each of them goes, and
    ``ticks`` are the names of the bins.
    """

    edges: Float[np.ndarray, " e"] | None
    place: Int[np.ndarray, " l"] | None
    ticks: tuple[str, ...]

    @property
    def n_bins(self) -> int:
        """How many bins there are."""
        return len(self.ticks) if self.edges is None else len(self.edges) - 1

    def shares(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
        """The share of each bin among the values that are there."""
        if self.place is not None:
            of_each = level_shares(values, len(self.place))
            return np.bincount(self.place, of_each, minlength=self.n_bins)
        assert self.edges is not None  # it is numbers
        there = values[~np.isnan(values)]
        bins = np.searchsorted(self.edges, there, side="right") - 1
        counts = np.bincount(bins.clip(0, self.n_bins - 1), minlength=self.n_bins)
        return counts / max(len(there), 1)


def axes_of(
    x: Float[np.ndarray, "n f"], schema: Schema, groups: Sequence[np.ndarray] = ()
) -> dict[str, Axis]:
    """The axis of each column of a table.

    Arguments:
        x: rows
        schema: what the columns are
        groups: masks of rows (n); a level that is frequent in one of them gets a bin of its own
    """
    found, marks = {}, np.full((3, x.shape[1]), np.nan)
    edges_of: dict[str, Float[np.ndarray, " e"]] = {}
    for at, (name, values) in enumerate(zip(schema.names, x.T, strict=True)):
        if levels := levels_of(schema, name, values):
            found[name] = _of_levels(values, levels, groups)
            continue
        edges_of[name] = _edges(values.astype(np.float64))
        edges = edges_of[name]
        half = (len(edges) - 1) // 2, len(edges) // 2
        marks[:, at] = edges[0], edges[list(half)].mean(), edges[-1]
        if not (values[~np.isnan(values)] % 1).any():
            marks[:, at] = np.ceil(edges[0]), np.rint(marks[1, at]), np.floor(edges[-1])
            marks[:, at] += 0.0  # no -0
    in_units = schema.decode(marks, drawn=False)
    for name, edges in edges_of.items():
        found[name] = Axis(edges, None, tuple(_tick(mark) for mark in in_units[name]))
    return found


def numbers_panel(
    axis: Axis, real: Sequence[float], drawn: Sequence[float] | None, every: Sequence[float]
) -> str:
    """A panel of numbers: bars of real rows, a line of generated ones, a grey line of all rows."""
    height = HEIGHT / max(*real, *(drawn or ()), *every, 1e-9)
    width = WIDTH / axis.n_bins
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{HEIGHT - share * height:.1f}" width="{width:.1f}" '
        f'height="{share * height:.1f}"/>'
        for i, share in enumerate(real)
        if share
    )
    lines = "".join(
        f'<polyline points="{_steps(shares, width, height)}" fill="none" stroke="{colour}" '
        f'stroke-width="{stroke}"/>'
        for shares, colour, stroke in ((every, ALL, 1), (drawn, DRAWN, 1.5))
        if shares is not None
    )
    anchors = list(zip((0, WIDTH / 2, WIDTH), ("start", "middle", "end"), axis.ticks, strict=True))
    if LETTER * sum(map(len, axis.ticks)) > WIDTH:  # as three dates are
        del anchors[1]
    ticks = "".join(
        f'<text x="{x:g}" y="{HEIGHT + 11}" text-anchor="{anchor}">{escape(tick)}</text>'
        for x, anchor, tick in anchors
    )
    base = f'<path d="M0 {HEIGHT}H{WIDTH}" stroke="{ALL}"/>'
    return _svg(HEIGHT + FOOT, f'<g fill="{REAL}">{bars}</g>{lines}{base}{ticks}')


def levels_panel(
    axis: Axis, real: Sequence[float], drawn: Sequence[float] | None, every: Sequence[float]
) -> str:
    """A panel of levels: a bar of real rows each, a mark of generated ones, a grey one of all."""
    longest = (WIDTH - LABEL) / max(*real, *(drawn or ()), *every, 1e-9)
    rows = []
    for i, (tick, mine, of_all) in enumerate(zip(axis.ticks, real, every, strict=True)):
        top = i * ROW
        short = tick if len(tick) <= LETTERS else tick[: LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        told, marks = f"{tick}: {percent(mine)}", [(of_all, 3, ALL)]
        if drawn is not None:
            told += f", generated {percent(drawn[i])}"
            marks.append((drawn[i], 1, DRAWN))
        lines = "".join(
            f'<path d="M{LABEL + share * longest:.1f} {top + off}v{ROW - 2 * off}" '
            f'stroke="{colour}" stroke-width="2"/>'
            for share, off, colour in marks
        )
        rows.append(
            f"<g><title>{escape(told)}, of all {percent(of_all)}</title>"
            f'<text x="{LABEL - 4}" y="{top + 12}" text-anchor="end">{escape(short)}</text>'
            f'<rect x="{LABEL}" y="{top + 3}" width="{mine * longest:.1f}" height="{ROW - 6}" '
            f'fill="{REAL}"/>{lines}</g>'
        )
    return _svg(len(axis.ticks) * ROW, "".join(rows))


def panel(
    axis: Axis,
    real: Float[np.ndarray, " b"],
    drawn: Float[np.ndarray, " b"] | None,
    every: Float[np.ndarray, " b"],
) -> str:
    """The panel of a column, of the shares of real, generated and all rows in its bins.

    There are no generated ones of a column that was not fitted.
    """
    draw = numbers_panel if axis.place is None else levels_panel
    return draw(axis, real.tolist(), None if drawn is None else drawn.tolist(), every.tolist())


def _svg(height: int, inside: str) -> str:
    return (
        f'<svg viewBox="-1 -2 {WIDTH + 2} {height + 3}" role="img" font-size="10" '
        f'fill="#374151">{inside}</svg>'
    )


def _steps(shares: Sequence[float], width: float, height: float) -> str:
    """A line that goes along the tops of bars."""
    tops = [HEIGHT - share * height for share in shares]
    return " ".join(
        f"{i * width:.1f},{top:.1f} {(i + 1) * width:.1f},{top:.1f}" for i, top in enumerate(tops)
    )


def _of_levels(
    values: Float[np.ndarray, " n"], levels: Sequence[str], groups: Sequence[np.ndarray]
) -> Axis:
    """A bin for each of the levels that are frequent somewhere, and one for all others."""
    each = [level_shares(values[rows], len(levels)) for rows in groups]
    most = np.max([level_shares(values, len(levels)), *each], axis=0)
    kept = np.sort(np.argsort(-most, kind="stable")[:MOST_LEVELS])
    if len(levels) > MOST_LEVELS:
        kept = np.sort(np.argsort(-most, kind="stable")[: MOST_LEVELS - 1])
    place = np.full(len(levels), len(kept))
    place[kept] = np.arange(len(kept))
    more = (OTHERS,) if len(levels) > len(kept) else ()
    return Axis(None, place, (*(printable(levels[i]) for i in kept), *more))


def _edges(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " e"]:
    """Limits of bins for numbers, even in the numbers, their logarithms or their roots."""
    there = values[np.isfinite(values)]
    if not len(there):
        return np.array([0.0, 1.0])
    low, middle, high = np.quantile(there, [ENDS[0], 0.5, ENDS[1]])
    is_whole = bool((there == np.rint(there)).all())
    if high <= low:
        return np.array([low - 0.5, high + 0.5])  # which a constant column has
    bend: Callable[[Any], Any] = _same
    back: Callable[[Any], Any] = _same
    if low > 0 and high > SKEWED * middle:
        bend, back = np.log, np.exp
    elif there.min() >= 0 and high > SKEWED * max(middle, 1e-12):
        bend, back = np.sqrt, np.square
    if is_whole and (bend is _same or high - low <= MOST_WHOLE):
        step = 1 if high - low <= MOST_WHOLE else np.ceil((high - low) / BINS)
        return np.arange(np.floor(low), np.ceil(high) + step + 1, step) - 0.5
    edges = back(np.linspace(bend(low), bend(high), BINS + 1))
    return np.unique(np.floor(edges) + 0.5) if is_whole else edges


def _same(values: Any) -> Any:
    return values


def _tick(mark: Any) -> str:
    return printable(figure(mark))

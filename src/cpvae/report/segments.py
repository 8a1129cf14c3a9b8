"""What the page says of each component: its share, what sets it apart, panels, typical rows."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cpvae.data.order import as_read
from cpvae.data.schema import Schema
from cpvae.evaluation.profiles import Contrast, Profile, profiles
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.names import titled
from cpvae.report.figures import displayable, enlarge, image_grid
from cpvae.report.panels import Axis, axes_of, panel
from cpvae.report.words import (
    contrast_in_words,
    figure,
    percent,
    profile_in_words,
    sure_in_words,
)
from cpvae.streams import torch_stream
from cpvae.text import printable

OPEN, CLOSED = 6, 18  # panels that are shown, and those to be unfolded
MOST_CELLS = 8  # columns of typical rows
DRAWN = 500  # rows of each component
IMAGES = 12  # of each component


@dataclasses.dataclass(frozen=True)
class Panel:
    """A column in a component: its name, its picture (SVG), and its value in words."""

    name: str
    picture: str
    words: str


@dataclasses.dataclass(frozen=True)
class Segment:
    """A component on the page.

    Arguments:
        number: of the component
        title: its name and number
        share: of the rows, in words
        width: the same for a bar, in per cent of the largest one's
        n_rows: rows
        sure: how many of them are in it for certain, in words
        words: what sets it apart, a line a column
        open: panels of the most telling columns
        closed: panels of the next ones
        rest: words of all further columns
        head: names of the columns of ``rows``
        rows: typical rows, as texts
        pictures: of images, generated ones and real ones, as addresses that hold them
    """

    number: int
    title: str
    share: str
    width: float
    n_rows: int
    sure: str
    words: Sequence[str]
    open: Sequence[Panel] = ()
    closed: Sequence[Panel] = ()
    rest: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[str] = ()


def segments(
    model: Model,
    x: torch.Tensor,
    schema: Schema,
    names: Sequence[str],
    shown: Sequence[int],
    wider: tuple[np.ndarray, Schema] | None = None,
) -> list[Segment]:
    """All components as the page shows them, in the order of their numbers.

    Arguments:
        model: a fitted model
        x: real rows or images (n, ...)
        schema: what they are
        names: of the components
        shown: components that get panels; of the others there are words alone
        wider: the rows with columns that were not fitted, see `with_described`, and their schema
    """
    probs = cluster_probs(model, x).numpy()
    rows, cut, fitted = x.numpy(), len(schema.given_names), set(schema.names)
    if wider:
        rows, schema = wider
    more = [name for name in schema.names if name not in fitted]
    found = profiles(rows, probs, schema, names)
    largest = max(profile.share for profile in found) or 1.0
    plain = [
        Segment(
            profile.component,
            printable(titled(profile.component, profile.name)),
            percent(profile.share),
            100 * profile.share / largest,
            profile.n_rows,
            sure_in_words(profile),
            [] if schema.is_image else list(map(printable, profile_in_words(profile, always=more))),
        )
        for profile in found
    ]
    component = probs.argmax(1)
    groups = [component == k for k in range(len(found))]
    if schema.is_image:
        for k in shown:
            pictures = _pictures(model, rows, rows[groups[k]], int(k))
            plain[k] = dataclasses.replace(plain[k], pictures=pictures)
        return plain
    columns = schema.decode(rows, drawn=False)
    told, (rows,) = as_read(schema, rows)
    axes = axes_of(rows, told, groups)
    every = {name: axes[name].shares(rows[:, at]) for at, name in enumerate(schema.names)}
    for k in shown:
        generator = torch_stream(0, "pictures", int(k))
        drawn = model.sample(DRAWN, int(k), generator=generator)[0].numpy()
        drawn = np.insert(drawn, [cut] * len(more), np.nan, axis=1)
        _, (drawn,) = as_read(schema, drawn)
        panels = _Panels(told, axes, every, rows[groups[k]], drawn, more)
        plain[k] = _with_panels(plain[k], found[k], panels, columns)
    return plain


def _pictures(model: Model, x: np.ndarray, real: np.ndarray, k: int) -> list[str]:
    """New images of a component, and real ones."""
    generator = torch_stream(0, "pictures", k)
    drawn = model.sample(IMAGES, k, generator=generator, mean=True)[0].numpy()
    blank = np.full((IMAGES, *x.shape[1:]), np.nan, dtype=np.float32)
    several = drawn, np.concatenate([real, blank])[:IMAGES]
    pages = [image_grid(displayable(each, x), IMAGES // 2, fill=1.0) for each in several]
    return [in_page(enlarge(page)) for page in pages]


def in_page(picture: Any) -> str:
    """A picture of PIL as an address that holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


class _Panels:
    """Draws the panels of one component."""

    def __init__(
        self,
        schema: Schema,
        axes: dict[str, Axis],
        every: dict[str, np.ndarray],
        real: np.ndarray,
        drawn: np.ndarray,
        more: Sequence[str],
    ):
        self.more = more  # columns that were not fitted
        self.axes, self.every, self.real, self.drawn = axes, every, real, drawn
        prefix = "" if schema.columns else "column "
        self.place = {prefix + name: (at, name) for at, name in enumerate(schema.names)}

    def of(self, contrast: Contrast) -> Panel:
        at, name = self.place[contrast.column]
        axis, is_fitted = self.axes[name], name not in self.more
        drawn = axis.shares(self.drawn[:, at]) if is_fitted else None
        picture = panel(axis, axis.shares(self.real[:, at]), drawn, self.every[name])
        words = contrast_in_words(contrast).removeprefix(contrast.column).strip()
        called = printable(contrast.column) + ("" if is_fitted else " (not fitted)")
        return Panel(called, picture, printable(words))

    def column(self, contrast: Contrast) -> str:
        """The name of the column in the schema."""
        return self.place[contrast.column][1]


def _with_panels(
    segment: Segment, profile: Profile, panels: _Panels, columns: dict[str, Any]
) -> Segment:
    """A segment with panels of its columns, the most telling first, and its typical rows."""
    several = [panels.of(contrast) for contrast in profile.columns[: OPEN + CLOSED]]
    rest = [contrast_in_words(contrast) for contrast in profile.columns[OPEN + CLOSED :]]
    names = [panels.column(contrast) for contrast in profile.columns[:MOST_CELLS]]
    return dataclasses.replace(
        segment,
        open=several[:OPEN],
        closed=several[OPEN:],
        rest=list(map(printable, rest)),
        head=[printable(name) for name in names],
        rows=[[_cell(columns[name][row]) for name in names] for row in profile.typical],
    )


def _cell(value: Any) -> str:
    return "" if value is None or value != value else printable(figure(value))

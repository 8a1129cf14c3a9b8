"""What the explorer of a run knows and does, without the page that shows it (see `app`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpvae.checkpoint import MODEL, RunFolder
from cpvae.data.schema import Schema
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.names import labelled, read_names, renamed, write_names
from cpvae.report import figures
from cpvae.report.segments import Segment, segments
from cpvae.streams import torch_stream

MOST = 3000  # examples on the map
NEIGHBOURS = 11
STEPS = 12  # of a walk


class Explorer:
    """A fitted model, examples to look at it through, and the names of its components.

    ``places`` has the points of the map, (n, 2): the pixel of each example, its column and its row.

    Arguments:
        model: a fitted model, on the CPU
        x: examples (n, ...) in the data's units, or None to look at 600 that the model generates
        schema: of the data
        folder: of the run, which keeps the names of the components
        rows: names of the examples, such as those of their files, where they have some
    """

    def __init__(
        self,
        model: Model,
        x: Tensor | None,
        schema: Schema,
        folder: RunFolder,
        rows: Sequence[str] | None = None,
    ):
        self.model, self.schema, self.folder, self.rows = model, schema, folder, rows
        self.generated = x is None
        self.x = model.sample(600, from_="aggregated")[0] if x is None else x[:MOST]
        self.is_image = schema.is_image
        self.probs = cluster_probs(model, self.x)
        self.codes = torch.cat([model.embed(part) for part in self.x.split(model.rows_at_once())])
        self.names = read_names(folder, model.n_components)
        self._weights = _stamp(folder)
        self._segments: dict[int, Segment] = {}
        self._map = figures.codes_map(model, self.x)
        self._canvas, self.places = _canvas(self._map)

    def called(self, number: int) -> str:
        """What an example is called: its own name, or its number."""
        return self.rows[number] if self.rows else f"Example {number}"

    def profile(self, component: int) -> Segment:
        """What a component is, in words and panels; of the examples that are looked at."""
        if component not in self._segments:
            shown = [] if self.is_image else [component]
            found = segments(self.model, self.x, self.schema, self.names, shown)
            self._segments[component] = found[component]
        return self._segments[component]

    def table_of(self, x: Tensor) -> dict[str, np.ndarray]:
        """Drawn rows of a table (n, f), by column, as they are written to a file."""
        return self.schema.decode(x.numpy())

    def draw(self, component: int, n: int, seed: int) -> Tensor:
        """New examples (n, ...) of a component; images as their means."""
        generator = torch_stream(0, "pictures", seed)
        return self.model.sample(n, component, generator=generator, mean=self.is_image)[0]

    def real(self, component: int, n: int) -> Tensor:
        """The examples that most clearly belong to a component, (n or fewer, ...)."""
        mine = (self.probs.argmax(1) == component).nonzero().squeeze(1)
        return self.x[mine[self.probs[mine, component].argsort(descending=True, stable=True)][:n]]

    def neighbours(self, x: Tensor) -> Tensor:
        """Numbers of the examples whose codes are nearest to that of ``x`` (1, ...), nearest first.

        One of the examples is its own nearest.
        """
        distance = torch.cdist(self.model.embed(x), self.codes).squeeze(0)
        return distance.argsort(stable=True)[: NEIGHBOURS + 1]

    @torch.no_grad()
    def between(self, first: int, second: int) -> Tensor:
        """Means decoded along the line between the codes of two examples, (STEPS, ...).

        Raises:
            ValueError: no example of that number.
        """
        for number in (first, second):
            if not 0 <= number < len(self.x):
                raise ValueError(
                    f"There is no example {number}: they go from 0 to {len(self.x) - 1}."
                )
        pair = self.x[[first, second]].flatten(1)
        return self._line(self.model.code(self.model.likelihood.observe(pair))[0])

    @torch.no_grad()
    def inside(self, component: int, seed: int) -> Tensor:
        """Means decoded along the line between two draws from a component, (STEPS, ...)."""
        drawn = torch.full((2,), component)
        return self._line(self.model.draw(drawn, torch_stream(0, "pictures", seed)))

    def _line(self, ends: Sequence[Tensor]) -> Tensor:
        """Means (STEPS, ...) decoded along the line between two latent values, (2, _) each."""
        t = torch.linspace(0, 1, STEPS).unsqueeze(1)
        latent = [(1 - t) * end[:1] + t * end[1:] for end in ends]
        return self.model.likelihood.mean(self.model.decode(*latent)).unflatten(
            -1, self.model.shape
        )

    def map(self, chosen: Tensor | None = None) -> np.ndarray:
        """The codes in two dimensions as a picture (height, width, 3).

        With a ring where an example ``chosen`` (1, ...) is, on the edge if it is beyond.
        """
        if chosen is None:
            return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
        axes = self._map.axes[0]
        column, row = self._on_map(chosen)
        column, row = np.clip(column, *axes.get_xlim()), np.clip(row, *axes.get_ylim())
        ring = axes.scatter(column, row, s=160, facecolors="none", edgecolors="black", linewidths=2)
        self._canvas.draw()
        picture = self.map()
        ring.remove()
        self._canvas.draw()
        return picture

    def _on_map(self, x: Tensor) -> np.ndarray:
        """Where an example (1, ...) is on the map (2), whose axes are linear in the codes."""
        codes, offsets = self.codes.numpy(), self._map.axes[0].collections[0].get_offsets()
        centre, middle = codes.mean(0), np.asarray(offsets).mean(0)
        axes = np.linalg.lstsq(codes - centre, np.asarray(offsets) - middle, rcond=None)[0]
        return (self.model.embed(x).numpy()[0] - centre) @ axes + middle

    def at(self, column: int, row: int) -> int:
        """The example nearest to a pixel of the map."""
        return int(((self.places - [column, row]) ** 2).sum(1).argmin())

    def rename(self, names: Sequence[str]) -> None:
        """Names the components, and keeps the names; those of the same name count as one.

        Raises:
            ValueError: not one name for each component, or a text that cannot be one; or another
                process writes to the run, as a fit does.
        """
        if len(names) != self.model.n_components:
            raise ValueError(
                f"There are {self.model.n_components} components: give each of them a name."
            )
        after = renamed(self.names, dict(enumerate(names)))
        with self.folder.writing():
            if _stamp(self.folder) != self._weights:
                raise ValueError(
                    "The run was written anew since this page was opened, and its components are "
                    "others now: start `cpvae app` again."
                )
            write_names(self.folder, after)
        self.names = after
        self._segments.clear()  # which know the names

    def rename_by_number(self, components: Sequence[Any], names: Sequence[str]) -> None:
        """Names components by their numbers, which may come as text and in any order.

        Raises:
            ValueError: not each component once, or a text that cannot be a name.
        """
        try:
            numbers = [int(float(component)) for component in components]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{list(components)} are no numbers of components.") from error
        if sorted(numbers) != list(range(self.model.n_components)):
            raise ValueError(
                f"There are {self.model.n_components} components: give each of them one name."
            )
        named = dict(zip(numbers, names, strict=True))
        self.rename([named[number] for number in range(len(numbers))])

    def label(self, x: Tensor) -> dict[str, np.ndarray]:
        """The component of each example (n, ...), its name if any has one, and the probability."""
        return labelled(cluster_probs(self.model, x).numpy(), self.names)

    def sheet(self, x: Tensor, drawn: bool = True) -> Any:
        """Examples (n, ...) as one picture, or of a table as a frame.

        ``drawn`` says whether they are like the data, and not means, see `Schema.decode`.
        """
        if not self.is_image:
            import pandas

            frame = pandas.DataFrame(self.schema.decode(x.double().numpy(), drawn))
            return frame.map(_for_people)
        images = figures.displayable(x.numpy(), self.x.numpy())
        return figures.enlarge(figures.image_grid(images, STEPS // 2, gap=2, fill=1.0))


def _for_people(cell: Any) -> Any:
    """A number with four digits; of a large one those before the point."""
    if not isinstance(cell, float) or not np.isfinite(cell):
        return cell
    return float(round(cell)) if abs(cell) >= 1000 else float(f"{cell:.4g}")


def _stamp(folder: RunFolder) -> tuple[int, ...] | None:
    """What tells the weights of a run from others that take their place, None without any."""
    try:
        found = (folder.path / MODEL).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _canvas(figure: Any) -> tuple[Any, np.ndarray]:
    """A figure drawn, and the pixels of the points of its first scatter, (n, 2): column, row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    axes.set_autoscale_on(False)  # a ring must not move what is there
    figure.set_layout_engine("none")
    places = axes.transData.transform(axes.collections[0].get_offsets())
    places[:, 1] = canvas.get_width_height()[1] - places[:, 1]
    return canvas, places

"""What the explorer of a run knows and does, without the page that shows it (see `app`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpvae import output
from cpvae.checkpoint import MODEL
from cpvae.data.schema import Schema
from cpvae.lock import Lock
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.report import figures
from cpvae.stored import check, parsed
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
        names_path: JSON file that keeps the names of the components; need not exist yet
    """

    def __init__(self, model: Model, x: Tensor | None, schema: Schema, names_path: Path):
        self.model, self.schema, self.names_path = model, schema, names_path
        self.generated = x is None
        self.x = model.sample(600, from_="aggregated")[0] if x is None else x[:MOST]
        self.is_image = schema.is_image
        self.probs = cluster_probs(model, self.x)
        self.codes = torch.cat([model.embed(part) for part in self.x.split(model.rows_at_once())])
        stored = {}
        if names_path.is_file():
            stored = _read_names(names_path)
        self.names = [stored.get(str(k), str(k)) for k in range(model.n_components)]
        self._weights = _stamp(names_path)
        self._map = figures.codes_map(model, self.x)
        self._canvas, self.places = _canvas(self._map)

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

    def map(self, chosen: int | None = None) -> np.ndarray:
        """The codes in two dimensions as a picture (height, width, 3), with a ring around one."""
        if chosen is None:
            return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
        axes = self._map.axes[0]
        column, row = np.asarray(axes.collections[0].get_offsets())[chosen]
        ring = axes.scatter(column, row, s=160, facecolors="none", edgecolors="black", linewidths=2)
        self._canvas.draw()
        picture = self.map()
        ring.remove()
        self._canvas.draw()
        return picture

    def at(self, column: int, row: int) -> int:
        """The example nearest to a pixel of the map."""
        return int(((self.places - [column, row]) ** 2).sum(1).argmin())

    def rename(self, names: Sequence[str]) -> None:
        """Names the components, and keeps the names; those of the same name count as one.

        Raises:
            ValueError: not one name for each component, or an empty name; or another process
                writes to the run, as a fit does.
        """
        names = [str(name).strip() for name in names]
        if len(names) != self.model.n_components or not all(names):
            raise ValueError(
                f"There are {self.model.n_components} components: give each of them a name."
            )
        with Lock(self.names_path.parent):
            if _stamp(self.names_path) != self._weights:
                raise ValueError(
                    "The run was written anew since this page was opened, and its components are "
                    "others now: start `cpvae app` again."
                )
            output.write_json(self.names_path, {str(k): name for k, name in enumerate(names)})
        self.names = names

    def rename_by_number(self, components: Sequence[Any], names: Sequence[str]) -> None:
        """Names components by their numbers, which may come as text and in any order.

        Raises:
            ValueError: not each component once, or an empty name.
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
        """The component of each example (n, ...), its name, and the probability of that name.

        Components of the same name are added up.
        """
        probs = cluster_probs(self.model, x)
        named = list(dict.fromkeys(self.names))
        together = torch.stack(
            [probs[:, [n == name for n in self.names]].sum(1) for name in named], dim=1
        )
        best = together.argmax(1).numpy()
        return {
            "component": probs.argmax(1).numpy(),
            "name": np.array(named)[best],
            "probability": together.max(1).values.numpy(),
        }

    def sheet(self, x: Tensor, drawn: bool = True) -> Any:
        """Examples (n, ...) as one picture, or of a table as a frame.

        ``drawn`` says whether they are like the data, and not means, see `Schema.decode`.
        """
        if not self.is_image:
            import pandas

            frame = pandas.DataFrame(self.schema.decode(x.double().numpy(), drawn))
            return frame.map(lambda cell: float(f"{cell:.5g}") if isinstance(cell, float) else cell)
        images = figures.displayable(x.numpy(), self.x.numpy())
        return figures.enlarge(figures.image_grid(images, STEPS // 2, gap=2, fill=1.0))


def _stamp(names: Path) -> tuple[int, ...] | None:
    """What tells the weights of a run from others that take their place, None without any."""
    try:
        found = names.with_name(MODEL).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_names(file: Path) -> dict[str, str]:
    try:
        names = parsed(file.read_text(encoding="utf-8"))
        check(names, {str: str}, "it")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): restore or delete it.") from error
    return names


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

"""Figures 5 to 9: what the models of Table 1 reconstruct and generate.

The images of each trained model are kept in a small .npz file beside its result, and the figures
are drawn from those files alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cpvae import output
from cpvae.models.base import Model
from cpvae.report.figures import image_grid, show

MIXTURES = ("cpvae", "mog", "vamp", "hvamp")
GENERATED, RECONSTRUCTED, COMPONENTS, EACH = 64, 30, 10, 20


def draw(model: Model, x: Tensor, file: Path) -> None:
    """Writes images of a model, means of p(x | z, c), in 256 levels of grey.

    ``generated`` (64, h, w); ``real`` and ``reconstructed`` (30, h, w), the first test images;
    where there are at most 10 components, ``by_component`` (k, 20, h, w).
    """
    generator = torch.Generator(x.device).manual_seed(0)
    real = x[:RECONSTRUCTED]
    images = {
        "generated": model.sample(GENERATED, generator=generator, mean=True)[0],
        "real": real,
        "reconstructed": model.reconstruct(real),
    }
    if model.n_components <= COMPONENTS:
        images["by_component"] = torch.stack(
            [
                model.sample(EACH, k, generator=generator, mean=True)[0]
                for k in range(model.n_components)
            ]
        )
    arrays: dict[str, Any] = {k: _levels(value.squeeze(-3)) for k, value in images.items()}
    output.write(file, lambda aside: np.savez_compressed(aside, **arrays))


def _levels(x: Tensor) -> np.ndarray:
    return (255 * x.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()


def read(results: Path, stem: str) -> dict[str, np.ndarray] | None:
    """The images of the first seed of a cell that has some, or None."""
    for file in sorted(results.glob(f"{stem}-s*.npz")):
        with np.load(file, allow_pickle=False) as images:
            return {key: images[key] for key in images.files}
    return None


def all_figures(results: Path) -> Iterator[tuple[str, Figure | None, list[str]]]:
    """Each figure by name, and the cells whose images are missing; None if it cannot do without.

    Figures 8 and 9 are drawn from the cells that are there.
    """
    for dataset in ("mnist", "omniglot"):
        needed = [f"{dataset}-cpvae-k1", f"{dataset}-vae-k1"]
        missing = _missing(results, needed)
        figure = None if missing else one_component(results, dataset)
        yield f"figures5-6-{dataset}", figure, missing
    missing = _missing(results, ["mnist-cpvae-k10"])
    yield "figure7", None if missing else each_component(results), missing
    for number, dataset, ks in ((8, "mnist", (10, 150, 500)), (9, "omniglot", (50, 500))):
        needed = [f"{dataset}-{model}-k{k}" for model in MIXTURES for k in ks]
        missing = _missing(results, [*needed, f"{dataset}-vae-k1", f"{dataset}-hvae-k1"])
        found = len(missing) < len(needed) + 2
        figure = by_components(results, dataset, ks) if found else None
        yield f"figure{number}-{dataset}", figure, missing


def _missing(results: Path, stems: list[str]) -> list[str]:
    return [stem for stem in stems if read(results, stem) is None]


def one_component(results: Path, dataset: str) -> Figure:
    """Figures 5 and 6: CP-VAE with one component, whose prior is learned, beside the plain VAE."""
    learned, fixed = (read(results, f"{dataset}-{model}-k1") for model in ("cpvae", "vae"))
    assert learned is not None  # the caller has looked
    assert fixed is not None
    panels = {
        "real": learned["real"],
        "reconstructed, learned prior (CP, K=1)": learned["reconstructed"],
        "reconstructed, N(0, I) (VAE)": fixed["reconstructed"],
        "generated, learned prior (CP, K=1)": learned["generated"][:60],
        "generated, N(0, I) (VAE)": fixed["generated"][:60],
    }
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    layout: Any = [["real"] * 2, list(panels)[1:3], list(panels)[3:]]
    axes = figure.subplot_mosaic(layout, height_ratios=[1, 2, 4])
    for title, images in panels.items():
        _grid(axes[title], images, 30 if title == "real" else 15, title)
    return figure


def each_component(results: Path, stem: str = "mnist-cpvae-k10") -> Figure:
    """Figure 7: new images of each component, a panel each."""
    images = read(results, stem)
    assert images is not None  # the caller has looked
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(2, 5).ravel()
    for k, (axes, drawn) in enumerate(zip(panels, images["by_component"], strict=True)):
        _grid(axes, drawn, 5, f"component {k}")
    return figure


def by_components(results: Path, dataset: str, ks: Sequence[int]) -> Figure:
    """Figures 8 and 9: what each model generates with a growing number of components.

    A row for each model that has images, and the last one for the two models without a mixture.
    """
    rows = [[(model, k) for k in ks] for model in MIXTURES] + [[("vae", 1), ("hvae", 1)]]
    drawn = [
        [(model, k, read(results, f"{dataset}-{model}-k{k}")) for model, k in row] for row in rows
    ]
    drawn = [row for row in drawn if any(images for *_, images in row)]
    figure = Figure(figsize=(3 * len(ks), 3.12 * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), len(ks), squeeze=False)
    for axes in grid.ravel():
        axes.set_visible(False)
    for across, row in zip(grid, drawn, strict=True):
        for axes, (model, k, images) in zip(across, row, strict=False):
            if images:
                axes.set_visible(True)
                _grid(axes, images["generated"], 8, model if k == 1 else f"{model}, K={k}")
    return figure


def _grid(axes: Any, images: np.ndarray, columns: int, title: str) -> None:
    show(axes, image_grid(images[:, np.newaxis] / 255, columns))
    axes.set_title(title, fontsize=10)

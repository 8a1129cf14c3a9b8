"""Table 1: the six systems on MNIST and Omniglot with a growing number of components.

One recipe for all, the paper's (section 5.2): Adam with 5e-4, batches of 100, two gated layers of
300, a 40-dimensional z, the weight of KL(z) from 0 to 1 over 100 epochs, early stopping. The paper
does not give the number of epochs, the patience and the temperature; those in `RECIPE` are ours.
KL(c) has its full weight from the beginning: with a warm-up all examples end in one category. A
second recipe, for CP-VAE alone and in a table of its own, has pretraining, and communities of codes
as initial clusters.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cpvae.data import Splits, load
from cpvae.experiments import pictures
from cpvae.experiments.cells import generated, run_cell
from cpvae.models.base import Model
from cpvae.report.figures import BLUE, GREY, ORANGE, plain
from cpvae.training.diagnosis import Record
from cpvae.training.recipe import Recipe

RECIPE = Recipe(
    max_epochs=600,
    batch_size=100,
    learning_rate=5e-4,
    expectation="relaxed",
    anneal_epochs=100,
    kl_z_start=0.0,
    kl_c_start=1.0,
    averaging=20,
    patience=50,
)
STARTED = dataclasses.replace(RECIPE, pretraining_epochs=50)  # of `--started`
IMPORTANCE_SAMPLES = 5000


class Cell(NamedTuple):
    """One cell, and the negative bound in nats that the paper prints there, if it does."""

    dataset: str
    model: str
    components: int
    paper: float | None

    @property
    def stem(self) -> str:
        """Name of its files without the seed."""
        return f"{self.dataset}-{self.model}-k{self.components}"


CELLS = [
    Cell("mnist", "cpvae", 10, 84.76),
    Cell("mnist", "vae", 1, 88.75),
    Cell("mnist", "vamp", 500, 86.07),
    Cell("mnist", "hvae", 1, 86.7),
    Cell("mnist", "cpvae", 150, 86.84),
    Cell("mnist", "cpvae", 500, 88.63),
    Cell("mnist", "mog", 10, 89.43),
    Cell("mnist", "mog", 150, 88.96),
    Cell("mnist", "mog", 500, 88.85),
    Cell("mnist", "vamp", 10, 87.94),
    Cell("mnist", "vamp", 150, 86.55),
    Cell("mnist", "hvamp", 10, 85.90),
    Cell("mnist", "hvamp", 150, 85.09),
    Cell("mnist", "hvamp", 500, 85.01),
    Cell("omniglot", "cpvae", 50, 114.31),
    Cell("omniglot", "cpvae", 500, 114.14),
    Cell("omniglot", "vae", 1, 115.06),
    Cell("omniglot", "mog", 50, 116.31),
    Cell("omniglot", "mog", 500, 116.12),
    Cell("omniglot", "vamp", 50, 114.01),
    Cell("omniglot", "vamp", 500, 113.74),
    Cell("omniglot", "hvae", 1, 110.81),
    Cell("omniglot", "hvamp", 50, 110.50),
    Cell("omniglot", "hvamp", 500, 110.16),
]
STARTED_CELLS = [cell for cell in CELLS if cell.model == "cpvae"]  # in a table of their own
ONE_CATEGORY = [Cell("mnist", "cpvae", 1, None), Cell("omniglot", "cpvae", 1, None)]  # figs. 5, 6


def run_named(
    cell: Cell,
    seeds: Sequence[int],
    results: Path,
    accelerator: str,
    runs: Path | None,
    recipe: Recipe,
) -> list[Path]:
    """As `run`, which it gives the cell's data."""
    return run(cell, seeds, load(cell.dataset), results, accelerator, None, runs, recipe)


def run(
    cell: Cell,
    seeds: Sequence[int],
    splits: Splits,
    results: Path,
    accelerator: str = "auto",
    on_epoch: Callable[[int, Record], None] | None = None,
    runs: Path | None = None,
    recipe: Recipe = RECIPE,
) -> list[Path]:
    """Trains and measures the seeds of a cell that have no file in ``results`` yet.

    Beside the JSON file of the first seed lies an .npz file with what the model generates and
    reconstructs, see `pictures.draw`; ``runs`` as for `cells.run_cell`.
    """
    shape, k = list(splits.shape), cell.components
    config: dict[str, Any] = {"model": cell.model, "shape": shape, "n_components": k}

    def also(model: Model, file: Path) -> dict[str, Any]:
        x = splits.test.tensor().to(model.aggregated.device)
        if not list(results.glob(f"{cell.stem}-s*.npz")):
            pictures.draw(model, x, file.with_suffix(".npz"))
        return {"generation": generated(model, splits, accelerator)}

    facts = {
        "dataset": cell.dataset,
        "model": cell.model,
        "components": cell.components,
        "paper_elbo_relaxed_nats": -cell.paper if cell.paper else None,
    }
    return run_cell(
        lambda seed: results / f"{cell.stem}-s{seed}.json",
        facts,
        config,
        recipe,
        seeds,
        splits,
        IMPORTANCE_SAMPLES,
        accelerator=accelerator,
        on_epoch=on_epoch,
        runs=runs,
        also=also,
    )


def table(results: Sequence[dict[str, Any]], cells: Sequence[Cell] = CELLS + ONE_CATEGORY) -> str:
    """The table in Markdown, negative values in nats as the paper prints them, means over seeds."""
    lines = [
        "| data | model | K | paper | relaxed | bound | log p(x) | epochs | minutes | seeds | in |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        mine = of(cell, results)
        paper = "" if cell.paper is None else f"{cell.paper:.2f}"
        row = [cell.dataset, cell.model, str(cell.components), paper]
        if mine:
            for key in ("elbo_relaxed_nats", "elbo_nats", "log_likelihood_nats"):
                row.append(_spread([-result[key] for result in mine]))
            row.append(f"{np.mean([result['epochs'] for result in mine]):.0f}")
            precisions = sorted({_precision(result) for result in mine})
            minutes = [[r["minutes"] for r in mine if _precision(r) == p] for p in precisions]
            row.append(", ".join(f"{np.mean(taken):.0f}" for taken in minutes))
            row += [str(len(mine)), ", ".join(precisions)]
        else:
            row += ["not run", "", "", "", "", "0", ""]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def generation(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How good the generated images of each cell are: a row a cell, means over seeds.

    For the columns see `generation.quality`.
    """
    columns = {
        "density": "density",
        "coverage": "coverage",
        "Frechet": "frechet_distance",
        "class shares off": "class_share_distance",
        "component in one class": "component_agreement",
    }
    rows = []
    for cell in CELLS + ONE_CATEGORY:
        mine = [result["generation"] for result in of(cell, results)]
        if mine:
            row: dict[str, Any] = dict(zip(("data", "model", "K"), cell, strict=False))
            for column, key in columns.items():
                row[column] = float(np.mean([g[key] for g in mine])) if key in mine[0] else ""
            rows.append(row)
    return rows


def of(cell: Cell, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of a cell."""
    key = (cell.dataset, cell.model, cell.components)
    return [r for r in results if (r["dataset"], r["model"], r["components"]) == key]


def _precision(result: dict[str, Any]) -> str:
    """Of matrix products in training; on a CUDA device float32 ones are taken in TensorFloat-32."""
    on_gpu = result["versions"]["processor"].startswith("NVIDIA")
    precision = result["recipe"].get("precision", "float32")
    return "TF32" if on_gpu and precision == "float32" else precision


def _spread(values: Sequence[float]) -> str:
    """The mean, and with several seeds half of their range."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.2f}"


def relaxed_figure(results: Sequence[dict[str, Any]]) -> Figure:
    """The relaxed value, the bound and the likelihood of each cell, beside the paper's value."""
    found = [cell for cell in CELLS if of(cell, results)]
    datasets = [d for d in ("mnist", "omniglot") if any(cell.dataset == d for cell in found)]
    heights = [sum(cell.dataset == d for cell in found) for d in datasets]
    figure = Figure(figsize=(9, 0.33 * len(found) + 1.6), layout="constrained")
    grid = figure.subplots(len(datasets), 1, squeeze=False, height_ratios=heights)[:, 0]
    marks = {
        "log_likelihood_nats": ("|", "log p(x), 5000 samples", GREY),
        "elbo_nats": ("o", "bound, one-hot c", BLUE),
        "elbo_relaxed_nats": ("x", "relaxed value", ORANGE),
    }
    for axes, dataset in zip(grid, datasets, strict=True):
        cells = [cell for cell in found if cell.dataset == dataset][::-1]
        for y, cell in enumerate(cells):
            for key, (mark, label, colour) in marks.items():
                values = [-result[key] for result in of(cell, results)]
                first = {"label": label} if y == 0 else {}
                axes.scatter(values, [y] * len(values), marker=mark, color=colour, s=40, **first)
            first = {"label": "the paper"} if y == 0 else {}
            axes.scatter([cell.paper], [y], marker="d", s=36, fc="none", ec="black", **first)
        axes.set_yticks(range(len(cells)), [f"{c.model}, K={c.components}" for c in cells])
        axes.set_ylim(-0.6, len(cells) - 0.4)
        axes.set_xlabel(f"{dataset}: negative value on the test data, nats")
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        plain(axes)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure

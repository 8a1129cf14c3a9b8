"""How well categories agree with classes, as a distribution over seeds; nothing is chosen by label.

Each objective is a name and a recipe; `run` trains seeds that have no file yet.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cpvae import augment, defaults
from cpvae.data import Splits
from cpvae.models import Model
from cpvae.paper.cells import generated, run_cell
from cpvae.train import Record

OBJECTIVES: dict[str, dict[str, Any]] = {
    "affine": {"invariance": 2.0},
    "plain": {},
}


def run(
    dataset: str,
    objective: str,
    n_components: int,
    seeds: Sequence[int],
    splits: Splits,
    results: Path,
    accelerator: str = "auto",
    on_epoch: Callable[[int, Record], None] | None = None,
    runs: Path | None = None,
    **given: Any,
) -> list[Path]:
    """Trains and measures the seeds of an objective; ``given`` overrides its recipe.

    Images are generated too, and judged by a classifier; ``runs`` as for `cells.run_cell`.
    """
    x = splits.train.x
    config = defaults.model_config(x, splits.columns, n_components=n_components)
    recipe = defaults.recipe(len(x), config, accelerator, **{**OBJECTIVES[objective], **given})
    stem = f"{dataset}-{objective}-k{n_components}"
    facts = {"dataset": dataset, "objective": objective, "components": n_components}

    def also(model: Model, file: Path) -> dict[str, Any]:
        return {"generation": generated(model, splits, accelerator)}

    return run_cell(
        lambda seed: results / f"{stem}-s{seed}.json",
        facts,
        config,
        recipe,
        seeds,
        splits,
        500,
        augment=augment.named("affine", config["shape"]) if recipe.invariance else None,
        accelerator=accelerator,
        on_epoch=on_epoch,
        runs=runs,
        also=also if len(splits.shape) == 3 else None,
    )


FIGURES = ("accuracy", "purity", "nmi", "ari", "elbo_nats", "minutes")


def rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every seed as a row, and the median of each figure."""
    each = [{"seed": r["seed"], **{key: r[key] for key in FIGURES}} for r in results]
    each.sort(key=lambda row: row["seed"])
    median = {key: statistics.median(row[key] for row in each) for key in FIGURES}
    return [*each, {"seed": "median", **median}]
